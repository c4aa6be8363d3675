"""Cells and cuts: what every report is added up from.

A cell is the sum of the attempts of one day that belong to the same everything. A cut groups cells by dimensions; its
lines add up to the cells exactly, since each cell goes into one line (a cut by a tag has a line for those without it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from fnmatch import fnmatchcase
from typing import Final, cast

import msgspec

from proxy.ledger.reporting.periods import Grain, label_of

NONE: Final = "—"
UNTAGGED: Final = "(untagged)"

DIMENSIONS: Final = (
    "org",
    "team",
    "project",
    "cost_centre",
    "gl_account",
    "key",
    "tenant",
    "model",
    "served",
    "asked",
    "provider",
    "account",
    "provider_project",
    "upstream",
    "deployment",
    "endpoint",
    "tier",
    "kind",
    "policy",
    "known",
)
TIMES: Final = ("day", "week", "month")
OF_ATTEMPTS: Final = frozenset(
    ("model", "served", "provider", "account", "provider_project", "upstream", "deployment", "tier", "known")
)
"""What only attempts have: a cut by one of these says nothing of clients' exchanges."""


class Belonging(msgspec.Struct, frozen=True):
    """All that a cost belongs to, as the ledger's `dimensions` say it; `policy` is `started_by` there."""

    tenant: str | None = None
    org: str | None = None
    team: str | None = None
    project: str | None = None
    cost_centre: str | None = None
    gl_account: str | None = None
    key: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    asked: str | None = None
    model: str | None = None
    served: str | None = None
    deployment: str | None = None
    upstream: str | None = None
    provider: str | None = None
    account: str | None = None
    provider_project: str | None = None
    endpoint: str | None = None
    kind: str | None = None
    policy: str | None = None
    tier: str | None = None
    known: str | None = None

    def tag(self, name: str) -> str | None:
        """The value of a tag."""
        return next((value for own, value in self.tags if own == name), None)

    @property
    def untagged(self) -> bool:
        """Whether nothing says whose cost it is: no team, no project, no tag."""
        return not (self.team or self.project or self.tags)


class Sums(msgspec.Struct):
    """Sums over exchanges and attempts. `observed`, `estimated` and `unknown` are nano-dollars and exclude each other
    (`unknown`: the estimate of what may have been billed); the `unpriced` attempts are in none of them.
    `input_tokens` includes cached and cache-written ones, `output_tokens` reasoning."""

    exchanges: int = 0
    attempts: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    observed: int = 0
    estimated: int = 0
    unknown: int = 0

    @property
    def nanodollars(self) -> int:
        """What it cost, as far as that is known."""
        return self.observed + self.estimated + self.unknown

    @property
    def tokens(self) -> int:
        """In and out."""
        return self.input_tokens + self.output_tokens

    def add(self, other: Sums) -> None:
        """Adds the other's numbers to these; written out, as there are many."""
        self.exchanges += other.exchanges
        self.attempts += other.attempts
        self.unpriced += other.unpriced
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_tokens += other.cached_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.observed += other.observed
        self.estimated += other.estimated
        self.unknown += other.unknown


class Cell(msgspec.Struct, frozen=True):
    """One day's sums of one belonging."""

    day: date
    belonging: Belonging
    sums: Sums

    @property
    def of_attempts(self) -> bool:
        """Whether it has more than exchanges."""
        return self.belonging.known is not None


class Line(msgspec.Struct, frozen=True):
    """One group of a cut."""

    group: tuple[str, ...]
    sums: Sums


Reader = Callable[[Cell], str]


class UnknownDimensionError(ValueError):
    """No such dimension; the text says which there are."""


def reader(dimension: str) -> Reader:
    """How a cell's value of `team`, `day`, `tag:env`, … is read. Raises UnknownDimensionError."""
    if dimension in TIMES:
        grain = cast("Grain", dimension)
        return lambda cell: label_of(cell.day, grain)
    if dimension.startswith("tag:") and len(dimension) > 4:
        name = dimension[4:]
        return lambda cell: cell.belonging.tag(name) or UNTAGGED
    if dimension not in DIMENSIONS:
        known = ", ".join((*DIMENSIONS, *TIMES, "tag:NAME"))
        raise UnknownDimensionError(f"there is no dimension {dimension!r}; there are {known}")
    return lambda cell: getattr(cell.belonging, dimension) or NONE


