"""Answers what workers may not look up themselves, because it stands in files.

Kinds of questions (`lookup` messages):
- `exchange` {exchange, tenant}: what happened to it (`proxy.why`), None unless it is this tenant's; from the journal,
  or from the ledger once its segments are gone;
- `usage` {tenant}: what this tenant used today and this month;
- `record` {ids, tenant} and `owners` {ids}: who made which object at an upstream (`proxy.objects.makers`);
- `signing` {issuer}: a public key of this issuer isn't known: it is looked for, and told to all workers when found;
- `webhook` {url, body, signature}: POSTs what a policy has to tell (`proxy.supervisor.webhooks`).

Rules: all reading is done in threads, one for each kind of file, so that a long journal doesn't hold up the others. A
worker waits for 2 s at most; what takes longer goes on, and the next question finds it done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from proxy import journal
from proxy.objects.makers import ObjectFile
from proxy.supervisor.usage import TenantUsage
from proxy.supervisor.webhooks import post
from proxy.why import belongs, why

T = TypeVar("T")


class Lookups:
    """The files under one home directory, as questions and answers."""

    def __init__(self, home: Path, ledger: str = "", unknown: Callable[[str], object] = lambda issuer: None) -> None:
        self._unknown = unknown
        self._home = home
        self._ledger = ledger
        self._usage = TenantUsage(home, ledger=ledger)
        self._objects: ObjectFile | None = None
        self._object_thread = ThreadPoolExecutor(1, "objects")
        self._usage_thread = ThreadPoolExecutor(1, "usage")

    async def answer(self, question: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The answer, None where there is none. An unknown kind has none."""
        match question.get("kind", "exchange"):
            case "exchange":
                return await self.exchange(str(question["exchange"]), str(question["tenant"]))
            case "usage":
                return await self._in(self._usage_thread, lambda: self._usage.of(str(question["tenant"])))
            case "record" | "owners":
                return await self._in(self._object_thread, lambda: self._file().answer(dict(question)))
            case "signing":
                self._unknown(str(question["issuer"]))
            case "webhook":
                return await post(str(question["url"]), str(question["body"]), str(question.get("signature", "")))
        return None

    async def exchange(self, id: str, tenant: str | None) -> Mapping[str, Any] | None:
        """What happened to an exchange; None if unknown, or if it isn't this tenant's. Without a tenant: anybody's."""
        records = await asyncio.to_thread(self._records, id)
        if not records or (tenant is not None and not belongs(records, tenant)):
            return None
        return why(records)

    async def close(self) -> None:
        """Close the files; what is being read is given up."""
        self._usage_thread.shutdown(wait=False, cancel_futures=True)
        if self._objects is not None:
            await self._in(self._object_thread, self._objects.close)
        self._object_thread.shutdown(wait=False, cancel_futures=True)

    def _records(self, id: str) -> list[journal.Record]:
        """From the journal; where its segments are gone, from the ledger."""
        from proxy.ledger.lookup import told

        return told(self._home, self._ledger, id)

    def _file(self) -> ObjectFile:
        if self._objects is None:
            self._objects = ObjectFile(self._home)
        return self._objects

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
