"""The lines of `weir journal tail`: one for each settled attempt, one for an exchange that needed none."""

from __future__ import annotations

from typing import Any

from proxy.cli.lines import REMEMBERED, Lines


def record(event: str, exchange: str = "ex_1", **fields: Any) -> dict[str, Any]:
    return {"event": event, "at": 1_700_000_000_123_456_789, "exchange": exchange, "worker": 0, **fields}


def lines(*records: dict[str, Any]) -> list[str]:
    seen = Lines()
    return [line for each in records for line in seen.of(each)]


def test_an_attempt_is_one_line() -> None:
    """Reserved, settled and ended make one line with tokens, cost, times and outcome."""
    (line,) = lines(
        record("reserved", asked="fast", model="gpt-4o-mini"),
        record(
            "settled",
            served="gpt-4o-mini-2024-07-18",
            tokens={"input_tokens": 1234, "output_tokens": 56},
            nanodollars=218_700,
            known="observed",
            ttft_ns=312_000_000,
            total_ns=1_420_000_000,
            outcome="complete",
            status=200,
        ),
        record("ended", outcome="complete", status=200),
    )
    for part in ("ex_1", "gpt-4o-mini-2024-07-18", " 1,234 ", " 56 ", "$0.0002187", "312 ms", "1.42 s", "complete 200"):
        assert part in line


def test_each_attempt_has_its_line() -> None:
    """A retry shows as two lines; an estimate and an unknown price are marked."""
    first, second = lines(
        record("reserved", model="m"),
        record("settled", attempt=1, nanodollars=5_000, known="estimated", outcome="failed", status=502),
        record("reserved", model="m"),
        record("settled", attempt=2, nanodollars=None, known="unpriced", outcome="complete", status=200),
        record("ended", outcome="complete"),
    )
    assert "~$0.000005" in first
    assert "failed 502" in first
    assert "unpriced" in second


def test_an_exchange_without_attempt_has_its_line() -> None:
    """A refusal cost nothing, and shows."""
    (line,) = lines(record("ended", asked="gpt-4o", outcome="failed", status=403, total_ns=900_000))
    for part in ("gpt-4o", "$0.00", "900 µs", "failed 403"):
        assert part in line


def test_memory_is_bounded() -> None:
    """Exchanges that never end are forgotten, oldest first."""
    seen = Lines()
    for number in range(REMEMBERED + 10):
        list(seen.of(record("reserved", exchange=f"ex_{number}", model="m")))
    assert list(seen.of(record("ended", exchange="ex_0", outcome="failed"))) != []
    assert list(seen.of(record("ended", exchange=f"ex_{REMEMBERED}", outcome="failed"))) == []
