"""What happened to an exchange, told from its records."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.why import belongs, dollars, render, why

RESERVED: dict[str, Any] = {
    "event": "reserved",
    "at": 1_893_585_600_000_000_000,
    "exchange": "x1",
    "worker": 2,
    "attempt": 1,
    "tenant": "acme",
    "key": "key_1",
    "team": "search",
    "tags": {"app": "bot"},
    "endpoint": "chat.completions",
    "asked": "gpt-5",
    "model": "gpt-5-mini",
    "deployment": "openai/gpt-5-mini",
    "upstream": "openai",
    "estimate": {"input_tokens": 10, "output_cap": 100, "nanodollars": 900},
}
SETTLED: dict[str, Any] = {
    "event": "settled",
    "exchange": "x1",
    "attempt": 1,
    "outcome": "complete",
    "status": 200,
    "served": "gpt-5-mini-2030",
    "tokens": {"input_tokens": 12, "output_tokens": 34},
    "nanodollars": 1_230_000,
    "known": "observed",
    "ttft_ns": 150_000_000,
    "total_ns": 900_000_000,
}
ENDED: dict[str, Any] = {
    "event": "ended",
    "exchange": "x1",
    "tenant": "acme",
    "status": 200,
    "outcome": "complete",
    "total_ns": 910_000_000,
    "nanodollars": 1_230_000,
    "policies_hash": "p1",
    "decisions": [{"policy": "cascade", "source": "policies.yaml:12", "action": "small", "confidence": 0.9}],
}


def test_a_whole_exchange() -> None:
    """Identity from the first record, attempts from pairs, decisions and total from the last."""
    told = why([RESERVED, SETTLED, ENDED])
    assert (told["exchange"], told["state"], told["outcome"], told["asked"]) == ("x1", "ended", "complete", "gpt-5")
    assert (told["nanodollars"], told["dollars"], told["total_ms"]) == (1_230_000, "0.00123", 910.0)
    assert (told["team"], told["key"], told["tags"]) == ("search", "key_1", {"app": "bot"})
    assert told["at"] == "2030-01-02T12:00:00.000Z"
    (attempt,) = told["attempts"]
    assert (attempt["served"], attempt["state"], attempt["ttft_ms"]) == ("gpt-5-mini-2030", "settled", 150.0)
    assert told["decisions"] == ENDED["decisions"]


def test_what_is_not_known_is_null() -> None:
    """A running exchange, or one whose worker was killed: no cost, no end, and never 0."""
    told = why([RESERVED])
    assert (told["state"], told["outcome"], told["nanodollars"], told["dollars"]) == ("running", None, None, None)
    assert told["attempts"][0]["state"] == "unsettled"
    assert "not settled" in render(told)
    assert "cost unknown" in render(told)


def test_a_failed_attempt_before_a_good_one() -> None:
    """Each attempt is told with its own fault; without an `ended` record the sum is theirs."""
    failed = {**SETTLED, "outcome": "failed", "status": None, "nanodollars": 0, "error": "connect_timeout"}
    told = why([RESERVED, failed, {**RESERVED, "attempt": 2}, {**SETTLED, "attempt": 2}])
    assert [attempt["error"] for attempt in told["attempts"]] == ["connect_timeout", None]
    assert told["nanodollars"] == 1_230_000


def test_an_exchange_that_needed_no_upstream() -> None:
    """Refused or answered by a policy: one record is enough."""
    told = why([{**ENDED, "status": 403, "nanodollars": 0, "endpoint": "files"}])
    assert told["attempts"] == []
    assert "no upstream was called" in render(told)
    assert "403" in render(told)


def test_for_people() -> None:
    """Every policy with its file and line, every attempt with its tokens, cost and times."""
    text = render(why([RESERVED, SETTLED, ENDED]))
    assert "policy cascade: small confidence=0.9  (policies.yaml:12)" in text
    assert "12 in, 34 out" in text
    assert "$0.00123 observed" in text
    assert "first token 150 ms, total 900 ms" in text


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([RESERVED, SETTLED, ENDED], True),
        ([SETTLED], False),
        ([], False),
        ([RESERVED, {**ENDED, "tenant": "other"}], False),
    ],
)
def test_belonging_to_a_tenant(records: list[dict[str, Any]], expected: bool) -> None:
    """All records that name a tenant must name this one, and one must."""
    assert belongs(records, "acme") is expected


@pytest.mark.parametrize(
    ("nanodollars", "text"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (1_500_000_000, "1.50"),
        (123_456_789_012, "123.456789012"),
        (-5, "-0.000000005"),
        (None, None),
    ],
)
def test_dollars_are_exact(nanodollars: int | None, text: str | None) -> None:
    """No float on the way."""
    assert dollars(nanodollars) == text
