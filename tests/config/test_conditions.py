# ruff: noqa: E501  # a table reads best with a case a line
"""When a policy applies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.config import Conditions, bucket, globs
from proxy.config.conditions import Facts, time_predicate
from proxy.config.policies import Envelope

# 2026-11-23 is a Monday.
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Given:
    """Facts of a usual request."""

    team: str | None = "support"
    project: str | None = None
    key: str | None = "k1"
    tags: dict[str, str] = field(default_factory=lambda: {"env": "prod"})
    model: str | None = "gpt-4o-mini"
    served_model: str | None = None
    endpoint: str = "chat.completions"
    tools: bool = False
    stream: bool = True
    size_bytes: int = 20 * 1024
    tokens: int = 5000
    language: str | None = "de"
    time: Callable[[], datetime] = lambda: NOON


def holds(facts: Facts | None = None, **conditions: Any) -> bool:
    predicate = Conditions.model_validate(conditions).compile()
    assert predicate is not None
    return predicate(facts or Given())


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"team": "support"}, True),
        ({"team": ["docs", "support"]}, True),
        ({"team": "docs"}, False),
        ({"team": "Support"}, False),
        ({"team": "sup*"}, True),
        ({"project": "*"}, False),
        ({"key": "k?"}, True),
        ({"model": ["claude-*", "gpt-4*mini"]}, True),
        ({"model": "gpt-[56]*"}, False),
        ({"served_model": "*"}, False),
        ({"endpoint": "chat.*"}, True),
        ({"tag": "env=prod"}, True),
        ({"tag": ["env=dev", "env=p*"]}, True),
        ({"tag": "cost=*"}, False),
        ({"tag": {"env": ["dev", "prod"]}}, True),
        ({"tools": False}, True),
        ({"tools": True}, False),
        ({"stream": True, "team": "support", "model": "gpt-*"}, True),
        ({"stream": True, "team": "support", "model": "claude-*"}, False),
        ({"size": "> 20 KiB"}, False),
        ({"size": ">= 20 KiB"}, True),
        ({"size": "< 20481"}, True),
        ({"size": "4 KiB - 20 KiB"}, True),
        ({"size": ["> 1 MiB", "<= 20 KiB"]}, True),
        ({"tokens": "> 5k"}, False),
        ({"tokens": ">= 5k"}, True),
        ({"tokens": ["< 100", "4.5k - 0.1M"]}, True),
        ({"language": ["fr", "de"]}, True),
        ({"language": "fr"}, False),
        ({"time": "09:00-17:00"}, True),
        ({"time": ["22:00-06:00", "sat-sun"]}, False),
    ],
)
def test_conditions(conditions: dict[str, Any], expected: bool) -> None:
    """All conditions must hold, each by one of its values."""
    assert holds(**conditions) is expected


def test_nothing_asked() -> None:
    """No conditions compile to nothing at all."""
    assert Conditions().compile() is None
    assert Envelope(use="x").applies() is None


@pytest.mark.parametrize(
    ("envelope", "expected"),
    [
        ({"unless": {"team": "support"}}, False),
        ({"unless": {"team": "support", "stream": False}}, True),
        ({"match": {"team": "support"}, "unless": {"model": "gpt-*"}}, False),
        ({"match": {"team": "support"}, "unless": {"project": "*"}}, True),
    ],
)
def test_unless(envelope: dict[str, Any], expected: bool) -> None:
    """`unless` takes away only what is all of it."""
    applies = Envelope.model_validate({"use": "x", **envelope}).applies()
    assert applies is not None
    assert applies(Given()) is expected


@pytest.mark.parametrize(
    ("hours", "moment", "expected"),
    [
        ("22:00-06:00", (23, 23, 0), True),
        ("22:00-06:00", (24, 5, 59), True),
        ("22:00-06:00", (24, 6, 0), False),
        ("mon-fri 09:00-17:00", (23, 9, 0), True),
        ("mon-fri 09:00-17:00", (23, 17, 0), False),
        ("mon-fri 09:00-17:00", (28, 12, 0), False),
        ("fri 22:00-06:00", (28, 3, 0), True),
        ("fri 22:00-06:00", (27, 3, 0), False),
        ("fri-mon", (23, 0, 0), True),
        ("fri-mon", (24, 0, 0), False),
        ("00:00-24:00", (23, 23, 59), True),
    ],
)
def test_hours(hours: str, moment: tuple[int, int, int], expected: bool) -> None:
    """Hours end before their end, and over midnight belong to the day on which they began."""
    day, hour, minute = moment
    assert time_predicate(hours)(datetime(2026, 11, day, hour, minute)) is expected


def test_the_files_zone() -> None:
    """Hours are those of the file's zone, summer time included."""
    night = Conditions(time=("22:00-23:00",)).compile(ZoneInfo("Europe/Berlin"))
    assert night is not None
    assert night(Given(time=lambda: datetime(2026, 7, 1, 20, 30, tzinfo=UTC)))
    assert not night(Given(time=lambda: datetime(2026, 12, 1, 20, 30, tzinfo=UTC)))


