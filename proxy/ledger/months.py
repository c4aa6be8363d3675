"""Closing months by themselves, once they have been over for so long. `proxy.ledger.keeping` asks, on every host.

Rules:
1. Months are closed in order, each by the rules of `proxy.ledger.closing`: in the zone of the closings before it, else
   in that of the policy files.
2. It waits for every host that was heard of in the month or since, until that one has taken in all that it had when
   the month was over, or has ended with nothing left; and for attempts that were sent in the month and are open, unless
   their host has ended. Whom it waits for is told once. `weir close` waits for nobody.
3. Once in a fleet: the lease is the ledger's own lock, which only one connection has, and which ends with it. What its
   holder began is then undone, and the next host that looks does it. A claim of the Store would bind the books to
   another server, and wouldn't keep a holder who was away from writing when he is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from socket import gethostname
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, Engine, func, select, text

from proxy.audit import AuditLog
from proxy.ledger import spool
from proxy.ledger.closing import QUARTER_NS, ClosedAlready, Month, close, month
from proxy.ledger.keeping import Closing
from proxy.ledger.labels import Accounts
from proxy.ledger.tables import QUARTER_S, closings, meta, open_attempts, quarters, segments
from proxy.logs import Level

_MARKED_NS: Final = 3600 * 10**9
_MARGIN_NS: Final = 60 * 10**9
"""What is stamped with a time is in the journal by then, however busy the machine is."""
_HOST: Final = "host:"
_ORIGIN: Final = "closing.after_s"
_SAY: Final = text(
    "INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


class Mark(msgspec.Struct, frozen=True):
    """What a host says of itself: all that it had at `all_ns` is in the ledger. `ended`: nothing comes any more."""

    name: str
    all_ns: int = 0
    ended: bool = False


class Months:
    """One host's part. First `begin`, then `turn` while it has all of its journal, in the end `end`."""

    def __init__(
        self,
        engine: Engine,
        home: Path,
        log: Callable[[Level, str, dict[str, Any]], object],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.closed = 0
        self.waits_for: tuple[str, ...] = ()
        self._engine = engine
        self._home = home
        self._host = spool.host_id(home)
        self._log = log
        self._clock = clock
        self._mark = Mark(gethostname())
        self._asked: Closing | None = None
        self._next_ns = 0

    def begin(self) -> None:
        """This host is there, again."""
        with self._engine.begin() as db:
            before = _marks(db).get(self._host, self._mark)
            self._say(db, msgspec.structs.replace(self._mark, all_ns=before.all_ns, ended=False))

    def turn(self, asked: Closing | None, accounts: Accounts, all_ns: int) -> None:
        """All that the journal had at `all_ns` is in the ledger: closes the next month, if it is due."""
        if all_ns - _MARGIN_NS - self._mark.all_ns >= _MARKED_NS:
            with self._engine.begin() as db:
                self._say(db, msgspec.structs.replace(self._mark, all_ns=all_ns - _MARGIN_NS))
        if asked != self._asked:
            self._asked, self._next_ns, self.waits_for = asked, 0, ()
        if asked is not None and self._clock() >= self._next_ns:
            self._look(asked, accounts)

    def end(self) -> None:
        """Nothing comes from here any more, if nobody writes to the journal; until the next `begin`."""
        now_ns = self._clock() + 10**9  # one that began a moment ago has its lock by now
        if not any(spool.in_use(segment, now_ns) for segment in spool.listing(self._home)):
            with self._engine.begin() as db:
                self._say(db, msgspec.structs.replace(self._mark, ended=True))

    def _say(self, db: Connection, mark: Mark) -> None:
        db.execute(_SAY, {"name": _HOST + self._host, "value": msgspec.json.encode(mark).decode()})
        self._mark = mark

    def _look(self, asked: Closing, accounts: Accounts) -> None:
        with self._engine.connect() as db:
            wanted = next_month(db, asked.zone)
            if wanted is None:
                return
            self._next_ns = wanted.end_quarter * QUARTER_NS + round(asked.after_s * 1e9)
            due = self._clock() >= self._next_ns
            waits = (*waits_for(db, wanted),) if due else ()
        if waits and waits != self.waits_for:
            hint = f"`weir close {wanted.name}` closes it all the same"
            self._log("warning", "month waits", {"month": wanted.name, "for": ", ".join(waits), "hint": hint})
        self.waits_for = waits
        if due and not waits:
            self._close(wanted, asked, accounts)

    def _close(self, wanted: Month, asked: Closing, accounts: Accounts) -> None:
        try:
            done = close(self._engine, wanted, self._clock(), accounts, asked.budgets)
        except ClosedAlready:  # by another host, or by hand, since it was looked for
            return
        self.closed += 1
        said: dict[str, object] = {"zone": wanted.zone, "attempts": done.attempts, "nanodollars": done.nanodollars}
        said["accrued"] = done.accrued
        self._log("info", "month closed", {"month": wanted.name, **said, "head": done.hash})
        try:
            AuditLog(self._home).append("close", who="weir", origin=_ORIGIN, subject=wanted.name, details=said)
        except OSError as error:
            self._log("error", "the audit log can't be written", {"act": "close", "reason": str(error)})


def next_month(db: Connection, zone: str) -> Month | None:
    """The first month that is open; None where nothing was ever counted."""
    last = db.execute(
        select(closings.c.end_quarter, closings.c.zone).order_by(closings.c.end_quarter.desc()).limit(1)
    ).first()
    if last is not None:
        return _month_at(*last)
    first = db.scalar(select(func.min(quarters.c.quarter)))
    return None if first is None else _month_at(first, zone)


def waits_for(db: Connection, wanted: Month) -> Iterator[str]:
    """What may still come for a month that is over."""
    first_ns, end_ns = wanted.first_quarter * QUARTER_NS, wanted.end_quarter * QUARTER_NS
    marks = _marks(db)
    seen = {host: last_ns or 0 for host, last_ns in db.execute(_LAST)}
    for host in sorted(marks.keys() | seen.keys()):
        mark = marks.get(host, Mark(host))
        heard = max(seen.get(host, 0), mark.all_ns) >= first_ns
        if heard and mark.all_ns < end_ns and not mark.ended:
            yield f"the journal of {mark.name}"
    sent = open_attempts.c.reserved_ns.between(first_ns, end_ns - 1)
    for host, count in db.execute(_OPEN.where(sent)):
        mark = marks.get(host, Mark(host))
        if not mark.ended:
            yield f"{count} open attempts of {mark.name}"


_LAST: Final = select(segments.c.host, func.max(segments.c.last_ns)).group_by(segments.c.host)
_OPEN: Final = select(open_attempts.c.host, func.count()).group_by(open_attempts.c.host).order_by(open_attempts.c.host)


def _marks(db: Connection) -> dict[str, Mark]:
    found = db.execute(select(meta.c.name, meta.c.value).where(meta.c.name.startswith(_HOST)))
    return {name.removeprefix(_HOST): msgspec.json.decode(value, type=Mark) for name, value in found}


def _month_at(quarter: int, zone: str) -> Month:
    return month(f"{datetime.fromtimestamp(quarter * QUARTER_S, ZoneInfo(zone)):%Y-%m}", zone)
