"""Whose budget it is: subjects, and the scopes of their limits at a moment.

Pure. An account is one subject's limits with their scopes; it holds until the first window or top-up ends, and is then
made anew. Keys of scopes begin with the unit; two budgets never share one, since the budget's name is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec

from policies.budget.config import Config
from policies.budget.limits import NANO, Limit, Unit, amounts, reset_text
from policies.budget.table import Row, top_up
from proxy.exchange import Identity, Request
from proxy.state.protocol import Scope

NONE: Final = "(none)"
"""The subject of what has no team, tag, …: it has a budget of its own."""
MOST: Final = 20_000
_FOREVER: Final = 2**62

Subject = tuple[str, ...]


class Line(msgspec.Struct, eq=False):
    """One limit of one account."""

    limit: Limit
    scope: Scope
    unit: Unit
    marks: list[int]  # amounts of the ladder's steps that weren't told yet, the next one last
    told: bytes = b""
    told_percent: int = -1


class Account(msgspec.Struct, eq=False):
    """One subject's limits at the moment. `until_ns` is when they may be others."""

    subject: Subject
    shown: str
    lines: tuple[Line, ...]
    scopes: tuple[Scope, ...]  # of its lines
    until_ns: int
    claims: tuple[Any, ...] = ()  # its lines as the gate wants them: made once, since every request asks


def subject_of(per: Sequence[str], request: Request) -> Subject:
    """Whom a request counts for."""
    if not per:
        return ()
    identity, tags = request.exchange.identity, request.exchange.tags
    return tuple([_one(dimension, identity, tags, request.model) or NONE for dimension in per])


def _one(dimension: str, identity: Identity, tags: dict[str, str], model: str | None) -> str | None:
    if dimension == "model":
        return model
    if dimension.startswith("tag:"):
        return tags.get(dimension[4:])
    found: str | None = getattr(identity, dimension)
    return found


def shown(per: Sequence[str], subject: Subject) -> str:
    """`team search, model gpt-4o`; `everything` where the budget is for all."""
    named = (f"{dimension.removeprefix('tag:')} {value}" for dimension, value in zip(per, subject, strict=True))
    return ", ".join(named) or "everything"


class Accounts:
    """The accounts of one budget, made when they are first asked for."""

    def __init__(self, name: str, config: Config, zone: ZoneInfo, *, counting: bool = False) -> None:
        self._name = name
        self._config = config
        self._zone = zone
        self._hard = config.hard and not counting
        self._rows: dict[str, list[Row]] = {}
        for row in config.rows:
            self._rows.setdefault(row.subject, []).append(row)
        self._made: dict[Subject, Account] = {}

    def of(self, subject: Subject, now_ns: int) -> Account:
        """The subject's account."""
        account = self._made.get(subject)
        if account is None or now_ns >= account.until_ns:
            if len(self._made) >= MOST:
                self._made.clear()
            account = self._made[subject] = self._make(subject, now_ns)
        return account

    def made(self) -> list[Account]:
        """Those that there are."""
        return list(self._made.values())

    def limits(self, subject: Subject, now_ns: int) -> tuple[list[Limit], int]:
        """A subject's limits, top-ups included, and until when they are so."""
        name = "/".join(subject)
        rows, until_ns = self._rows.get(name, []), _FOREVER
        found = {(limit.unit, limit.period, limit.span_s): limit for limit in self._config.limit}
        special = [*self._config.overrides.get(name, ()), *(row.limit for row in rows if row.limit is not None)]
        found.update({(limit.unit, limit.period, limit.span_s): limit for limit in special})
        for row in rows:
            if row.top_up is None or (ends_ns := row.ends_ns(self._zone)) <= now_ns:
                continue
            until_ns = min(until_ns, ends_ns)
            unit, amount = top_up(row.top_up)
            for key, limit in found.items():
                if limit.unit == unit:
                    found[key] = limit.with_amount(limit.amount + amount)
        return list(found.values()), until_ns

    def _make(self, subject: Subject, now_ns: int) -> Account:
        limits, until_ns = self.limits(subject, now_ns)
        who = ",".join(
            f"{dimension}={quote(value, safe='')}" for dimension, value in zip(self._config.per, subject, strict=True)
        )
        lines = []
        for limit in limits:
            window = limit.window(now_ns, self._zone)
            key = f"{limit.unit}:{quote(self._name, safe='')}:{who}:{window.label}"
            scope = Scope(key, limit.amount, window.ends_ns, limit.span_s * NANO, self._hard)
            steps = sorted({step.share for step in self._config.ladder}, reverse=True)
            marks = [-int(-share * limit.amount // 1) for share in steps]
            lines.append(Line(limit, scope, limit.unit, marks))
            until_ns = min(until_ns, window.ends_ns or _FOREVER)
        scopes = tuple([line.scope for line in lines])
        return Account(subject, shown(self._config.per, subject), tuple(lines), scopes, until_ns)


def share(line: Line, spent: int) -> float:
    """The share used; a limit of nothing is always full."""
    return spent / line.limit.amount if line.limit.amount else 1.0


def resets(line: Line, zone: ZoneInfo) -> str:
    """When it begins anew: a day, a time, or nothing where it rolls."""
    return reset_text(line.scope.ends_ns, zone) if line.scope.ends_ns else ""


def header(account: Account, line: Line, spent: int, zone: ZoneInfo) -> bytes:
    """`team search; 82% of 500 USD/month; resets 2026-12-01`, made anew when the percentage changes."""
    percent = int(share(line, spent) * 100)
    if percent != line.told_percent:
        when = f"; resets {resets(line, zone)}" if line.scope.ends_ns else ""
        text = f"{account.shown}; {percent}% of {line.limit}{when}"
        line.told = "".join([c if " " <= c <= "~" else "?" for c in text])[:512].encode()
        line.told_percent = percent
    return line.told


def spent_text(line: Line, spent: int) -> str:
    """`82.5 USD`."""
    return amounts(spent, line.unit)
