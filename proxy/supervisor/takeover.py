"""Takes the place of a supervisor that died: its workers' listeners first, then their duty.

Rules: orphans serve until our own workers are ready, then they drain; whoever turns up later (a process that was
stopped, or that noticed late) is told to drain as well. What their journals hold is the ledger's and the recovery's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

from proxy.control import Channel
from proxy.logs import Log
from proxy.orphan import Orphan, find
from proxy.supervisor.listeners import name_of, split

LOOK_S = 5.0
NOTICED_S = 10.0  # for orphans to notice that they are: first they finish their imports
RETRY_S = 0.05


class Takeover:
    """The orphans of one home. `listeners` at the start, `follow` once our own workers are ready."""

    def __init__(self, home: Path, log: Log) -> None:
        self.drained = 0
        self._home = home
        self._log = log
        self._found: list[Orphan] = []
        self._draining: set[asyncio.Task[None]] = set()

    async def look(self) -> None:
        """Take the lead of all that are there now."""
        self._found += await asyncio.to_thread(find, self._home)

    def listeners(self, addresses: Sequence[str]) -> list[socket.socket]:
        """The sockets that an orphan accepts on, if they are what is asked for; else none."""
        for orphan in self._found:
            names = [name_of(sock) for sock in orphan.listeners]
            if all(any(_fits(name, address) for name in names) for address in addresses) and names:
                self._log.warning("taking over from a supervisor that died", workers=[one.pid for one in self._found])
                taken, orphan.listeners = orphan.listeners, []
                for sock in taken:
                    sock.setblocking(False)
                return taken
        return []

    async def follow(self, timeout_s: float, idle_s: float) -> None:
        """Tell them to drain, and whoever turns up later; until cancelled."""
        try:
            while True:
                for orphan in self._found:
                    task = asyncio.create_task(self._drain(orphan, timeout_s, idle_s), name=f"orphan {orphan.pid}")
                    self._draining.add(task)
                    task.add_done_callback(self._draining.discard)
                self._found = []
                await asyncio.sleep(LOOK_S)
                await self.look()
        finally:
            for task in self._draining:
                task.cancel()
            self.close()

    def close(self) -> None:
        """Hang up on those that weren't told to drain: they go on."""
        for orphan in self._found:
            orphan.close()
        self._found = []

    async def _drain(self, orphan: Orphan, timeout_s: float, idle_s: float) -> None:
        orphan.close_listeners()
        channel = await Channel.open(orphan.line)
        try:
            channel.send("drain", timeout_s=timeout_s, idle_s=idle_s)
            async with asyncio.timeout(timeout_s + LOOK_S):
                async for _ in channel:
                    pass
            self.drained += 1
            self._log.info("orphaned worker drained", pid=orphan.pid)
        except TimeoutError:
            self._log.error("orphaned worker doesn't end", pid=orphan.pid, hint="end it by SIGKILL")
        finally:
            channel.close()


def _fits(name: str, address: str) -> bool:
    """Whether a bound name is what the address asks for; port 0 is any port."""
    if name == address or name.startswith("unix:") or address.startswith("unix:"):
        return name == address
    (host, port), (wanted, wanted_port) = split(name), split(address)
    return (wanted in (host, "localhost")) and wanted_port in (0, port)