def cut(cells: Iterable[Cell], by: Sequence[str]) -> list[Line]:
    """The sums by these dimensions: by time where it comes first, else the most expensive first.

    Cut by what only attempts have, the cells of exchanges are left out: they cost nothing.
    """
    if not OF_ATTEMPTS.isdisjoint(by):
        cells = [cell for cell in cells if cell.of_attempts]
    readers = [reader(dimension) for dimension in by]
    groups: dict[tuple[str, ...], Sums] = {}
    for cell in cells:
        group = tuple([read(cell) for read in readers])
        sums = groups.get(group)
        if sums is None:
            sums = groups[group] = Sums()
        sums.add(cell.sums)
    if by and by[0] in TIMES:
        ordered = sorted(groups, key=lambda group: (group[0], -groups[group].nanodollars, group))
    else:
        ordered = sorted(groups, key=lambda group: (-groups[group].nanodollars, group))
    return [Line(group, groups[group]) for group in ordered]


def total(cells: Iterable[Cell]) -> Sums:
    """The sum of all."""
    sums = Sums()
    for cell in cells:
        sums.add(cell.sums)
    return sums


def by_day(cells: Iterable[Cell]) -> dict[date, int]:
    """Nano-dollars by day; days without any are left out."""
    days: dict[date, int] = {}
    for cell in cells:
        days[cell.day] = days.get(cell.day, 0) + cell.sums.nanodollars
    return days


def within(cells: Iterable[Cell], first: date, last: date) -> list[Cell]:
    """Those of some days, both included."""
    return [cell for cell in cells if first <= cell.day <= last]


class Where(msgspec.Struct, frozen=True):
    """Which cells count: for each dimension named, any of its patterns (`*` and `?`) must match."""

    wanted: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def parse(cls, conditions: Iterable[str]) -> Where:
        """From `team=search`, `tag:env=prod,staging`. Raises ValueError for what isn't one."""
        wanted: dict[str, list[str]] = {}
        for condition in conditions:
            name, equals, values = condition.partition("=")
            if not equals or not values:
                raise ValueError(f"{condition!r} is no condition; write one such as team=search")
            reader(name)
            wanted.setdefault(name, []).extend(value.strip() for value in values.split(","))
        return cls(tuple((name, tuple(values)) for name, values in wanted.items()))

    def __str__(self) -> str:
        return " ".join(f"{name}={','.join(values)}" for name, values in self.wanted)

    def select(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells that meet all conditions. `""` stands for those without a value."""
        if not self.wanted:
            return list(cells)
        readers = self._readers
        return [cell for cell in cells if all(_matches(read(cell), values) for read, values in readers)]

    def holds(self, belonging: Belonging) -> bool:
        """Whether a belonging meets all conditions that aren't about time."""
        cell = Cell(date.min, belonging, Sums())
        return all(
            _matches(reader(name)(cell), tuple(map(_absent, values)))
            for name, values in self.wanted
            if name not in TIMES
        )

    @property
    def _readers(self) -> list[tuple[Reader, tuple[str, ...]]]:
        return [(reader(name), tuple(map(_absent, values))) for name, values in self.wanted]


def _absent(value: str) -> str:
    return NONE if value == "" else value


def _matches(value: str, patterns: Sequence[str]) -> bool:
    return any(value == pattern or fnmatchcase(value, pattern) for pattern in patterns)


def distinct(cells: Iterable[Cell], tag: str) -> int:
    """How many values of a tag there are among cells with at least one attempt."""
    return len({value for cell in cells if cell.sums.attempts and (value := cell.belonging.tag(tag)) is not None})


def grouped(cells: Iterable[Cell], by: Sequence[str]) -> Mapping[tuple[str, ...], list[Cell]]:
    """The cells of each group."""
    readers = [reader(dimension) for dimension in by]
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple([read(cell) for read in readers]), []).append(cell)
    return groups
