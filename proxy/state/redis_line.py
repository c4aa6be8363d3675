"""One connection to Redis or Valkey, shared by all callers of a worker: the only place that talks to the server.

Rules:
1. Calls are written as they come and answered in order: many in flight cost one connection and few system calls. The
   server says nothing before it has worked off what it has read; so `AT_ONCE` are under way at most, the others wait.
2. Every call ends with an answer or `StateLost`: within `bound_s` where nothing is heard of the server. One that finds
   nobody takes the connection with it: further calls are lost at once, until a new connection stands, which is made by
   itself. A server that goes on answering others is only busy: then a call is lost once nothing was heard for
   `bound_s`, or after `BUSY` times that, and the connection stays. So a thousand calls at once are answered, in as long
   as that takes. What has arrived is read first, since this loop itself may have been late.
3. Nothing is sent twice, unless the server said that it did nothing (a script it doesn't know, a slot that has moved).
4. redis-py makes the connection (URL, TLS, passwords, the protocol); hiredis packs what is asked and reads what is
   answered. Nothing of either is seen outside of this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Final

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import InvalidResponse, MovedError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from proxy.state.protocol import StateLost

_LOST: Final = (RedisError, OSError, EOFError)
_REDIRECTS: Final = 3
BUSY: Final = 8
AT_ONCE: Final = 64
_NOT_YET: Final = object()
_GRACE_TURNS: Final = 4  # of the loop: it reads, the answer is understood, and whoever waits for it goes on
_AGAIN_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


class Script:
    """A Lua script of the package: `common` is put before it."""

    def __init__(self, name: str, common: str = "") -> None:
        folder = files("proxy.state") / "lua"
        self.name = name
        self.body = b"".join((folder / f"{part}.lua").read_bytes() for part in (common, name) if part)
        self.digest = hashlib.sha1(self.body, usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


class Server:
    """Where the server is and how to reach it. The URL's own arguments win over ours."""

    def __init__(self, url: str, bound_s: float) -> None:
        scheme, separator, rest = url.partition("://")
        url = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme) + separator + rest
        ours: dict[str, Any] = {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": bound_s}
        pool = ConnectionPool.from_url(url, health_check_interval=0, **ours)
        self._bound_s = bound_s
        self._kind: type[AbstractConnection] = pool.connection_class
        self._arguments: dict[str, Any] = {**pool.connection_kwargs, "decode_responses": False}

    async def connect(self, elsewhere: tuple[str, int] | None = None) -> AbstractConnection:
        """An open connection; to another node of a cluster, if given."""
        arguments = dict(self._arguments)
        if elsewhere is not None:
            arguments["host"], arguments["port"] = elsewhere
        connection = self._kind(**arguments)
        try:
            async with _Patience(self._bound_s, _never):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            await left(connection)
            if isinstance(error, TimeoutError):
                raise StateLost(f"redis: no connection within {self._bound_s:g} s") from None
            raise
        return connection

    def __repr__(self) -> str:
        return f"<Server {self._arguments.get('host') or self._arguments.get('path')}:{self._arguments.get('port')}>"


async def left(connection: AbstractConnection) -> None:
    """Lets go of a connection, whatever state it is in."""
    with contextlib.suppress(*_LOST):
        await connection.disconnect(nowait=True)


class Link(asyncio.Protocol):
    """An open connection: what is waiting to be written, and who waits for the next answer.

    redis-py has made it, up to the server's greeting; from here on its transport is ours, since its own reader and
    writer each take a task and several turns of the loop for a call.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self.broken: BaseException | None = None
        self.answers = 0
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self.heard_s = self._loop.time()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: deque[bytes] = deque()
        self._under_way = 0  # sent and not answered
        self._flushing = False
        self._replies = hiredis.Reader(
            protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_NOT_YET
        )
        reader: Any = connection._reader
        writer: Any = connection._writer
        self._transport: asyncio.WriteTransport = writer.transport
        self._transport.set_protocol(self)
        if reader.at_eof() or self._transport.is_closing():  # it went before it was ours: nobody else would tell
            self.snap(ConnectionError("closed by the server"))

    def ask(self, words: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Sends a command; the answer, to be awaited."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._unsent.append(hiredis.pack_command(words))
        self._waiting.append(answer)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return answer

    def snap(self, why: BaseException) -> None:
        """Ends it: everybody who waits is told."""
        if self.broken is not None:
            return
        self.broken = why
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(StateLost(f"redis: {why}"))
                answer.exception()  # its caller may have gone
        self._waiting.clear()
        self._unsent.clear()

    async def ended(self) -> None:
        """Closes the connection."""
        await left(self._connection)

    def data_received(self, data: bytes) -> None:
        """Answers, in the order of what was asked."""
        if self.broken is not None:
            return
        self.heard_s, replies = self._loop.time(), self._replies
        try:
            replies.feed(data)
            while (said := replies.gets()) is not _NOT_YET:
                answer = self._waiting.popleft()
                self._under_way -= 1
                self.answers += 1
                if answer.done():
                    continue
                if isinstance(said, Exception):
                    answer.set_exception(said)
                else:
                    answer.set_result(said)
        except (*_LOST, IndexError) as error:  # not what a server says, or an answer that nobody has asked for
            self.snap(error)
            return
        if self._unsent:
            self._flush()

    def eof_received(self) -> None:
        """It will say nothing any more."""
        self.snap(ConnectionError("closed by the server"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it."""
        self.snap(exc or ConnectionError("closed"))

    def _flush(self) -> None:
        self._flushing = False
        sending: list[bytes] = []
        while self._unsent and self._under_way < AT_ONCE:
            sending.append(self._unsent.popleft())
            self._under_way += 1
        if sending and self.broken is None:
            self._transport.write(b"".join(sending))


class Line:
    """Calls to the node that has the keys of one hash tag (`base`)."""

    def __init__(
        self, server: Server, base: str, bound_s: float, connected: Callable[[Line], Awaitable[None]] | None = None
    ) -> None:
        self.base = base
        self._server = server
        self._bound_s = bound_s
        self._connected = connected  # told in the background of each new connection
        self._elsewhere: tuple[str, int] | None = None
        self._link: Link | None = None
        self._opening: asyncio.Task[Link] | None = None
        self._mending: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading: dict[str, asyncio.Task[Any]] = {}  # scripts, by their digest
        self._closed = False

    def __repr__(self) -> str:
        return f"<Line {self.base} {'up' if self._link else 'down'}>"

    async def run(self, script: Script, *words: str | bytes | int | float, bound_s: float | None = None) -> Any:
        """What a script says. ValueError where it says that the arguments can't be right."""
        return await self._bounded(self._script(script, words), bound_s)

    async def call(self, *words: str | bytes | int | float) -> Any:
        """What a command says."""
        return await self._bounded(self._asked(words), None)

    async def aclose(self) -> None:
        """Lets go of the connection."""
        self._closed = True
        for task in (self._mending, self._opening):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._drop(StateLost("closed"))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- inside

    async def _bounded(self, call: Awaitable[Any], bound_s: float | None) -> Any:
        within_s, before = self._bound_s if bound_s is None else bound_s, self._link
        answers = 0 if before is None else before.answers
        try:
            async with _Patience(within_s, self._heard_s):
                return await call
        except TimeoutError:
            lost = StateLost(f"redis: no answer within {within_s:g} s")
            # A newer one isn't to blame, and one that answers others isn't broken.
            if before is not None and self._link is before and before.answers == answers:
                self._drop(lost)
                self._mend()
            raise lost from None
        except ResponseError as error:
            if "LENGTH" in str(error):
                raise ValueError(f"as many amounts as parts: {error}") from None
            raise StateLost(f"redis: {error}") from error
        except _LOST as error:
            raise StateLost(f"redis: {error}") from error

    def _heard_s(self) -> float:
        """When the server was last heard. Connecting has a bound of its own."""
        if self._opening is not None and not self._opening.done():
            return asyncio.get_running_loop().time()
        return float("-inf") if self._link is None else self._link.heard_s

    async def _script(self, script: Script, words: tuple[Any, ...]) -> Any:
        asked = ("EVALSHA", script.digest, 1, self.base, *words)
        try:
            return await self._asked(asked)
        except NoScriptError:
            await self._load(script)
        try:
            return await self._asked(asked)
        except NoScriptError:  # it has gone again, or the keys are on another node by now
            return await self._asked(("EVAL", script.body, 1, self.base, *words))

    async def _load(self, script: Script) -> None:
        """Tells the server a script: once for all who miss it, since a thousand may at the start."""
        loading = self._loading.get(script.digest)
        if loading is None:
            loading = asyncio.get_running_loop().create_task(
                self._asked(("SCRIPT", "LOAD", script.body)), name=f"redis load {script.name}"
            )
            self._loading[script.digest] = loading
            loading.add_done_callback(_seen)
            loading.add_done_callback(lambda done: self._loading.pop(script.digest, None))
        await asyncio.shield(loading)

    async def _asked(self, words: tuple[Any, ...]) -> Any:
        for _ in range(_REDIRECTS):
            link = self._link
            if link is None or link.broken is not None:
                if self._mending is not None:
                    raise StateLost("redis: it doesn't answer")
                link = await self._open()
            try:
                return await link.ask(words)
            except MovedError as moved:
                if self._link is link:  # else somebody else saw it first
                    self._elsewhere = (moved.host, int(moved.port))
                    self._drop(moved)
            except ReadOnlyError as error:  # a primary that has become a replica: its name may lead elsewhere now
                self._drop(error)
                raise
        raise StateLost("redis: sent from node to node")

    async def _open(self) -> Link:
        """A link; those who want one at the same time share it."""
        if self._closed:
            raise StateLost("redis: closed")
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._opened(), name="redis connecting")
            self._opening.add_done_callback(_seen)
        return await asyncio.shield(self._opening)

    async def _opened(self) -> Link:
        self._drop(StateLost("connecting anew"))
        try:
            self._link = Link(await self._server.connect(self._elsewhere))
        except BaseException:
            self._elsewhere = None  # the node may have gone: ask the one that the URL names
            self._mend()
            raise
        if self._connected is not None:
            self._background(self._connected(self))
        return self._link

    def _mend(self) -> None:
        if self._mending is None and not self._closed:
            self._mending = asyncio.get_running_loop().create_task(self._keep_connecting(), name="redis reconnecting")

    async def _keep_connecting(self) -> None:
        try:
            for attempt in itertools.count():
                await asyncio.sleep(_AGAIN_S[min(attempt, len(_AGAIN_S) - 1)])
                with contextlib.suppress(StateLost, *_LOST):
                    await self._open()
                    return
        finally:
            self._mending = None

    def _drop(self, why: BaseException) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.snap(why)
            self._background(link.ended())

    def _background(self, work: Awaitable[None]) -> None:
        async def working() -> None:
            await work

        task = asyncio.get_running_loop().create_task(working(), name="redis background")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_seen)


