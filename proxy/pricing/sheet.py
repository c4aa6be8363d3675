"""A price sheet as integers: exact cost of a usage, rounded half up, once.

Rules: pure arithmetic over integers; no floats. Rates of a sheet share one denominator, so a cost is one sum of
products and one division. A sheet with long-context prices has several bands; the whole request is priced by the band
of its total input.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from proxy.dialects.usage import Usage
from proxy.pricing.bound import dearest, most
from proxy.pricing.units import NANO, UNITS

# What one unit costs: the rate in nano-dollars, and (start, rate) of the bands above it, in rising order.
Rate = tuple[Fraction, tuple[tuple[int, Fraction], ...]]
Rates = Mapping[int, Rate]

CHARACTERS_A_TOKEN: Final = 4  # for a reservation, where only tokens are estimated
_USED: Final = (
    "input_tokens",
    "output_tokens",
    "searches",
    "audio_ms",
    "characters",
    "file_searches",
    "code_sessions",
)
_TOKENS: Final = ("input_tokens", "output_tokens")
_MEASURES: Final = ("audio_ms", "characters")
_IN_FULL: Final = "input_tokens", "output_tokens", "cached_tokens", "one"


def scaled(rate: Rate, factor: Fraction) -> Rate:
    """A rate times a factor, in every band."""
    return rate[0] * factor, tuple((start, above * factor) for start, above in rate[1])


def rebased(rate: Rate, base: Fraction) -> Rate:
    """A rate with another base; the bands above keep their ratio to it."""
    return scaled(rate, base / rate[0]) if rate[0] else (base, ())


class Sheet:
    """The price of one model on one service tier at one time."""

    __slots__ = ("_bands", "_denominator", "_edges", "_half", "_starts", "_unsold", "rates")

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self._denominator = denominator_of(rates)
        sold = {field for index in rates for field, _ in UNITS[index].counts}
        self._unsold = tuple(field for field in _USED if field not in sold and not _included(field, sold))
        self._half = not set(_TOKENS).isdisjoint(self._unsold)
        starts = sorted({start for _, above in rates.values() for start, _ in above})
        self._starts = starts
        self._bands = [_Band(_at(rates, least), self._denominator) for least in [-1, *starts]]
        every = [dearest(band.weights) for band in self._bands]
        self._edges = tuple(zip([-1, *starts], [*starts, None], every, strict=True))

    def cost(self, usage: Usage) -> int | None:
        """Nano-dollars; None if something was used that has no price here (tokens, where audio is priced by time)."""
        # Most usage is tokens alone, and most models sell both kinds: then there is nothing to look for.
        more = usage.searches or usage.file_searches or usage.code_sessions or usage.audio_ms or usage.characters
        if (more or self._half) and self._lacks_price(usage):
            return None
        band = self._bands[bisect_left(self._starts, usage.input_tokens)] if self._starts else self._bands[0]
        total = (
            band.request
            + usage.input_tokens * band.input
            + usage.output_tokens * band.output
            + usage.cached_tokens * band.cached
        )
        for field, weight in band.parts:
            total += getattr(usage, field) * weight
        if more:
            for field, weight in band.more:
                total += getattr(usage, field) * weight
        denominator = self._denominator
        return (2 * total + denominator) // (2 * denominator) if total > 0 else 0

    def _lacks_price(self, usage: Usage) -> bool:
        """Whether something was used that isn't sold. What is billed by seconds or characters may tell tokens too."""
        for field in self._unsold:
            if getattr(usage, field):
                return not any(field not in self._unsold and getattr(usage, field) for field in _MEASURES)
        return False

    def reserve(self, input_tokens: int, output_cap: int, n: int) -> int:
        """Nano-dollars of a request with this much input and `n` answers of at most `output_cap` tokens, nothing
        cached.
        """
        band = self._bands[bisect_left(self._starts, input_tokens)]
        total = band.request + input_tokens * band.input + n * output_cap * band.output
        total += input_tokens * CHARACTERS_A_TOKEN * band.weights.get("characters", 0)
        return max(0, (2 * total + self._denominator) // (2 * self._denominator))

    def bound(self, input_tokens: int, output_tokens: int | None, characters: int | None, *, media: bool) -> int | None:
        """Nano-dollars that no usage within these bounds exceeds; None where nothing bounds it."""
        return most(self._edges, self._denominator, input_tokens, output_tokens, characters, media=media)

    def __repr__(self) -> str:
        prices = (f"{UNITS[index].name} {_dollars(index, rate)}" for index, rate in self.rates.items())
        return f"<Sheet {', '.join(prices)}>"


class _Band:
    """One weight per field of `Usage`, over the sheet's denominator."""

    __slots__ = ("cached", "input", "more", "output", "parts", "request", "weights")

    def __init__(self, rates: Mapping[int, Fraction], denominator: int) -> None:
        weights: dict[str, Fraction] = {}
        for index, weight in _marginal(rates).items():
            for field, times in UNITS[index].counts:
                weights[field] = weights.get(field, Fraction()) + weight * times
        self.weights = whole = {field: int(weight * denominator) for field, weight in weights.items()}
        self.request = whole.get("one", 0)
        self.input = whole.get("input_tokens", 0)
        self.output = whole.get("output_tokens", 0)
        self.cached = whole.get("cached_tokens", 0)
        rest = [(field, weight) for field, weight in whole.items() if weight and field not in _IN_FULL]
        self.parts = tuple((field, weight) for field, weight in rest if field.endswith("_tokens"))
        self.more = tuple((field, weight) for field, weight in rest if not field.endswith("_tokens"))


def _included(field: str, sold: set[str]) -> bool:
    """Whether a request's own price covers it: all but tokens, and tokens too where they have no price at all."""
    return "one" in sold and (field not in _TOKENS or not sold.intersection(_TOKENS))


def _marginal(rates: Mapping[int, Fraction]) -> dict[int, Fraction]:
    """What one more of a unit costs beyond what the units that it is a part of already count for it.

    A token that is cached and audio is in four units: input + (cached - input) + (audio - input) + the rest up to
    cached audio.
    """
    marginal: dict[int, Fraction] = {}
    for index in sorted(rates, key=lambda index: len(UNITS[index].dimensions)):
        inside = UNITS[index].dimensions
        marginal[index] = rates[index] - sum(
            (weight for other, weight in marginal.items() if UNITS[other].dimensions < inside), Fraction()
        )
    return marginal


def _at(rates: Rates, least: int) -> dict[int, Fraction]:
    """Every unit's rate in the band that begins above `least`."""
    return {
        index: next((value for start, value in reversed(above) if start <= least), base)
        for index, (base, above) in rates.items()
    }


def denominator_of(rates: Rates) -> int:
    """The least denominator that all of these rates share."""
    return math.lcm(*(value.denominator for base, above in rates.values() for value in (base, *(v for _, v in above))))


def _dollars(index: int, rate: Rate) -> str:
    shown = f"${float(rate[0] * UNITS[index].per / NANO):.10g}"
    return f"{shown} per {UNITS[index].per:,}" + (" and more above" if rate[1] else "")
