"""Periods and days in a time zone.

Rules: pure. The ledger's roll-ups are quarters of an hour, in which every zone's days begin and end (offsets since 1972
are whole quarters). A day is a calendar day of the zone: 23 or 25 hours where clocks change. A period is whole days.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

QUARTER_S = 900
_DAY_S = 86_400
_EPOCH = date(1970, 1, 1)

Grain = Literal["day", "week", "month"]


class Edge(NamedTuple):
    """The quarters from `first` to before `end` belong to the local `day` and not to UTC's of that date (`sign` 1), or
    to UTC's and not to the local one (-1), but the one before."""

    day: date
    sign: int
    first: int
    end: int


class Period:
    """Whole days of a zone, from `first` to `last`, both included."""

    def __init__(self, first: date, last: date, zone: ZoneInfo) -> None:
        if last < first:
            raise ValueError(f"the period ends ({last}) before it begins ({first})")
        self.first, self.last, self.zone = first, last, zone

    @classmethod
    def month(cls, text: str, zone: ZoneInfo) -> Period:
        """`2026-11`. Raises ValueError for anything else."""
        if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text):
            raise ValueError(f"{text!r} is no month; write one such as 2026-11")
        first = date.fromisoformat(f"{text}-01")
        return cls(first, _next_month(first) - timedelta(days=1), zone)

    @classmethod
    def month_of(cls, moment_s: float, zone: ZoneInfo) -> Period:
        """The calendar month that a moment falls in."""
        return cls.month(datetime.fromtimestamp(moment_s, zone).strftime("%Y-%m"), zone)

    def __repr__(self) -> str:
        return f"<Period {self.name} {self.zone.key}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Period) and (self.first, self.last, self.zone) == (other.first, other.last, other.zone)

    def __hash__(self) -> int:
        return hash((self.first, self.last, self.zone))

    @property
    def whole_month(self) -> bool:
        """Whether it is one calendar month."""
        return self.first.day == 1 and self.last == _next_month(self.first) - timedelta(days=1)

    @property
    def name(self) -> str:
        """`2026-11`, or both days."""
        return self.first.strftime("%Y-%m") if self.whole_month else f"{self.first}..{self.last}"

    @cached_property
    def start_s(self) -> int:
        """Its first second, Unix time."""
        return midnight_s(self.first, self.zone)

    @cached_property
    def end_s(self) -> int:
        """The first second after it."""
        return midnight_s(self.last + timedelta(days=1), self.zone)

    @property
    def days(self) -> list[date]:
        """Its days."""
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]

    @property
    def previous(self) -> Period:
        """The month before a month; else as many days right before it."""
        last = self.first - timedelta(days=1)
        first = last.replace(day=1) if self.whole_month else last - (self.last - self.first)
        return Period(first, last, self.zone)

    def before(self, days: int) -> Period:
        """As many days right before it."""
        return Period(self.first - timedelta(days=days), self.first - timedelta(days=1), self.zone)


def midnight_s(day: date, zone: ZoneInfo) -> int:
    """When a day begins. Where clocks jump over midnight it begins at the jump."""
    return int(datetime.combine(day, time(), zone).timestamp())


def edges(period: Period) -> list[Edge]:
    """For each of its days, and the one after it, what lies between its beginning and UTC's day of the same date.

    Raises ValueError where a day doesn't begin at a quarter of an hour, which was last so in 1972.
    """
    return [_edge(period.first + timedelta(days=n), period.zone) for n in range(len(period.days) + 1)]


def _edge(day: date, zone: ZoneInfo) -> Edge:
    begins_s, utc = midnight_s(day, zone), number_of(day) * _DAY_S // QUARTER_S
    if begins_s % QUARTER_S:
        raise ValueError(f"{day} didn't begin at a quarter of an hour in {zone.key}")
    begins = begins_s // QUARTER_S
    return Edge(day, 1, begins, utc) if begins < utc else Edge(day, -1, utc, begins)


def offset_at(moment_s: float, zone: ZoneInfo) -> int:
    """How many seconds the zone's clocks are ahead of UTC then."""
    offset = datetime.fromtimestamp(moment_s, zone).utcoffset()
    return int(offset.total_seconds()) if offset else 0


def day_of(number: int) -> date:
    """A day from its number, as the roll-ups are summed by: local days since 1970-01-01."""
    return _EPOCH + timedelta(days=number)


def number_of(day: date) -> int:
    """The inverse of `day_of`."""
    return (day - _EPOCH).days


@lru_cache(maxsize=4096)
def label_of(day: date, grain: Grain) -> str:
    """`2026-11-23`, `2026-W48` or `2026-11`: they sort as time goes."""
    if grain == "week":
        year, week, _ = day.isocalendar()
        return f"{year}-W{week:02d}"
    return day.strftime("%Y-%m") if grain == "month" else day.isoformat()


def months(period: Period) -> Iterator[Period]:
    """The calendar months that a period touches."""
    first = period.first.replace(day=1)
    while first <= period.last:
        following = _next_month(first)
        yield Period(first, following - timedelta(days=1), period.zone)
        first = following


def utc_text(moment_s: float) -> str:
    """A moment as `2026-11-01T00:00:00Z`."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _next_month(first: date) -> date:
    return (first.replace(day=1) + timedelta(days=32)).replace(day=1)