class _Patience:
    """Ends its block with TimeoutError once nothing was heard for so long, and all that had arrived was read."""

    __slots__ = ("_ends_s", "_heard_s", "_limit", "_timer", "_turns", "_within_s")

    def __init__(self, within_s: float, heard_s: Callable[[], float]) -> None:
        self._within_s = within_s
        self._heard_s = heard_s
        self._limit = asyncio.timeout(None)
        self._turns = _GRACE_TURNS

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._ends_s = loop.time() + BUSY * self._within_s
        self._timer = loop.call_later(self._within_s, self._due)
        await self._limit.__aenter__()

    async def __aexit__(self, *exc: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*exc)

    def _due(self) -> None:
        loop = asyncio.get_running_loop()
        self._turns -= 1
        if self._turns > 0:
            self._timer = loop.call_later(0, self._due)
            return
        until_s = min(self._heard_s() + self._within_s, self._ends_s)
        if until_s > loop.time():
            self._turns = _GRACE_TURNS
            self._timer = loop.call_at(until_s, self._due)
        else:
            self._limit.reschedule(loop.time())


def _never() -> float:
    """Nothing was heard yet."""
    return float("-inf")


def _seen(task: asyncio.Task[Any]) -> None:
    """Whoever waits for a task gets its exception; if nobody does, it says nothing."""
    if not task.cancelled():
        task.exception()
