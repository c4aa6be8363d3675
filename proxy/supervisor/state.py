"""The state process, kept alive: started where the configuration asks for it, replaced when it dies.

Rules:
1. It runs where the state is `sqlite:` or `memory:`. It is started beside the workers, not before: nobody accepts a
   request until both are ready.
2. If its first start fails, the proxy doesn't start. Later failures are logged, and it is tried again.
3. A state process that outlived its supervisor with its workers is used for as long as it lives, and then replaced.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.logs import Level, Log
from proxy.state.opening import BOUND_S, has_process, open_store, socket_path
from proxy.state.process import OWNED
from proxy.state.protocol import StateLost, Store
from proxy.supervisor.kept import Kept, Message

STATE = (sys.executable, "-m", "proxy.state.process")
READY_S = 20.0
STOP_S = 2.0
OWNED_S = 1.0


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


class StateKeeper(Kept):
    """One state process for one home. First `start`, in the end `stop`; `place` is for the workers.

    It is ended last, since whoever still serves wants to settle.
    """

    def __init__(self, url: str, home: Path, log: Log, command: Sequence[str] = STATE) -> None:
        super().__init__("state process", command, log, ready_s=READY_S, stop_s=STOP_S)
        self._url = url
        self._home = home
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

    async def start(self) -> None:
        """Returns once it answers. Raises `StateError`. A state that needs no process is there already."""
        if self._first is not None or not has_process(self.place.url):
            return
        self._first = asyncio.get_running_loop().create_future()
        self.keep()
        try:
            await self._first
        except BaseException:
            await self.stop()
            raise

    def options(self) -> list[str]:
        """Which state, and where."""
        return ["--state", self._url, "--home", str(self._home), "--socket", self._socket]

    def heard(self, message: Message) -> None:
        """The first `ready` ends `start`; what it logged last is why it died."""
        if message["type"] == "ready":
            self._started()
        elif message["type"] == "log" and isinstance(fields := message.get("fields"), dict):
            self._reason = str(fields.get("reason", ""))

    async def excused(self, status: int) -> float | None:
        """Another one has this state, and answers."""
        if status != OWNED or not await self._answers():
            return None
        self._started()
        return OWNED_S

    def died(self, failures: int) -> None:
        """Three times before it was ready: it can't start."""
        if failures >= 3 and self._first is not None and not self._first.done():
            reason = self._reason or f"it ended {failures} times before it was ready"
            self._first.set_exception(StateError(f"the state can't be opened: {reason}"))

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
