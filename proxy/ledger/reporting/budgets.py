"""Budget against actual: what the policy files allow, and what was spent of it.

Rules: pure but for reading `limits_from`. A budget is an entry of a policy file with `limit` and `per`, as written
there: its limits, its `overrides`, the rows of its CSV. A period's budget is the limit times the windows that fit into
it: a limit by the month counts whole for a month, one by the day as often as the period has days. A top-up counts for
periods that begin before it expires. What a budget's `match` leaves out isn't told apart here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from proxy.ledger.reporting.cells import NONE, UNTAGGED, Cell, Sums, cut, total
from proxy.ledger.reporting.periods import Period, months

if TYPE_CHECKING:
    from proxy.config import Configuration

NANO: Final = 10**9
NOBODY: Final = "(none)"
"""The subject of what has no team, tag, …: it has a budget of its own."""
Unit = Literal["usd", "tok", "req"]
_AMOUNT: Final = r"(?P<dollar>\$)?\s*(?P<number>\d[\d,_]*(?:\.\d+)?)\s*(?P<scale>[kKmMbB])?\s*(?P<unit>[A-Za-z$]+)?"
_LIMIT: Final = re.compile(rf"{_AMOUNT}\s*(?:/|\bper\b)\s*(?P<window>.+)")
_TOP_UP: Final = re.compile(_AMOUNT)
_SCALES: Final = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_PERIODS_S: Final = {"minute": 60, "min": 60, "m": 60, "hour": 3600, "h": 3600, "day": 86_400, "d": 86_400}
_WEEKS_S: Final = {"week": 604_800, "w": 604_800}


class Limit(msgspec.Struct, frozen=True):
    """An amount (nano-dollars, tokens or requests) in a window of `window_s` seconds; 0 is a calendar month."""

    unit: Unit
    amount: int
    window_s: int

    def of(self, period: Period) -> int:
        """The budget of a period, of days of 24 hours."""
        if self.window_s:
            return round(self.amount * Fraction(len(period.days) * 86_400, self.window_s))
        share = Fraction(0)
        for month in months(period):
            first, last = max(month.first, period.first), min(month.last, period.last)
            share += Fraction((last - first).days + 1, len(month.days))
        return round(self.amount * share)


class Extra(msgspec.Struct, frozen=True):
    """A top-up of one subject, until a day."""

    subject: str
    unit: Unit
    amount: int
    expires: date


class Budget(msgspec.Struct, frozen=True):
    """One budget of the policy files. `special` are the limits of named subjects, in place of `limits`."""

    name: str
    per: tuple[str, ...]
    limits: tuple[Limit, ...]
    special: tuple[tuple[str, Limit], ...] = ()
    extras: tuple[Extra, ...] = ()

    def of(self, subject: str, period: Period) -> list[tuple[Unit, int]]:
        """What a subject may use in the period: one amount for each limit."""
        found = {(limit.unit, limit.window_s): limit for limit in self.limits}
        found |= {(limit.unit, limit.window_s): limit for name, limit in self.special if name == subject}
        extras = [extra for extra in self.extras if extra.subject == subject and extra.expires >= period.first]
        return [
            (limit.unit, limit.of(period) + sum(extra.amount for extra in extras if extra.unit == limit.unit))
            for limit in found.values()
        ]


class Actual(msgspec.Struct, frozen=True):
    """What one subject of a budget may use in the period, and what it did, in the unit's amounts."""

    budget: str
    subject: str
    unit: Unit
    limit: int
    spent: int

    @property
    def left(self) -> int:
        """What isn't spent; negative where it is overspent."""
        return self.limit - self.spent

    @property
    def share(self) -> float | None:
        """The part that is spent."""
        return self.spent / self.limit if self.limit else None


def actuals(budgets: Iterable[Budget], cells: Sequence[Cell], period: Period) -> list[Actual]:
    """Budget against actual of each subject that has a limit, those that used most of it first."""
    found = []
    for budget in budgets:
        for subject, sums in _subjects(budget, cells).items():
            for unit, limit in budget.of(subject, period):
                found.append(Actual(budget.name, subject, unit, limit, _used(sums, unit)))
    return sorted(found, key=lambda actual: (actual.budget, -(actual.share or 0), actual.subject, actual.unit))