@pytest.mark.parametrize(
    ("conditions", "message", "hint"),
    [
        ({"size": "20 KiB"}, "expected a comparison such as > 20 KiB or 4 KiB - 20 KiB, found '20 KiB'",
         "write > 20 KiB, or < 20 KiB"),
        ({"size": "20 KiB - 4 KiB"}, "'20 KiB - 4 KiB' never holds", "write 4 KiB - 20 KiB"),
        ({"size": "> 20 kb"}, "'kb' is no unit of size", "write 20 KB"),
        ({"time": "22-6"}, "expected hours such as 22:00-06:00 or mon-fri 09:00-17:00, found '22-6'", ""),
        ({"time": "mo-fri 09:00-17:00"}, "expected hours such as 22:00-06:00 or mon-fri 09:00-17:00, found 'mo-fri 09:00-17:00'", ""),
        ({"time": "mom 09:00-17:00"}, "'mom' is no day", "did you mean mon?"),
        ({"time": "25:00-26:00"}, "25:00 is no time of day", ""),
        ({"tokens": "> 4 KiB"}, "'4 KiB' is no number of tokens", "write 2000, 100k or 1M"),
        ({"tokens": "100k"}, "expected a comparison such as > 100k or 4k - 32k, found '100k'", "write > 100k, or < 100k"),
        ({"language": "german"}, "'german' is no language", "did you mean de?"),
        ({"time": "06:00-06:00"}, "'06:00-06:00' never holds", "the end is excluded; write 00:00-24:00 for the whole day"),
        ({"tag": "env"}, "expected a tag such as env=prod, found 'env'", "write env=* for any value"),
        ({"team": []}, "an empty list never matches", "name something, or leave the key out"),
    ],
)  # fmt: skip
def test_conditions_that_say_nothing(conditions: dict[str, Any], message: str, hint: str) -> None:
    """A condition that can't be read, or never holds, is refused with what would be right."""
    with pytest.raises(ValidationError) as caught:
        Conditions.model_validate(conditions)
    details = caught.value.errors()[0]["ctx"]
    assert (details["message"], details["hint"]) == (message, hint)


@given(st.text(), st.text(), st.text())
def test_draws_are_stable(key: str, salt: str, other: str) -> None:
    """A draw lies in [0, 1), is the same each time, and moves with its salt."""
    assert 0 <= bucket(key, salt) < 1
    assert bucket(key, salt) == bucket(key, salt)
    assert salt == other or bucket(key, salt) != bucket(key, other)


def test_draws_are_even() -> None:
    """Of 10,000 keys about a tenth fall below 0.1; this draw is fixed, so the test can't waver."""
    below = sum(bucket(f"key-{number}", "rollout:cache") < 0.1 for number in range(10_000))
    assert 900 < below < 1100
    assert (
        bucket("key-1", "rollout:cache") == 0.5172813006150322
    )  # the same in every release: groups must not be drawn anew


def test_a_growing_rollout_keeps_its_keys() -> None:
    """Whoever is in at 10% is in at 50%, and the control group stays out throughout."""
    keys = [f"key-{number}" for number in range(2000)]
    small = Envelope.model_validate({"use": "cache", "name": "c", "rollout": "10%", "holdout": "5%"})
    large = Envelope.model_validate({"use": "cache", "name": "c", "rollout": "50%", "holdout": "5%"})
    assert {key for key in keys if small.arm(key) == "in"} < {key for key in keys if large.arm(key) == "in"}
    held = {key for key in keys if small.arm(key) == "holdout"}
    assert held and held == {key for key in keys if large.arm(key) == "holdout"}


@given(st.lists(st.text("ab*?", max_size=4), min_size=1, max_size=4), st.text("ab", max_size=5))
def test_globs_agree_with_the_obvious(patterns: list[str], value: str) -> None:
    """Compiled patterns match what a plain recursive reading of `*` and `?` matches."""

    def obvious(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return obvious(pattern[1:], text) or (bool(text) and obvious(pattern, text[1:]))
        return bool(text) and pattern[0] in ("?", text[0]) and obvious(pattern[1:], text[1:])

    assert globs(patterns)(value) is any(obvious(pattern, value) for pattern in patterns)
    assert globs(patterns)(None) is False
