"""A process beside the workers, kept alive: started, spoken to, started again when it dies, ended.

Rules:
1. It gets its end of the channel (`--control FD`) by inheritance, and all it must know beyond its home directory over
   that: nothing secret stands on a command line. It runs in a process group of its own, as workers do.
2. One that dies is started again at once; one that keeps dying early, after 0.1, 0.2, 0.4 … 5 s. Each death is a line
   of the log until the wait has grown to its longest: from then on they are no news.
3. `stop` tells it to end and hears what it has to say until it does, for `stop_s` at most; then it is killed. With the
   channel's end it knows that its supervisor is gone.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from proxy import scheduling
from proxy.control import Channel
from proxy.logs import LEVELS, Log
from proxy.supervisor.process import ending, ending_of, spawned

SETTLED_S = 10.0
LONGEST_BACKOFF_S = 5.0

Message = dict[str, Any]


class Kept:
    """One kind of process. First `keep`, in the end `stop`. `ready_s`: how long it may take to be ready, None for ever;
    `patient`: it gets the processor when nobody else wants it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Log,
        *,
        stop_s: float,
        ready_s: float | None = None,
        patient: bool = False,
    ) -> None:
        self.restarts = 0
        self._name, self._command = name, command
        self._log = log
        self._stop_s, self._ready_s = stop_s, ready_s
        self._patient = patient
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def keep(self) -> None:
        """Begins; returns at once."""
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name=self._name)

    async def stop(self) -> None:
        """Ends it."""
        keeping, self._keeping = self._keeping, None
        if keeping is None:
            return
        self._ending.set()
        if self._channel is not None:
            self._channel.send("stop")
        await asyncio.wait({keeping}, timeout=self._stop_s)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    # --- what kinds differ in

    def options(self) -> list[str]:
        """What follows the command."""
        return []

    def begun(self, channel: Channel) -> None:
        """A life begins: it is told what it must know."""

    def heard(self, message: Message) -> None:
        """It said something; what it logs is in the log already."""

    async def excused(self, status: int) -> float | None:
        """How long to wait where it ended by right, None where it died."""
        return None

    def died(self, failures: int) -> None:
        """It died, for so many times in a row."""

    # --- its lives

    async def _keep(self) -> None:
        failures = 0
        while not self._ending.is_set():
            began_s = time.monotonic()
            try:
                status = await self._live()
            except OSError as error:  # no process can be started
                how: dict[str, Any] = {"reason": str(error)}
            else:
                if self._ending.is_set():
                    return
                if (again_s := await self.excused(status)) is not None:
                    await self._pause(again_s)
                    continue
                how = ending(status)
            failures = 1 if time.monotonic() - began_s >= SETTLED_S else failures + 1
            self.died(failures)
            self.restarts += 1
            await self._again(how, failures)

    async def _again(self, how: dict[str, Any], failures: int) -> None:
        delay_s = min(0.1 * 2.0 ** min(failures - 2, 10), LONGEST_BACKOFF_S) if failures > 1 else 0.0
        if delay_s < LONGEST_BACKOFF_S:
            self._log.error(f"{self._name} died", **how, restarted_in_s=delay_s)
        await self._pause(delay_s)

    async def _pause(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._ending.wait()
        except TimeoutError:
            pass

    async def _live(self) -> int:
        """One life; its return code."""
        process, ours = self._spawn()
        self._process, ended = process, ending_of(process)
        channel = self._channel = await Channel.open(ours)
        loop = asyncio.get_running_loop()
        overdue = loop.call_later(self._ready_s, process.kill) if self._ready_s is not None else None
        try:
            self.begun(channel)
            if self._ending.is_set():
                channel.send("stop")
            async for message in channel:
                if message["type"] == "ready" and overdue is not None:
                    overdue.cancel()
                if message["type"] == "log":
                    self._write(message)
                self.heard(message)
            return await asyncio.shield(ended)
        finally:
            self._channel = None
            if overdue is not None:
                overdue.cancel()
            channel.close()
            process.kill()
            await asyncio.shield(ended)

    def _spawn(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        process, ours = spawned([*self._command, *self.options()])
        if self._patient:
            scheduling.wait_for_everybody(process.pid)
        return process, ours

    def _write(self, message: Message) -> None:
        level, fields = message.get("level"), message.get("fields")
        self._log.write(
            level if level in LEVELS else "error",
            str(message.get("event")),
            fields if isinstance(fields, dict) else {},
        )
