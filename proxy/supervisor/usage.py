"""What each tenant used today and this month: behind `GET /weir/me`.

Rules: days are UTC. It comes from the ledger's sums and what the journal holds beyond them. Where the ledger can't be
read, it is summed from the journal alone, as far back as that goes: sums are kept and only what is new is read;
segments that were last written before this month aren't read at all. Blocking: for one thread. Money is integer
nano-dollars; what has no price is counted, never taken for 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from proxy import journal

if TYPE_CHECKING:
    from sqlalchemy import Engine

_PATIENCE_S = 15.0
PENDING = 100_000
"""Exchanges whose attempts are settled and which haven't ended; beyond it the oldest is forgotten."""


def _quarter(day: date) -> int:
    """The first quarter hour of a day, as the ledger counts them."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) // 900


class Totals(msgspec.Struct):
    """Sums over a tenant's exchanges. `unpriced` of them have no known cost and are in no sum."""

    exchanges: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    nanodollars: int = 0
    unpriced: int = 0

    def add(self, other: Totals) -> None:
        """Add the other's numbers to these."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class TenantUsage:
    """The sums of all tenants under one home directory, by day."""

    def __init__(self, home: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC), ledger: str = "") -> None:
        self._home = home
        self._now = now
        self._ledger = ledger
        self._engine: Engine | None = None
        self._not_before_s = 0.0  # when to ask a ledger again that couldn't be read
        self._read_to: dict[Path, int] = {}
        self._days: dict[tuple[str, date], Totals] = {}
        self._tokens: dict[str, tuple[int, int]] = {}

    def of(self, tenant: str) -> dict[str, Any]:
        """`today` and `month` of a tenant, up to this moment."""
        today = self._now().date()
        first = today.replace(day=1)
        if (told := self._by_ledger(tenant, first, today)) is not None:
            return told
        self._read_on(first)
        month = Totals()
        for (whose, day), totals in self._days.items():
            if whose == tenant and day >= first:
                month.add(totals)
        now = self._days.get((tenant, today), Totals())
        return {"zone": "UTC", "today": msgspec.to_builtins(now), "month": msgspec.to_builtins(month)}

    def _by_ledger(self, tenant: str, first: date, today: date) -> dict[str, Any] | None:
        """The same from the ledger; None where there is none, or it can't be read now."""
        if not self._ledger or time.monotonic() < self._not_before_s:
            return None
        from proxy.ledger.opening import address, engine_of  # takes a while to import: only where there is a ledger
        from proxy.ledger.spool import host_id
        from proxy.ledger.usage import used

        try:
            if self._engine is None:
                where = address(self._ledger, self._home)
                if where.drivername == "sqlite" and not Path(where.database or "").exists():
                    return None
                self._engine = engine_of(self._ledger, self._home, reading=True)
            since, now = (_quarter(day) for day in (first, today))
            day, month = used(self._engine, self._home, host_id(self._home), tenant, since, now)
        except Exception:  # away, or far behind: the journal knows what is recent
            self._not_before_s = time.monotonic() + _PATIENCE_S
            return None
        return {"zone": "UTC", "today": day._asdict(), "month": month._asdict()}

    def _read_on(self, first: date) -> None:
        self._days = {key: totals for key, totals in self._days.items() if key[1] >= first}
        since_s = datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()
        for path in journal.segments(self._home):
            if path.stat().st_mtime >= since_s:
                for record in self._new_in(path):
                    self._count(record, first)

    def _new_in(self, path: Path) -> Iterator[journal.Record]:
        at = self._read_to.get(path, 0)
        with path.open("rb") as file:
            file.seek(at)
            data = file.read()
        for end, payload in journal.frames(data):
            self._read_to[path] = at + end
            yield orjson.loads(payload)

    def _count(self, record: journal.Record, first: date) -> None:
        match record.get("event"):
            case "settled":
                unbilled = record.get("known") == "observed" and record.get("usage") is None
                tokens = {} if unbilled else record.get("tokens") or {}
                given, made = self._tokens.pop(record["exchange"], (0, 0))
                given, made = given + (tokens.get("input_tokens") or 0), made + (tokens.get("output_tokens") or 0)
                self._tokens[record["exchange"]] = (given, made)
                if len(self._tokens) > PENDING:
                    del self._tokens[next(iter(self._tokens))]
            case "ended":
                day = datetime.fromtimestamp(record["at"] / 1e9, UTC).date()
                given, made = self._tokens.pop(record["exchange"], (0, 0))
                cost = record.get("nanodollars")
                if day >= first:
                    totals = self._days.setdefault((record["tenant"], day), Totals())
                    totals.add(Totals(1, given, made, cost or 0, int(cost is None)))
