"""Who made which object at an upstream: files, batches, stored responses, threads.

With one upstream key shared by many tenants, the upstream can't tell them apart; so the proxy remembers, and shows
nobody another's objects.

Rules: the supervisor owns the file (`<home>/objects.db`, SQLite), workers ask it (`lookup`): stateful endpoints are
not the hot path. An object that isn't in it belongs to nobody here.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

# A whole JSON string that looks like an object id of the OpenAI or Anthropic API: `file-…`, `batch_…`, `resp_…`,
# `vs_…`.
ID: Final = re.compile(
    rb'"((?:file|batch|resp|conv|vs|vsfb|asst|thread|run|step|msg|upload|part|cntr|cfile|ftjob|ftckpt|eval|evalrun|video|chatcmpl|msgbatch)'
    rb'[-_][A-Za-z0-9_-]{6,200})"'
)


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
        """Remembers who made these objects; raises if the supervisor doesn't answer, for then nobody would know."""
        if await self._lookup("record", ids=list(ids), tenant=tenant) is None:
            raise ConnectionError("the supervisor does not answer")

    async def owners(self, ids: Iterable[str]) -> dict[str, str]:
        """Who made these objects; nobody, as far as one knows, if the supervisor doesn't answer."""
        told = await self._lookup("owners", ids=list(ids))
        return {} if told is None else dict(told["owners"])


def ids_in(text: bytes) -> set[str]:
    """The object ids that stand in a JSON text as whole strings."""
    return {match.decode() for match in ID.findall(text)}
