"""Both books side by side: what the ledger recorded and what the provider billed, by UTC day, project and model.

Rules: pure. What an export doesn't tell apart (it isn't grouped by project, or not by line item) isn't told apart in
the ledger either. Lines that can't be joined to a model (fees, credits, taxes, lines that stand twice) are set aside,
with their amounts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from functools import cached_property
from typing import Final, NamedTuple

import msgspec

from proxy.ledger.reconciling.export import Export, ExportLine
from proxy.ledger.reconciling.items import plain
from proxy.ledger.reporting.cells import Belonging, Cell, Sums

ALL: Final = "*"
LEAST: Final = 10_000  # nano-dollars: a difference that no invoice shows
CLOSE: Final = 0.005


class Key(NamedTuple):
    """What is compared: a UTC day, the provider's project, a model without its date."""

    day: date
    project: str
    model: str


class Recorded(msgspec.Struct):
    """What the ledger says of it; `tiers` in nano-dollars."""

    sums: Sums = msgspec.field(default_factory=Sums)
    tiers: dict[str, int] = {}

    @property
    def nanodollars(self) -> int:
        """The recorded cost."""
        return self.sums.nanodollars

    def tokens(self, meter: str) -> int:
        """How many tokens a meter of the export should have counted."""
        sums = self.sums
        fresh = sums.input_tokens - sums.cached_tokens - sums.cache_write_tokens
        known = {
            "input": fresh,
            "cached": sums.cached_tokens,
            "cache_write": sums.cache_write_tokens,
            "output": sums.output_tokens,
        }
        return known.get(meter, 0)


class Billed(msgspec.Struct):
    """What the export says of it; `meters` in nano-dollars."""

    nanodollars: int = 0
    meters: dict[str, int] = {}
    tiers: set[str] = set()
    contexts: set[str] = set()


