"""The state process' side of the socket: many connections, one core, one transaction for what came in together.

Rules:
1. A request is decided at once, in the order in which it came. Its reply leaves only after what it changed has been
   written (`flush`, once for everything that the loop found readable): group commit. If it can't be written, the
   replies say `lost`, and what changed stays to be written with the next.
2. Who waits is told by another reply. A waiter whose connection ends stops waiting. A client that doesn't know what
   became of a reservation withdraws it, over this connection or the next.
3. Blobs are read and written in a thread of their own.
4. A connection that doesn't read what it is sent is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from proxy.state import messages as ask
from proxy.state.blobs import Shelf
from proxy.state.book import Waiter
from proxy.state.core import Core
from proxy.state.topics import position_of

TICK_S: Final = 0.25
MOST_UNREAD_BYTES: Final = 64 * 2**20
_LATER: Final = object()


class Keeper(Protocol):
    """Writes down what changed; or raises, and has done nothing."""

    def write(self, core: Core) -> None:
        """All that changed, at once; it doesn't wait for a disk, since everybody waits for it."""

    def checkpoint(self) -> None:
        """What takes its time, called in a thread of its own after something was written."""


class Forgetful:
    """Keeps nothing."""

    def write(self, core: Core) -> None:
        """Nothing to do."""
        core.changes.clear()

    def checkpoint(self) -> None:
        """Nothing to do."""


