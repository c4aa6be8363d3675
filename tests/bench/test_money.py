"""What the money benchmark judges by: published prices, keys that name requests, answers, discrepancies."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench.money import discrepancies, prices, stopwatch
from bench.money.clients import Answer
from bench.money.week import PROJECTS, result
from bench.money.world import key_of, number_of
from proxy.dialects import Usage
from proxy.pricing import RateCards
from proxy.simulator.invoice import label


@pytest.mark.parametrize("model", prices.PRICES)
def test_prices(model: str) -> None:
    """The invoice's table and the rate cards come from different hands, and say the same."""
    card = RateCards.compile().card("openai", model, datetime.now(UTC))
    assert card is not None
    output = 611 if "embed" not in model else 0
    row = {"model": f"{model}-2024-07-18", "input": 1_003, "cached": 207, "output": output}
    assert prices.cost(row) == card.cost(Usage(1_003, output, cached_tokens=207), None)


@pytest.mark.parametrize("number", [0, 1, 35, 36, 99_999, 36**6 - 1])
def test_keys(number: int) -> None:
    """What the invoice shows of a key says which request it was."""
    assert number_of(label(key_of(number))) == number


def test_answers() -> None:
    """Whole is what the client can use; shortened is what a cap has ended."""
    assert Answer(200, b'{"usage": {}}').whole
    assert Answer(200, b"data: {}\n\ndata: [DONE]\n\n").whole
    assert not Answer(200, b"data: {}\n\n").whole
    assert not Answer(0).whole
    assert Answer(200, b'{"finish_reason": "length"}').shortened
    assert not Answer(200, b'{"finish_reason": "stop"}').shortened
    assert Answer(429, b'{"error": {"code": "insufficient_quota"}}').error == "insufficient_quota"


def _week() -> list[dict[str, Any]]:
    models = ("gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "o4-mini-2025-04-16")
    meters = ("input", "cached input", "output")
    lines = [(project, f"{model}, {meter}") for project in PROJECTS for model in models for meter in meters]
    return [
        {"start_time": 86_400 * day, "results": [result(project, text, 10**8 + day) for project, text in lines]}
        for day in range(20_000, 20_007)
    ]


def test_discrepancies() -> None:
    """Twenty kinds or more, each expected under another name; each changes the export, and none the original."""
    assert len(Counter(cause for cause, _ in discrepancies.DISCREPANCIES)) == len(discrepancies.DISCREPANCIES) >= 20
    right = _week()
    for cause, change in discrepancies.DISCREPANCIES:
        assert discrepancies.injected(right, change) != right, cause
    assert right == _week()


def test_stopwatch_reads_what_it_wrote(tmp_path: Path) -> None:
    """Samples of a span of time, in microseconds."""
    watch = stopwatch.Stopwatch(stopwatch.Config(directory=str(tmp_path)))
    watch._taken.extend([1_000, 2_500, 2_000, 7_000, 3_000, 9_000])
    watch._write()
    assert sorted(stopwatch.read(tmp_path, 1_000, 3_000)) == [2.5, 7.0]
