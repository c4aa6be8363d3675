"""Who made which object at an upstream: files, batches, stored responses, threads.

With one upstream key shared by many tenants, the upstream can't tell them apart; so the proxy remembers, and shows
nobody another's objects.

Rules: the supervisor owns the file (`<home>/objects.db`, SQLite), workers ask it (`lookup`): stateful endpoints are
not the hot path. An object that isn't in it belongs to nobody here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from proxy.errors import OVERLOADED, WeirError


class Objects(Protocol):
    """What a policy asks."""

    async def record(self, ids: Iterable[str], tenant: str) -> None:
        """These objects were made by this tenant; the first maker stays."""

    async def owners(self, ids: Iterable[str]) -> dict[str, str]:
        """The makers of these objects, of those that are known."""


class ObjectFile:
    """The supervisor's side. Blocking: call it from a thread."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(home / "objects.db", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS objects (id TEXT PRIMARY KEY, tenant TEXT NOT NULL) WITHOUT ROWID")

    def record(self, ids: Iterable[str], tenant: str) -> None:
        """Remembers who made these objects."""
        self._db.executemany("INSERT OR IGNORE INTO objects VALUES (?, ?)", [(name, tenant) for name in ids])

    def owners(self, ids: Iterable[str]) -> dict[str, str]:
        """Who made these objects."""
        found = {}
        for name in ids:
            row = self._db.execute("SELECT tenant FROM objects WHERE id = ?", (name,)).fetchone()
            if row is not None:
                found[name] = str(row[0])
        return found

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answers a worker's `lookup` of kind `record` or `owners`."""
        if question["kind"] == "record":
            self.record(question["ids"], question["tenant"])
            return {}
        return {"owners": self.owners(question["ids"])}

    def close(self) -> None:
        """Closes the file."""
        self._db.close()


class RemoteObjects:
    """The worker's side."""

    def __init__(self, lookup: Callable[..., Awaitable[dict[str, Any] | None]]) -> None:
        self._lookup = lookup

    async def record(self, ids: Iterable[str], tenant: str) -> None:
        """Remembers who made these objects. Raises WeirError 503 where that can't be remembered."""
        if await self._lookup("record", ids=list(ids), tenant=tenant) is None:
            raise _unknown()

    async def owners(self, ids: Iterable[str]) -> dict[str, str]:
        """Who made these objects. Raises WeirError 503 where nobody can tell."""
        told = await self._lookup("owners", ids=list(ids))
        if told is None:
            raise _unknown()
        return dict(told["owners"])


def _unknown() -> WeirError:
    message = "Whose objects these are can't be looked up at the moment."
    retry = ((b"retry-after", b"1"),)
    return WeirError(503, message, type=OVERLOADED, code="owners_unavailable", headers=retry)