class Serving:
    """Answers connections out of one core. A protocol factory: `loop.create_unix_server(serving.connection, path)`."""

    def __init__(
        self,
        core: Core,
        keeper: Keeper,
        shelf: Shelf,
        log: Callable[..., object],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.core = core
        self.connections: set[Connection] = set()
        self._keeper = keeper
        self._shelf = shelf
        self._log = log
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "blobs")
        self._checkpoints = ThreadPoolExecutor(1, "checkpoints")
        self._checkpointing: asyncio.Future[None] | None = None
        self._dirty = False
        self._speaking: set[Connection] = set()
        self._flushing = False
        self._sessions: dict[str, Connection] = {}
        self._waits: dict[int, tuple[Connection, int, asyncio.TimerHandle]] = {}  # by ticket
        self._followers: dict[str, set[tuple[Connection, int]]] = {}
        self._writable = True
        self._filing = True  # whether the last checkpoint succeeded
        self._ticking = self._loop.call_later(TICK_S, self._tick)
        self._do: dict[type[ask.Ask], Callable[[Connection, Any, int], Any]] = {
            ask.Hello: self._hello,
            ask.Reserve: self._reserve,
            ask.Withdraw: self._withdraw,
            ask.Adjust: lambda c, m, now: core.book.adjust(m.id, m.held, m.spent, m.until_ns, m.scopes, now),
            ask.Close: lambda c, m, now: core.book.close(m.id, m.spent, m.scopes, now),
            ask.Levels: lambda c, m, now: core.book.levels(m.scopes, now),
            ask.ListStanding: lambda c, m, now: core.book.standing(m.owner, m.overdue_ns, now),
            ask.Take: lambda c, m, now: core.rates.take(m.rates, now),
            ask.Give: lambda c, m, now: core.rates.give(m.rates, now),
            ask.Get: lambda c, m, now: self._blob(c, m, partial(shelf.get, m.key, now)),
            ask.Put: lambda c, m, now: self._blob(c, m, partial(shelf.put, m.key, m.value, now + m.ttl_ns, m.tags)),
            ask.Delete: lambda c, m, now: self._blob(c, m, partial(shelf.delete, m.keys, now)),
            ask.DeleteTagged: lambda c, m, now: self._blob(c, m, partial(shelf.delete_tagged, m.tag, now)),
            ask.Keys: lambda c, m, now: self._blob(c, m, partial(shelf.keys, m.prefix, m.limit, now)),
            ask.Claim: lambda c, m, now: core.duties.claim(m.duty, m.owner, m.ttl_s, now),
            ask.Resign: lambda c, m, now: core.duties.resign(m.duty, m.owner),
            ask.Publish: self._publish,
            ask.Follow: self._follow,
            ask.Unfollow: self._unfollow,
            ask.Ping: lambda c, m, now: now,
        }

    def __repr__(self) -> str:
        return f"<Serving {len(self.connections)} connections, {self.core!r}>"

    def connection(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self)

    def close(self) -> None:
        """Answers what was asked, writes it down, and ends all connections."""
        self._ticking.cancel()
        self.flush()
        for connection in list(self.connections):
            connection.end()
        self.flush()  # what the ends of waits changed
        self._thread.shutdown()
        self._checkpoints.shutdown()

    # --- what connections call

    def heard(self, connection: Connection, requests: list[ask.Request]) -> None:
        """Does what was asked for."""
        now_ns = self._clock()
        for request in requests:
            try:
                value = self._do[type(request)](connection, request, now_ns)
            except ValueError as error:
                self._reply(connection, ask.Reply(request.number, None, str(error) or "invalid"))
                continue
            if value is not _LATER:
                self._reply(connection, ask.Reply(request.number, value))

    def left(self, connection: Connection) -> None:
        """A connection has ended: nobody waits there any more."""
        self.connections.discard(connection)
        self._speaking.discard(connection)
        if self._sessions.get(connection.session) is connection:
            del self._sessions[connection.session]
        for followers in self._followers.values():
            followers.difference_update([one for one in followers if one[0] is connection])
        for waiter in list(connection.waits.values()):
            self._end_wait(waiter)
            self.core.book.cancel(waiter, self._clock())
        self._flush_soon()

    def flush(self) -> None:
        """Writes down what changed, then lets the replies go."""
        self._flushing = False
        self._tell_waiters()
        written = self._write()
        speaking, self._speaking = self._speaking, set()
        for connection in speaking:
            connection.flush(written)

    # --- requests

    def _hello(self, connection: Connection, request: ask.Hello, now_ns: int) -> None:
        older = self._sessions.get(request.session)
        if older is not None:
            older.end()
        connection.session = request.session
        self._sessions[request.session] = connection

    def _reserve(self, connection: Connection, request: ask.Reserve, now_ns: int) -> object:
        answer = self.core.book.reserve(request.hold, now_ns, request.wait_ns > 0)
        if not isinstance(answer, Waiter):
            return answer
        timer = self._loop.call_later(request.wait_ns / 1e9, self._overdue, answer)
        self._waits[answer.ticket] = (connection, request.number, timer)
        connection.waits[request.number] = answer
        return ask.Queued()

    def _withdraw(self, connection: Connection, request: ask.Withdraw, now_ns: int) -> None:
        waiter = connection.waits.get(request.reserve)
        if waiter is None:
            self.core.book.withdraw(request.id, now_ns)
        else:
            self._end_wait(waiter)
            self.core.book.cancel(waiter, now_ns)

    def _publish(self, connection: Connection, request: ask.Publish, now_ns: int) -> str:
        position = self.core.topics.publish(request.topic, request.message, now_ns)
        for follower, number in self._followers.get(request.topic, ()):
            self._reply(follower, ask.Reply(number, (position, request.message)))
        return position

    def _follow(self, connection: Connection, request: ask.Follow, now_ns: int) -> object:
        topics, number = self.core.topics, request.number
        start = position_of(topics.last) if request.after is None else request.after
        self._reply(connection, ask.Reply(number, (start, b"")))
        for told in topics.after(request.topic, start):
            self._reply(connection, ask.Reply(number, told))
        self._followers.setdefault(request.topic, set()).add((connection, number))
        return _LATER

    def _unfollow(self, connection: Connection, request: ask.Unfollow, now_ns: int) -> None:
        for followers in self._followers.values():
            followers.discard((connection, request.follow))

    def _blob(self, connection: Connection, request: ask.Ask, work: Callable[[], object]) -> object:
        doing = self._loop.run_in_executor(self._thread, work)
        doing.add_done_callback(partial(self._blob_done, connection, request.number))
        return _LATER

    def _blob_done(self, connection: Connection, number: int, doing: asyncio.Future[object]) -> None:
        error = doing.exception()
        if error is None:
            self._reply(connection, ask.Reply(number, doing.result()))
        elif isinstance(error, ValueError):
            self._reply(connection, ask.Reply(number, None, str(error)))
        else:
            self._log("error", "blobs_failed", error=repr(error))
            self._reply(connection, ask.Reply(number, None, "lost"))

    # --- waits

    def _overdue(self, waiter: Waiter) -> None:
        self.core.book.give_up(waiter, self._clock())
        self._tell(waiter)
        self._flush_soon()

    def _tell_waiters(self) -> None:
        answered = self.core.book.answered
        while answered:
            batch = answered[:]
            answered.clear()
            for waiter in batch:
                self._tell(waiter)

    def _tell(self, waiter: Waiter) -> None:
        if waiter.ticket in self._waits:
            connection, number = self._end_wait(waiter)
            self._reply(connection, ask.Reply(number, waiter.answer))

    def _end_wait(self, waiter: Waiter) -> tuple[Connection, int]:
        connection, number, timer = self._waits.pop(waiter.ticket)
        timer.cancel()
        connection.waits.pop(number, None)
        return connection, number

    # --- replies

    def _reply(self, connection: Connection, reply: ask.Reply) -> None:
        connection.say(reply)
        self._speaking.add(connection)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def _write(self) -> bool:
        if not self.core.changes:
            return True
        self._dirty = True
        try:
            self._keeper.write(self.core)
        except Exception as error:  # a full disk, most often
            if self._writable:
                self._log("error", "state_not_written", error=repr(error))
            self._writable = False
            return False
        self._writable = True
        return True

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(TICK_S, self._tick)
        now_ns = self._clock()
        if self.core.tick(now_ns):
            self._loop.run_in_executor(self._thread, self._shelf.forget, now_ns).add_done_callback(_seen)
        self._flush_soon()
        if self._dirty and (self._checkpointing is None or self._checkpointing.done()):
            self._dirty = False
            self._checkpointing = self._loop.run_in_executor(self._checkpoints, self._keeper.checkpoint)
            self._checkpointing.add_done_callback(self._checkpointed)

    def _checkpointed(self, done: asyncio.Future[None]) -> None:
        error = done.exception()
        if error is None:
            self._filing = True
            return
        self._dirty = True  # with the next tick, again
        if self._filing:
            self._log("error", "state_not_written", error=repr(error))
        self._filing = False


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, serving: Serving) -> None:
        self.session = ""
        self._replies: list[tuple[int, bytes]] = []
        self.waits: dict[int, Waiter] = {}  # by the number of the request
        self._serving = serving
        self._frames = ask.Frames()
        self._transport: asyncio.WriteTransport | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.session} {len(self.waits)} waiting>"

    def say(self, reply: ask.Reply) -> None:
        """Has a reply sent by the next `flush`."""
        self._replies.append((reply.number, ask.encode(reply)))

    def flush(self, written: bool) -> None:
        """Sends the replies, or, if what they tell of isn't written, that they are lost."""
        replies, self._replies = self._replies, []
        if self._transport is None or not replies:
            return
        encoded = [data for _, data in replies]
        if not written:
            numbers = dict.fromkeys(number for number, _ in replies)
            encoded = [ask.encode(ask.Reply(number, None, "lost")) for number in numbers]
        self._transport.write(ask.frame(encoded))
        if self._transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.end()

    def end(self) -> None:
        """Hears and says nothing any more."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
            self._serving.left(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's
        self._serving.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._frames.feed(data):
                if self._transport is None:
                    return
                self._serving.heard(self, ask.requests(payload))
        except (ValueError, msgspec.DecodeError):
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()


def _seen(done: asyncio.Future[None]) -> None:
    """What couldn't be done now is done the next time."""
    done.exception()
