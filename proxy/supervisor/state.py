"""The state process, kept alive: started where the configuration asks for it, replaced when it dies.

Rules:
1. It runs where the state is `sqlite:` or `memory:`. It is started beside the workers, not before: nobody accepts a
   request until both are ready.
2. If its first start fails, the proxy doesn't start. Later failures are logged, and it is tried again.
3. A state process that outlived its supervisor with its workers is used for as long as it lives, and then replaced.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.control import Channel
from proxy.logs import LEVELS, Level, Log
from proxy.state.opening import BOUND_S, has_process, open_store, socket_path
from proxy.state.process import OWNED
from proxy.state.protocol import StateLost, Store
from proxy.supervisor.process import ending, ending_of

STATE = (sys.executable, "-m", "proxy.state.process")
READY_S = 20.0
STOP_S = 2.0
SETTLED_S = 10.0
OWNED_S = 1.0
LONGEST_BACKOFF_S = 5.0


class StateError(Exception):
    """The state process can't be started; the text says why."""


@dataclass(frozen=True, slots=True)
class StatePlace:
    """Where workers find the state: `socket` is the state process', empty where a server keeps it."""

    url: str
    socket: str

    def open(self, bound_s: float = BOUND_S, log: Log | None = None) -> Store:
        """A Store of it, in the running loop; the log hears of a server that may forget what it is told."""

        def say(level: Level, event: str, **fields: Any) -> None:
            if log is not None:
                log.write(level, event, fields)

        return open_store(self.url, self.socket, bound_s, say)


class StateKeeper:
    """One state process for one home. First `start`, in the end `stop`; `place` is for the workers."""

    def __init__(self, url: str, home: Path, log: Log, command: Sequence[str] = STATE) -> None:
        self.restarts = 0
        self._url = url
        self._home = home
        self._log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._socket = ""
        self._reason = ""
        self._first: asyncio.Future[None] | None = None

    @property
    def place(self) -> StatePlace:
        """Where it is. Raises `StateError` where no socket can be."""
        if has_process(self._url) and not self._socket:
            try:
                self._socket = str(socket_path(self._home))
            except OSError as error:
                raise StateError(f"no place for the state's socket: {error}") from error
        return StatePlace(self._url, self._socket)

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    async def start(self) -> None:
        """Returns once it answers. Raises `StateError`. A state that needs no process is there already."""
        if self._keeping is not None or not has_process(self.place.url):
            return
        self._first = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep(), name="state process")
        try:
            await self._first
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends it: last, since whoever still serves wants to settle."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self) -> None:
        failures = 0
        while True:
            began_s = time.monotonic()
            status = await self._run()
            if status == OWNED and await self._answers():
                self._started()
                await asyncio.sleep(OWNED_S)
                continue
            failures = 0 if time.monotonic() - began_s >= SETTLED_S else failures + 1
            if failures >= 3:
                self._fail(self._reason or f"it ended {failures} times before it was ready")
            delay_s = min(0.1 * 2 ** (failures - 2), LONGEST_BACKOFF_S) if failures > 1 else 0.0
            self.restarts += 1
            self._log.error("state process died", **ending(status), restarted_in_s=delay_s)
            await asyncio.sleep(delay_s)

    async def _run(self) -> int:
        """One life; its return code."""
        ours, theirs = socket.socketpair()
        options = ["--state", self._url, "--home", str(self._home), "--socket", self._socket]
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220, S603  # our own program; takes milliseconds
                [*self._command, *options, "--control", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self._process, ended = process, ending_of(process)
        channel = await Channel.open(ours)
        overdue = asyncio.get_running_loop().call_later(READY_S, process.kill)
        try:
            async for message in channel:
                if message["type"] == "ready":
                    overdue.cancel()
                    self._started()
                elif message["type"] == "log":
                    self._write(message)
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            channel.send("stop")
            await _within(ended, STOP_S)
            raise
        finally:
            overdue.cancel()
            channel.close()
            process.kill()
            await asyncio.shield(ended)

    def _write(self, message: dict[str, object]) -> None:
        level, fields = message.get("level"), message.get("fields")
        fields = fields if isinstance(fields, dict) else {}
        self._reason = str(fields.get("reason", ""))
        self._log.write(level if level in LEVELS else "error", str(message.get("event")), fields)

    async def _answers(self) -> bool:
        store = self.place.open()
        try:
            await store.ping()
        except StateLost:
            return False
        finally:
            await store.aclose()
        return True

    def _started(self) -> None:
        if self._first is not None and not self._first.done():
            self._first.set_result(None)

    def _fail(self, reason: str) -> None:
        if self._first is not None and not self._first.done():
            self._first.set_exception(StateError(f"the state can't be opened: {reason}"))


async def _within(ended: asyncio.Future[int], patience_s: float) -> None:
    try:
        async with asyncio.timeout(patience_s):
            await asyncio.shield(ended)
    except TimeoutError:
        pass
