"""Calls of the state process over its socket: sent in batches, each bounded, the connection kept up.

Rules:
1. Calls made in one turn of the loop go as one frame.
2. Every call ends with an answer or with `StateLost`: within `bound_s` where nothing is heard of the process (a waiting
   one within its wait and the bound). While others are answered it is only busy: then a call is lost once nothing was
   heard for `bound_s`, or after `BUSY` times that.
3. Once a call has had no answer, and nothing was heard since it was sent, the process is taken for gone: further
   calls are lost at once, until it is heard of again. What was sent before reaches it if it was only frozen.
4. What is *owed* (a close, the withdrawal of a reservation) is kept until it is answered, and sent again by the next
   connection if this one ends. So neither a hold nor a spending is lost with a connection.
5. A connection that ends is made anew, by itself, for as long as calls may come.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from proxy.state import messages as ask
from proxy.state.protocol import StateLost

Decode = Callable[[msgspec.Raw], Any]

RECONNECT_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
PROBE_S: Final = 0.25
BUSY: Final = 8
MOST_UNSENT_BYTES: Final = 16 * 2**20
MOST_OWED: Final = 10_000
OWED_S: Final = 3000.0  # less than a closed hold is remembered, or a close could be counted twice
_GRACE_S: Final = 0.002
_MOST_UNREAD: Final = 10_000
_TOLD: Final = msgspec.msgpack.Decoder(tuple[str, bytes]).decode
_STATES: Final = ("up", "silent", "down", "closed")


class Pending:
    """A call that waits for its answer. `wait_s` is how long the answer may be put off by `Queued`."""

    __slots__ = ("decode", "due_s", "future", "sent_s", "timer", "wait_s")

    def __init__(self, future: asyncio.Future[Any], decode: Decode, sent_s: float, due_s: float, wait_s: float) -> None:
        self.future = future
        self.decode = decode
        self.sent_s = sent_s
        self.due_s = due_s
        self.wait_s = wait_s
        self.timer: asyncio.TimerHandle | None = None


class Calls:
    """The connection to one state process, and what is under way over it."""

    def __init__(self, path: str, bound_s: float) -> None:
        self.path = path
        self._bound_s = bound_s
        self._session = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._line: _Line | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._down = False  # connecting has failed, and not succeeded since
        self._silent = False
        self._closed = False
        self._heard_s = 0.0
        self._unsent: dict[int, bytes] = {}
        self._flushing = False
        self._pending: dict[int, Pending] = {}  # the first is due first
        self._waiting: dict[int, Pending] = {}
        self._following: dict[int, Following] = {}
        self._owed: dict[int, tuple[float, bytes]] = {}  # when, and what
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Calls {self.path} {self.state} {len(self._pending)} pending, {len(self._waiting)} waiting>"

    @property
    def state(self) -> str:
        """`up`, `silent` (connected, but not answering), `down`, or `closed`."""
        return _STATES[3 if self._closed else 2 if self._down else 1 if self._silent else 0]

    def number(self) -> int:
        """For the next request."""
        return next(self._numbers)

    async def call(self, request: ask.Ask, decode: Decode, wait_s: float = 0.0, *, owed: bool = False) -> Any:
        """The decoded answer. Raises StateLost, or ValueError for a request that makes no sense."""
        future: asyncio.Future[Any] = self._loop.create_future()
        number = request.number
        self._begin(request, Pending(future, decode, 0.0, 0.0, wait_s), owed)
        try:
            return await future
        finally:
            self._pending.pop(number, None)
            if self._waiting and (waiting := self._waiting.pop(number, None)) is not None and waiting.timer is not None:
                waiting.timer.cancel()

    def tell(self, request: ask.Ask) -> None:
        """Sends what is owed, without waiting for the answer."""
        data = ask.encode(request)
        self._owe(request.number, data)
        if self._line is not None:
            self._queue(request.number, data)

    def follow(self, topic: str, after: str | None) -> Following:
        """A subscription."""
        number = self.number()
        begun: asyncio.Future[Any] = self._loop.create_future()
        following = self._following[number] = Following(self, number, begun)
        self._begin(ask.Follow(number, topic, after), Pending(begun, _TOLD, 0.0, 0.0, 0.0), owed=False)
        return following

    def unfollow(self, number: int) -> None:
        """The end of one."""
        if self._following.pop(number, None) is not None and self._line is not None:
            request = ask.Unfollow(self.number(), number)
            self._queue(request.number, ask.encode(request))

    async def aclose(self) -> None:
        """Sends what is to be sent, and ends the connection."""
        self._flush()
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        line = self._line
        self.lost(line)
        if line is not None:
            await line.close()

    # --- sending

    def _begin(self, request: ask.Ask, pending: Pending, owed: bool) -> None:
        data, line = ask.encode(request), self._line
        if owed:
            self._owe(request.number, data)
        if self._closed or self._down or self._silent or (line is not None and line.unread > MOST_UNSENT_BYTES):
            self._lose(pending.future)
            if line is None:
                self._connect()
            elif owed:
                self._queue(request.number, data)
            return
        pending.sent_s = self._loop.time()
        pending.due_s = pending.sent_s + self._bound_s
        self._pending[request.number] = pending
        if self._timer is None:
            self._timer = self._loop.call_later(self._bound_s, self._expire)
        self._queue(request.number, data)

    def _queue(self, number: int, data: bytes) -> None:
        self._unsent[number] = data
        if self._line is None:
            self._connect()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._line is not None and self._unsent:
            data = ask.frame(self._unsent.values())
            self._unsent = {}
            self._line.write(data)

    def _owe(self, number: int, data: bytes) -> None:
        while len(self._owed) >= MOST_OWED:
            del self._owed[next(iter(self._owed))]
        self._owed[number] = (self._loop.time(), data)

    # --- time

    def _expire(self) -> None:
        """Something is due. What has arrived meanwhile is read first: this loop itself may have been late."""
        self._timer = self._loop.call_later(_GRACE_S, self._expired)

    def _expired(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        while self._pending:
            number, first = next(iter(self._pending.items()))
            if first.due_s > now_s:
                self._timer = self._loop.call_later(first.due_s - now_s, self._expire)
                return
            del self._pending[number]
            until_s = min(self._heard_s + self._bound_s, first.sent_s + BUSY * self._bound_s)
            if until_s > now_s and self._heard_s > first.sent_s:
                first.due_s = until_s
                self._pending[number] = first  # behind those that were sent since: late by as much as they are younger
                continue
            if self._heard_s <= first.sent_s and not self._silent:
                self._silent = True
                self._probe()
            self._lose(first.future)

    def _probe(self) -> None:
        """Asks for a sign of life for as long as there is none."""
        if self._silent and not self._closed and self._line is not None:
            self._queue(0, ask.encode(ask.Ping(0)))
            self._loop.call_later(PROBE_S, self._probe)

    def _lose(self, future: asyncio.Future[Any]) -> None:
        if not future.done():
            future.set_exception(StateLost(f"the state process at {self.path} doesn't answer ({self.state})"))

    # --- hearing

    def heard(self, reply: ask.Heard) -> None:
        """An answer has come."""
        self._silent, self._heard_s = False, self._loop.time()
        if reply.error != "lost":
            self._owed.pop(reply.number, None)
        following = self._following.get(reply.number)
        if following is not None and reply.number not in self._pending:
            following.heard(reply)
            return
        pending = self._pending.pop(reply.number, None) or self._waiting.get(reply.number)
        if pending is not None and not pending.future.done():
            self._settle(reply, pending)

    def _settle(self, reply: ask.Heard, pending: Pending) -> None:
        if reply.error:
            lost = reply.error == "lost"
            pending.future.set_exception(StateLost("it couldn't be written down") if lost else ValueError(reply.error))
            return
        value = pending.decode(reply.value)
        if isinstance(value, ask.Queued):
            self._waiting[reply.number] = pending
            pending.timer = self._loop.call_later(pending.wait_s + self._bound_s, self._lose, pending.future)
        else:
            pending.future.set_result(value)

    # --- the connection

    def _connect(self) -> None:
        if self._connecting is None and not self._closed:
            self._connecting = self._loop.create_task(self._keep_connecting(), name="connect to state")

    async def _keep_connecting(self) -> None:
        """Until it is connected."""
        for attempt in itertools.count():
            try:
                async with asyncio.timeout(max(self._bound_s, 0.1)):
                    _, line = await self._loop.create_unix_connection(lambda: _Line(self), self.path)
                self._connected(line)
                return
            except (OSError, TimeoutError):
                self._down = True
                self.lost(None)
            await asyncio.sleep(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])

    def _connected(self, line: _Line) -> None:
        self._connecting, self._line, self._down, self._silent = None, line, False, False
        since_s = self._loop.time() - OWED_S
        self._owed = {number: owed for number, owed in self._owed.items() if owed[0] >= since_s}
        owed = {number: data for number, (_, data) in self._owed.items() if number not in self._unsent}
        self._unsent = {-1: ask.encode(ask.Hello(0, self._session)), **owed, **self._unsent}
        self._flush()

    def lost(self, line: _Line | None) -> None:
        """The connection has ended, and with it every call over it."""
        if line is not self._line:
            return
        self._line, self._unsent = None, {}
        for pending in (*self._pending.values(), *self._waiting.values()):
            self._lose(pending.future)
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for following in list(self._following.values()):
            following.lose()
        if line is not None:
            self._connect()


class Following(AsyncIterator[tuple[str, bytes]]):
    """The messages of one `Follow`."""

    def __init__(self, calls: Calls, number: int, begun: asyncio.Future[Any]) -> None:
        self._calls = calls
        self._number = number
        self._news = asyncio.Event()
        self._messages: deque[tuple[str, bytes]] = deque()
        self._lost = False
        begun.add_done_callback(self._begun)

    async def __anext__(self) -> tuple[str, bytes]:
        while not self._messages:
            if self._lost:
                raise StateLost("the feed has ended: follow again")
            self._news.clear()
            await self._news.wait()
        return self._messages.popleft()

    async def aclose(self) -> None:
        """Follows no longer."""
        self.lose()

    def heard(self, reply: ask.Heard) -> None:
        """A message, or the end."""
        if reply.error or len(self._messages) >= _MOST_UNREAD:
            self.lose()
            return
        self._messages.append(_TOLD(reply.value))
        self._news.set()

    def lose(self) -> None:
        """No more will come."""
        self._lost = True
        self._calls.unfollow(self._number)
        self._news.set()

    def _begun(self, begun: asyncio.Future[Any]) -> None:
        if begun.cancelled() or begun.exception() is not None:
            self.lose()


class _Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._frames = ask.Frames()
        self._transport: asyncio.WriteTransport | None = None
        self._ended = asyncio.Event()

    @property
    def unread(self) -> int:
        """Bytes that the process hasn't read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Sends."""
        if self._transport is not None:
            self._transport.write(data)

    async def close(self) -> None:
        """Ends it, after what was written, if that is read in time."""
        if self._transport is not None:
            self._transport.close()
            try:
                async with asyncio.timeout(0.1):
                    await self._ended.wait()
            except TimeoutError:
                self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's

    def data_received(self, data: bytes) -> None:
        for payload in self._frames.feed(data):
            for reply in ask.replies(payload):
                self._calls.heard(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended.set()
        self._calls.lost(self)
