"""What the simulated provider charges: published prices of 2025, written down here so that they aren't Weir's own.

Nano-dollars a token, all whole; so an invoice has one exact sum. Source: OpenAI's price list (USD per million tokens:
gpt-4o 2.50 / 1.25 cached / 10.00, gpt-4o-mini 0.15 / 0.075 / 0.60, gpt-4.1-mini 0.40 / 0.10 / 1.60, gpt-4.1-nano
0.10 / 0.025 / 0.40, o4-mini 1.10 / 0.275 / 4.40, text-embedding-3-small 0.02).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Price(NamedTuple):
    """Nano-dollars a token."""

    input: int
    cached: int
    output: int


PRICES: Final = {
    "gpt-4o": Price(2_500, 1_250, 10_000),
    "gpt-4o-mini": Price(150, 75, 600),
    "gpt-4.1-mini": Price(400, 100, 1_600),
    "gpt-4.1-nano": Price(100, 25, 400),
    "o4-mini": Price(1_100, 275, 4_400),
    "text-embedding-3-small": Price(20, 20, 0),
}
MOST_OUTPUT: Final = {"gpt-4o": 16_384, "gpt-4o-mini": 16_384, "gpt-4.1-nano": 32_768, "o4-mini": 100_000}
_DATE: Final = re.compile(r"-20\d\d-\d\d-\d\d$")


def plain(model: str) -> str:
    """Its name without a date."""
    return _DATE.sub("", model)


def meters(row: Mapping[str, Any]) -> dict[str, int]:
    """A row of the invoice in nano-dollars, by what is counted. Raises KeyError for a model without a price."""
    price = PRICES[plain(row["model"])]
    found = {
        "input": (row["input"] - row["cached"]) * price.input,
        "cached input": row["cached"] * price.cached,
        "output": row["output"] * price.output,
    }
    return {meter: amount for meter, amount in found.items() if amount}


def cost(row: Mapping[str, Any]) -> int:
    """A row of the invoice in nano-dollars."""
    return sum(meters(row).values())