class Books:
    """The joined books of one provider over the days that its export covers."""

    def __init__(self, export: Export, cells: Iterable[Cell], names: Mapping[str, str]) -> None:
        self.export = export
        self.first, self.last = min(export.days), max(export.days)
        self.recorded: dict[Key, Recorded] = {}
        self.billed: dict[Key, Billed] = {}
        self.aside: list[tuple[str, ExportLine]] = []
        usage = [*self._usage(export.lines)]
        self.by_project = any(line.project for line in usage)
        self.by_model = any(line.item.model for line in usage)
        self._names: Mapping[str, str] = {}
        for cell in cells:
            self._record(cell)
        self._names = self._only_pair(usage) | dict(names)
        for line in usage:
            self._bill(line)

    def _usage(self, lines: Iterable[ExportLine]) -> Iterable[ExportLine]:
        """Lines of usage; the others are set aside by what they are."""
        seen: set[tuple[date, str]] = set()
        for line in lines:
            if line.raw and (line.day, line.raw) in seen:
                self.aside.append(("duplicate_in_export", line))
            elif line.item.sort != "usage":
                self.aside.append((line.item.sort, line))
            else:
                yield line
            seen.add((line.day, line.raw))

    def _record(self, cell: Cell) -> None:
        if not cell.of_attempts or not self.first <= cell.day <= self.last:
            return
        who = cell.belonging
        key = self._key(cell.day, project_of(who), plain(who.served or who.model or ""))
        recorded = self.recorded.setdefault(key, Recorded())
        recorded.sums.add(cell.sums)
        tier = who.tier or "default"
        recorded.tiers[tier] = recorded.tiers.get(tier, 0) + cell.sums.nanodollars

    def _bill(self, line: ExportLine) -> None:
        if self.by_model and line.item.model is None:
            self.aside.append(("not_understood", line))
            return
        key = self._key(line.day, line.project, line.item.model or ALL)
        billed = self.billed.setdefault(key, Billed())
        billed.nanodollars += line.nano
        meter = line.item.meter or ALL
        billed.meters[meter] = billed.meters.get(meter, 0) + line.nano
        billed.tiers |= {line.item.tier} if line.item.tier else set()
        billed.contexts |= {line.context} if line.context else set()

    def _key(self, day: date, project: str, model: str) -> Key:
        return Key(day, self.project(project), model if self.by_model else ALL)

    def project(self, name: str) -> str:
        """What the ledger calls a project of the export."""
        return self._names.get(name, name) if self.by_project else ALL

    def _only_pair(self, usage: Iterable[ExportLine]) -> dict[str, str]:
        """With one project on each side they are the same, whatever they are called."""
        ours = {key.project for key in self.recorded}
        theirs = {line.project for line in usage}
        return {theirs.pop(): ours.pop()} if len(ours) == 1 and len(theirs) == 1 and self.by_project else {}

    @cached_property
    def keys(self) -> list[Key]:
        """All that either book has."""
        return sorted({**self.recorded, **self.billed})

    @cached_property
    def projects(self) -> set[str]:
        """Projects of the ledger."""
        return {key.project for key in self.recorded}

    @cached_property
    def models(self) -> set[str]:
        """Models of the ledger."""
        return {key.model for key in self.recorded}

    def residual(self, key: Key) -> int:
        """What was billed and not recorded; negative: recorded and not billed."""
        billed, recorded = self.billed.get(key), self.recorded.get(key)
        return (billed.nanodollars if billed else 0) - (recorded.nanodollars if recorded else 0)

    def differs(self, key: Key) -> bool:
        """Whether the books differ by more than rounding."""
        billed, recorded = self.billed.get(key), self.recorded.get(key)
        return not near(billed.nanodollars if billed else 0, recorded.nanodollars if recorded else 0, 0.0001)

    def series(self, key: Key) -> list[Key]:
        """All days of its project and model, in order."""
        return [other for other in self._series.get((key.project, key.model), []) if other]

    @cached_property
    def _series(self) -> dict[tuple[str, str], list[Key]]:
        found: dict[tuple[str, str], list[Key]] = {}
        for key in self.keys:
            found.setdefault((key.project, key.model), []).append(key)
        return found

    def ratio(self, key: Key) -> float | None:
        """Billed over recorded, where both are something."""
        billed, recorded = self.billed.get(key), self.recorded.get(key)
        if not billed or not recorded or billed.nanodollars <= 0 or recorded.nanodollars <= 0:
            return None
        return billed.nanodollars / recorded.nanodollars

    def day_sums(self, day: date) -> tuple[int, int]:
        """What was recorded and billed on a day."""
        return self._days.get(day, (0, 0))

    @cached_property
    def _days(self) -> dict[date, tuple[int, int]]:
        found: dict[date, tuple[int, int]] = {}
        for key in self.keys:
            recorded, billed = found.get(key.day, (0, 0))
            recorded += self.recorded[key].nanodollars if key in self.recorded else 0
            billed += self.billed[key].nanodollars if key in self.billed else 0
            found[key.day] = recorded, billed
        return found

    def opposite(self, key: Key, among: Iterable[Key]) -> Key | None:
        """One whose difference is the same with the other sign."""
        residual = self.residual(key)
        return next((other for other in among if self.differs(other) and near(self.residual(other), -residual)), None)

    def neighbours(self, key: Key, days: int) -> list[Key]:
        """The same project and model, up to so many days away, the nearest first."""
        found = [key._replace(day=key.day + timedelta(days=sign * n)) for n in range(1, days + 1) for sign in (1, -1)]
        return [other for other in found if self.first <= other.day <= self.last]


def near(one: int, other: int, share: float = CLOSE) -> bool:
    """Whether two amounts are the same but for rounding."""
    return abs(one - other) <= max(LEAST, share * max(abs(one), abs(other)))


def project_of(who: Belonging) -> str:
    """What the provider's invoice joins by: its project, else the account, else the upstream's name."""
    return who.provider_project or who.account or who.upstream or ""


Repeats = Callable[[Key], int]
"""How many nano-dollars of a key's attempts stand in the ledger more than once, by the provider's request ids."""
