"""The keeper of the books: takes in the journal as it is written, lets go of what may go, and closes months that are
due (`proxy.ledger.months`). `proxy.cold` runs it.

Rules:
1. Nobody waits for it: a database that is down, slow or frozen delays reports, never a request. It is asked again,
   after `LONGEST_WAIT_S` at most, and goes on by itself where it stopped.
2. Every failure is told once when it begins and once when it is over; what was torn, set aside or removed is told.
3. It never ends by itself. `stop` lets it finish what is there, for a bounded time; then it is left alone (it can be
   killed anywhere).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proxy.ledger.facts import Counts, Report
from proxy.ledger.labels import Accounts
from proxy.ledger.reporting.budgets import Budget
from proxy.logs import Level

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from proxy.ledger.ingest import Done, Ingest
    from proxy.ledger.months import Months

POLL_S: Final = 0.5
UPKEEP_S: Final = 30.0
LONGEST_WAIT_S: Final = 5.0


class Closing(msgspec.Struct, frozen=True):
    """That months are closed by themselves: how long after their end, where the ledger doesn't say it the zone, and the
    budgets of their reports."""

    after_s: float
    zone: str = "UTC"
    budgets: tuple[Budget, ...] = ()


@dataclass(frozen=True, slots=True)
class Keep:
    """How long what is in the ledger stays elsewhere (`keep_s`, `keep_bytes`: segments), and its rows (None: ever).
    `closing`: None where months are closed by hand only."""

    keep_s: float = 24 * 3600.0
    keep_bytes: int = 4 * 2**30
    detail_days: int | None = None
    closing: Closing | None = None


@dataclass(slots=True)
class _Work:
    """What the thread has while the database answers."""

    engine: Engine
    ingest: Ingest
    months: Months
    upkeep_at_s: float = field(default=0.0)


class Bookkeeper:
    """Keeps one ledger, in a thread. `start` and `stop` are called once; `report` at any time, from any thread.

    `settings` is asked at each turn: what the files say now. `told` is called after each, in the thread.
    """

    def __init__(
        self,
        home: Path,
        url: str,
        settings: Callable[[], tuple[Accounts, Keep]],
        *,
        log: Callable[[Level, str, dict[str, Any]], object],
        told: Callable[[], object] = lambda: None,
        poll_s: float = POLL_S,
    ) -> None:
        self._home, self._url = home, url
        self._settings = settings
        self._log = log
        self._told = told
        self._poll_s = poll_s
        self._counts = Counts()
        self._offsets: dict[str, int] = {}
        self._failing = 0
        self._caught_up_at_s = time.monotonic()
        self._ending = threading.Event()
        self._work: _Work | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Takes in what is there and ends; blocking."""
        self._ending.set()
        self._thread.join(timeout_s)

    def report(self) -> Report:
        """How it stands."""
        waiting = self._work is not None and bool(self._work.months.waits_for)
        return Report(not self._failing, self._caught_up_at_s, replace(self._counts), self._offsets, waiting)

    # --- the thread

    def _run(self) -> None:
        while True:
            last = self._ending.is_set()
            try:
                caught_up = self._turn()
            except Exception as error:
                self._failed(error)
                caught_up = True
            else:
                self._recovered()
            self._told()
            if last and caught_up:
                break
            if caught_up:
                self._ending.wait(min(self._poll_s * 2**self._failing, LONGEST_WAIT_S))
        if self._work is not None:
            with contextlib.suppress(Exception):  # unsaid, it is waited for, until it is there again
                if not self._failing:
                    self._work.months.end()
            self._work.engine.dispose()

    def _turn(self) -> bool:
        work = self._work or self._open()
        began_ns = time.time_ns()
        accounts, keep = self._settings()
        work.ingest.adopt(accounts)
        done = work.ingest.step()
        self._offsets = dict(work.ingest.offsets)
        self._count(done)
        if done.caught_up:
            self._caught_up_at_s = time.monotonic()
            if time.monotonic() >= work.upkeep_at_s:
                work.upkeep_at_s = time.monotonic() + UPKEEP_S
                self._let_go(work, keep)
                work.months.turn(keep.closing, accounts, began_ns)
                self._counts.closed = work.months.closed
        return done.caught_up

    def _open(self) -> _Work:
        from proxy.ledger.ingest import Ingest  # SQLAlchemy takes a while to import: here nobody waits for it
        from proxy.ledger.months import Months
        from proxy.ledger.opening import open_ledger

        engine = open_ledger(self._url, self._home)
        months = Months(engine, self._home, self._log)
        months.begin()
        self._work = _Work(engine, Ingest(engine, self._home, self._settings()[0]), months)
        return self._work

    def _count(self, done: Done) -> None:
        counts = self._counts
        for name in ("events", "rows", "duplicates", "corrections", "resolved"):
            setattr(counts, name, getattr(counts, name) + getattr(done, name))
        counts.rejected += len(done.rejected)
        counts.torn += len(done.torn)
        for aside in done.torn:
            self._log("error", "journal torn", {"kept": str(aside), "effect": "cut at the last whole record"})
        if done.resolved:
            self._log("warning", "attempts of dead workers estimated", {"attempts": done.resolved})
        if done.rejected:
            self._set_aside(done.rejected)

    def _set_aside(self, payloads: list[bytes]) -> None:
        path = self._home / "journal" / "rejected"
        with path.open("ab") as file:
            file.write(b"".join(payload + b"\n" for payload in payloads))
        self._log("error", "journal records not understood", {"records": len(payloads), "kept": str(path)})

    def _let_go(self, work: _Work, keep: Keep) -> None:
        from proxy.ledger.retention import drop_rows, sweep

        ingest = work.ingest
        now_ns = time.time_ns()
        removed = sweep(work.engine, self._home, ingest.host, ingest.offsets, now_ns, keep.keep_s, keep.keep_bytes)
        self._counts.removed += len(removed)
        if removed:
            self._log("info", "journal segments removed", {"segments": len(removed)})
        if keep.detail_days is not None and (dropped := drop_rows(work.engine, keep.detail_days, now_ns)):
            self._log("info", "ledger rows dropped", {"rows": dropped, "older_than_days": keep.detail_days})

    def _failed(self, error: Exception) -> None:
        if type(error).__name__ == "Moved":  # somebody else ingests, too: look again
            return
        self._counts.failures += 1
        self._failing = min(self._failing + 1, 10)
        if self._failing == 1:
            text = str(error).partition("\n")[0]
            self._log("error", "ledger", {"reason": text, "effect": "reports are late; requests go on"})

    def _recovered(self) -> None:
        if self._failing:
            self._failing = 0
            self._log("info", "ledger is back", {})
