"""The compiled form of prices: what is written to the cards' file and read, piece by piece, by workers.

Rules: structs and their encoding only. A provider's block and each of its models stay packed until they are asked for,
so that loading costs little time and memory whatever the number of models.
"""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final

import msgspec

from proxy.pricing.sheet import Rate, Rates, denominator_of

FORMAT: Final = 2
STANDARD: Final = ""
EVERY_DAY: Final = 0b111_1111
WEEKDAYS: Final = 0b001_1111

# (unit, numerator, [start, numerator, …]) of each unit, over the one denominator that comes first.
PackedRates = tuple[int, list[tuple[int, int, list[int]]]]


class When(msgspec.Struct, frozen=True, array_like=True):
    """From the day `since` (proleptic ordinal, UTC), in the seconds of the day [start, end), over midnight if end is
    before start, on the days of the week whose bit is set in `days` (Monday's is the lowest).
    """

    since: int = 0
    start: int = 0
    end: int = 0
    days: int = EVERY_DAY

    def holds(self, at: datetime) -> bool:
        """Whether this moment is in it. A time without a zone is UTC."""
        if self.since == 0 and self.start == self.end:
            return True
        if at.tzinfo is not None:
            at = at.astimezone(UTC)
        if at.toordinal() < self.since:
            return False
        if self.start == self.end:
            return True
        if not self.days >> at.weekday() & 1:
            return False
        now = at.hour * 3600 + at.minute * 60 + at.second
        return self.start <= now < self.end if self.start < self.end else now >= self.start or now < self.end


class Dated(msgspec.Struct, frozen=True, array_like=True):
    """Rates of a service tier and when they hold. Of the standard ones the last that holds counts, of a tier's the
    first, unit by unit.
    """

    tier: str
    when: When
    rates: PackedRates


class Priced(msgspec.Struct, frozen=True, array_like=True):
    """One model of one provider. `added` are the units whose prices aren't the price database's but from
    `proxy.pricing.known`; `regional` says whether keeping data in one region costs more.
    """

    id: str
    standard: list[Dated]
    tiers: list[Dated]
    context_window: int | None = None
    least_audio_ms: int = 0
    max_output: int | None = None
    regional: bool = False
    added: list[int] = []


class Provider(msgspec.Struct, array_like=True):
    """A provider's models: exact names point to the first model that has them; other patterns are tried in order."""

    id: str
    exact: dict[str, int]
    patterns: list[tuple[int, Any]]
    models: list[msgspec.Raw]
    fallbacks: list[str]


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One price of the deployment file: rates set in nano-dollars a unit, a factor (numerator, denominator) for all the
    others, and one for tokens of either kind.
    """

    since: int
    factor: tuple[int, int]
    rates: PackedRates
    residency: tuple[int, int] = (1, 1)
    max_output: int | None = None


class Override(msgspec.Struct, frozen=True, array_like=True):
    """The prices given for one `model` or `provider/model`, in the order of their first days."""

    pattern: str
    changes: list[Change]


class Tables(msgspec.Struct, array_like=True):
    """The whole file. `aliases` are other words for a provider, `makers` tell a first party by a model's name."""

    format: int
    source: str
    providers: dict[str, msgspec.Raw]
    aliases: list[tuple[str, Any]]
    makers: list[tuple[str, Any]]
    overrides: list[Override]


def pack(rates: Rates) -> PackedRates:
    """Rates as integers over one denominator."""
    denominator = denominator_of(rates)
    return denominator, [
        (
            index,
            int(base * denominator),
            [number for start, rate in above for number in (start, int(rate * denominator))],
        )
        for index, (base, above) in sorted(rates.items())
    ]


def unpack(packed: PackedRates) -> dict[int, Rate]:
    """The reverse of `pack`."""
    denominator, units = packed
    return {
        index: (
            Fraction(base, denominator),
            tuple((start, Fraction(rate, denominator)) for start, rate in zip(above[::2], above[1::2], strict=True)),
        )
        for index, base, above in units
    }
