"""What the simulator has seen: the last requests, the connections, and the answers that their clients left.

`changed` lets a test wait for something to be true instead of sleeping.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from proxy.simulator.incoming import Incoming
from proxy.simulator.invoice import Invoice, Statement, label

_SECRET = (b"authorization", b"x-api-key", b"api-key", b"cookie", b"proxy-authorization")


class Departure(msgspec.Struct):
    """A client that left before its answer was complete.

    `noticed_monotonic` is on the machine's monotonic clock (`time.monotonic()`), so that another process can subtract
    the moment at which it hung up. `after_s` counts from the complete request.
    """

    target: str
    number: int
    noticed_monotonic: float
    noticed_unix: float
    after_s: float
    frames_written: int
    output_tokens: int


class State(msgspec.Struct):
    """Counters since the start or the last reset; `active` and `connections_open` are of this moment."""

    active: int = 0
    connections_open: int = 0
    connections_opened: int = 0
    requests: int = 0
    completed: int = 0
    cancelled: int = 0
    faults: dict[str, int] = {}
    departures: list[Departure] = []


class Record:
    """Keeps the counters, the last `remember` requests and the invoice."""

    def __init__(self, remember: int = 256) -> None:
        self.requests: deque[Incoming] = deque(maxlen=remember)
        self.remembers = remember > 0
        self.state = State()
        self.departures: deque[Departure] = deque(maxlen=1000)
        self.bill = Invoice()
        self._waiting: list[asyncio.Future[None]] = []

    def arrived(self, request: Incoming) -> None:
        """A request is complete. Those to `/sim/` are not counted: looking changes nothing."""
        if request.looks:
            return
        self.state.requests += 1
        request.number = self.state.requests
        self.state.active += 1
        self.requests.append(request)
        self.pulse()

    def answered(self, request: Incoming) -> None:
        if request.looks:
            return
        self.state.active -= 1
        self.state.completed += 1
        self.pulse()

    def left(self, request: Incoming, after_s: float, frames: int, output: int) -> None:
        if request.looks:
            return
        self.state.active -= 1
        self.state.cancelled += 1
        target = request.target.decode("latin-1")
        gone = Departure(target, request.number, time.monotonic(), time.time(), after_s, frames, output)
        self.departures.append(gone)
        self.pulse()

    def faulted(self, name: str) -> None:
        self.state.faults[name] = self.state.faults.get(name, 0) + 1

    def opened(self) -> None:
        self.state.connections_open += 1
        self.state.connections_opened += 1
        self.pulse()

    def closed(self) -> None:
        self.state.connections_open -= 1
        self.pulse()

    def reset(self) -> None:
        """Forget everything but what is going on now."""
        self.state = State(active=self.state.active, connections_open=self.state.connections_open)
        self.requests.clear()
        self.departures.clear()
        self.bill.reset()

    def snapshot(self) -> State:
        return msgspec.structs.replace(self.state, faults=dict(self.state.faults), departures=list(self.departures))

    def statement(self) -> Statement:
        return self.bill.statement()

    def pulse(self) -> None:
        """Wake who waits for a change."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def until(self, true: Callable[[State], object], timeout_s: float) -> State:
        """Wait until `true(state)`. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not true(state := self.snapshot()):
                future = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                await future
            return state


def described(request: Incoming) -> dict[str, Any]:
    """A request for `GET /sim/requests`: credentials by their label only."""
    return {
        "number": request.number,
        "connection": request.connection,
        "method": request.method,
        "target": request.target.decode("latin-1"),
        "version": request.version,
        "headers": [[n.decode("latin-1"), _shown(n, v)] for n, v in request.headers],
        "body_bytes": request.length,
        "body_sha256": request.sha256,
    }


def _shown(name: bytes, value: bytes) -> str:
    text = value.decode("latin-1")
    if name.lower() not in _SECRET:
        return text
    scheme, space, key = text.partition(" ")
    return f"{scheme} {label(key)}" if space else label(text)