def _subjects(budget: Budget, cells: Sequence[Cell]) -> dict[str, Sums]:
    """What each spent; those with a limit of their own also where they spent nothing."""
    if not budget.per:
        return {"everything": total(cells)}
    names = {NONE: NOBODY, UNTAGGED: NOBODY}
    lines = {"/".join(names.get(part, part) for part in line.group): line.sums for line in cut(cells, budget.per)}
    return lines | {name: Sums() for name, _ in budget.special if name not in lines}


def _used(sums: Sums, unit: Unit) -> int:
    return sums.nanodollars if unit == "usd" else sums.tokens if unit == "tok" else sums.attempts


def budgets_of(configuration: Configuration) -> tuple[Budget, ...]:
    """The budgets of the policy files."""
    base = Path(configuration.file).parent if configuration.file else Path()
    return tuple(
        _budget(entry.name, entry.options, base)
        for entry in configuration.policies
        if entry.mode != "off" and "limit" in entry.options and entry.use == "budget"
    )


def _budget(name: str, options: Mapping[str, Any], base: Path) -> Budget:
    rows = [*_rows(options, base)]
    overrides = [
        (str(who), limit) for who, written in (options.get("overrides") or {}).items() for limit in _all(written)
    ]
    special = [(row["subject"], limit) for row in rows for limit in _all(row.get("limit"))]
    extras = [extra for row in rows if (extra := _extra(row)) is not None]
    per = tuple(str(dimension) for dimension in _listed(options.get("per")))
    return Budget(name, per, tuple(_all(options.get("limit"))), (*overrides, *special), tuple(extras))


def _rows(options: Mapping[str, Any], base: Path) -> Iterator[Mapping[str, str]]:
    """The rows that finance wrote: resolved with the policy file, or still in their own."""
    given = options.get("rows")
    if not given and isinstance(named := options.get("limits_from"), str):
        try:
            given = [*csv.DictReader((base / named).read_text("utf-8-sig").splitlines(), skipinitialspace=True)]
        except (OSError, UnicodeDecodeError):
            given = []
    for row in given or ():
        cells = {
            str(key).strip().lower(): str(value).strip() for key, value in dict(row).items() if value not in ("", None)
        }
        if cells.get("subject", "#")[0] != "#":
            yield cells


def _extra(row: Mapping[str, str]) -> Extra | None:
    match = _TOP_UP.fullmatch(row.get("top_up", ""))
    amount = None if match is None else _amount(match)
    try:
        expires = date.fromisoformat(row.get("expires", "")[:10])
    except ValueError:
        return None
    return None if amount is None else Extra(row["subject"], amount[0], amount[1], expires)


def _all(written: object) -> Iterator[Limit]:
    for one in _listed(written):
        if (limit := limit_of(str(one))) is not None:
            yield limit


def limit_of(written: str) -> Limit | None:
    """`500 USD/month`, `2M tokens/day`, `100 USD/rolling 30d`; None for what isn't one: `weir check` says why."""
    match = _LIMIT.fullmatch(written.strip())
    amount = None if match is None else _amount(match)
    if match is None or amount is None:
        return None
    window = match["window"].strip().lower()
    if window in ("month", "mo"):
        return Limit(*amount, 0)
    if window.startswith("rolling"):
        from proxy.config.scalars import seconds

        try:
            return Limit(*amount, int(seconds(window.removeprefix("rolling").strip())))
        except ValueError:
            return None
    length_s = (_PERIODS_S | _WEEKS_S).get(window)
    return None if length_s is None else Limit(*amount, length_s)


def _amount(match: re.Match[str]) -> tuple[Unit, int] | None:
    word = (match["dollar"] or match["unit"] or "usd").lower()
    unit: Unit = "tok" if word.startswith("token") else "req" if word.startswith("request") else "usd"
    number = Decimal(re.sub(r"[,_]", "", match["number"])) * _SCALES[(match["scale"] or "").lower()]
    return unit, int(number * (NANO if unit == "usd" else 1))


def _listed(written: object) -> Sequence[object]:
    if written is None:
        return ()
    return list(written) if isinstance(written, list | tuple) else [written]
