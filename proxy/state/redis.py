"""The Store in Redis or Valkey, for a fleet: every operation is one Lua script, by the server's time.

Rules:
1. All keys that a script touches have one hash tag: `{weir:money}` for holds, `{weir:rates}`, `{weir:blobs}` and
   `{weir:fleet}` (duties and the feed). In a cluster each of the four lives on one node, wherever the slots are; a
   cluster therefore spreads them over at most four nodes and never splits a hold.
2. Who waits keeps a ticket with its age in the queues of the scopes. The server calls the oldest when there may be
   room; whoever is called asks again, and asks every `poll_s` in any case. A ticket that hasn't asked for three times
   that is passed over, so that nobody waits for the dead.
3. Lua counts in doubles: amounts are exact to 2^53 (9 million dollars in nano-dollars) and refused with ValueError
   above; a limit above it is taken for 2^53. What several holds have spent together is exact beyond.
4. A reservation without an answer (lost or cancelled) is withdrawn and a close without one told again, as soon as the
   server is back: neither a hold nor a spending is lost with a connection.
5. What was told is as safe as the server keeps it: `noeviction`, an append-only file. Anything less is warned of once.

The rules of queues are those of `proxy.state.book`, to the letter; the contract suite runs over both.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import count
from typing import Any, Final

import msgspec

from proxy.state.blobs import check
from proxy.state.protocol import Granted, Hold, Level, Part, Rate, Refused, Scope, Standing, StateLost, Taken
from proxy.state.redis_line import Line, Script, Server
from proxy.state.redis_listening import Wakes, following, position_of
from proxy.state.redis_owed import Owed

EXACT: Final = 2**53
_TICKET_POLLS: Final = 3  # how many polls a ticket outlives

_RESERVE, _WITHDRAW, _ADJUST, _CLOSE, _LEVELS, _STANDING = (
    Script(name, "holds") for name in ("reserve", "withdraw", "adjust", "close", "levels", "standing")
)
_TAKE, _GIVE = Script("take", "rates"), Script("give", "rates")
_PUT, _DELETE, _DELETE_TAGGED, _KEYS = (Script(name, "blobs") for name in ("put", "delete", "delete_tagged", "keys"))
_CLAIM, _RESIGN, _PUBLISH = Script("claim"), Script("resign"), Script("publish")

_packed = msgspec.msgpack.Encoder().encode
_hold_of = msgspec.msgpack.Decoder(Hold).decode


class RedisStore:
    """`proxy.state.protocol.Store` on a server of the URL's: redis, rediss, valkey, valkeys, unix.

    `log(level, event, **fields)` hears once of a server that may forget what it was told.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "weir",
        bound_s: float = 0.25,
        poll_s: float = 0.5,
        log: Callable[..., object] | None = None,
    ) -> None:
        if not prefix or set(prefix) & set("{}"):
            raise ValueError(f"a prefix of keys without braces, not {prefix!r}")
        self._server = Server(url, bound_s)
        self._bound_s = bound_s
        self._poll_s = poll_s
        self._log = log
        self._money, self._rates, self._blobs, self._fleet = (
            Line(self._server, f"{{{prefix}:{tag}}}", bound_s, self._look)
            for tag in ("money", "rates", "blobs", "fleet")
        )
        self._name = secrets.token_hex(6)
        self._tickets = count(1)
        self._wakes = Wakes(self._server, f"{self._money.base}:wake:{self._name}")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._owed = Owed(self._money)

    def __repr__(self) -> str:
        return f"<RedisStore {self._server!r} {self._money!r}>"

    # --- holds

    async def reserve(self, hold: Hold, wait_s: float = 0.0) -> Granted | Refused:
        """All parts or none, in turn."""
        _exact([part.amount for part in hold.parts])
        asked, ticket, age = _packed(hold), f"{self._name}:{next(self._tickets)}", 0
        time, lives_ms = asyncio.get_running_loop().time, round(self._poll_s * _TICKET_POLLS * 1000)
        ends_s = time() + max(0.0, wait_s)
        try:
            while True:
                left_s = ends_s - time()
                called = self._wakes.expect(ticket) if left_s > 0 else None
                words = (asked, str(hold.until_ns), ticket, self._wakes.channel, age, 0 if called is None else lives_ms)
                bound_s = self._bound_s + min(
                    0.0, max(left_s, -0.8 * self._bound_s)
                )  # of the end, not of the last poll
                said = await self._money.run(_RESERVE, *words, bound_s=bound_s)
                if said[0] != b"wait":
                    return _answer(said)
                age = said[1]
                if called is not None:
                    await _heard(called, min(self._poll_s, ends_s - time()))
        except (StateLost, asyncio.CancelledError):
            self._owed.add(_WITHDRAW, asked, ticket)
            raise
        finally:
            self._wakes.forget(ticket)

    async def adjust(
        self, id: str, held: Sequence[int], spent: Sequence[int], until_ns: int, scopes: Sequence[Scope] = ()
    ) -> tuple[Level, ...]:
        """What a hold holds, and has spent in all."""
        _exact(held)
        _exact(spent)
        unknown = Hold(id, "", until_ns, tuple([Part(scope, 0) for scope in scopes]))
        words = (_packed(held), _packed(spent), str(until_ns), _packed(scopes), _packed(unknown))
        return _levels(await self._money.run(_ADJUST, id, *words))

    async def close(self, id: str, spent: Sequence[int], scopes: Sequence[Scope] = ()) -> bool:
        """Ends a hold; if the answer is lost, it is told again until there is one."""
        _exact(spent)
        words = (id, _packed(spent), _packed(scopes))
        try:
            return bool(await self._money.run(_CLOSE, *words))
        except (StateLost, asyncio.CancelledError):
            self._owed.add(_CLOSE, *words)
            raise

    async def levels(self, scopes: Sequence[Scope]) -> tuple[Level, ...]:
        """How full scopes are."""
        return _levels(await self._money.run(_LEVELS, _packed(scopes)))

    async def standing(self, owner: str = "", overdue_ns: int | None = None) -> list[Standing]:
        """Open holds. Page by page: one that is opened or closed meanwhile may be missing, the others aren't."""
        overdue, cursor, found = "" if overdue_ns is None else str(overdue_ns / 1000), b"0", {}
        while True:
            cursor, page = await self._money.run(_STANDING, owner, overdue, cursor)
            found.update({standing.id: standing for standing in map(_standing, page)})
            if cursor == b"0":
                return list(found.values())

    # --- rates

    async def take(self, rates: Sequence[Rate]) -> tuple[Taken, ...]:
        """Takes from all rates or none."""
        said = await self._rates.run(_TAKE, _packed(rates))
        return tuple([Taken(bool(one[0]), int(one[1]), int(one[2]), int(one[3])) for one in said])

    async def give(self, rates: Sequence[Rate]) -> None:
        """Gives back."""
        await self._rates.run(_GIVE, _packed(rates))

    # --- blobs

    async def get(self, key: str) -> bytes | None:
        """A value."""
        value: bytes | None = await self._blobs.call("HGET", f"{self._blobs.base}:b:{key}", "v")
        return value

    async def put(self, key: str, value: bytes, ttl_s: float, tags: Sequence[str] = ()) -> None:
        """Keeps a value."""
        check(value)
        await self._blobs.run(_PUT, key, value, math.ceil(ttl_s * 1000), _packed(tags))

    async def delete(self, keys: Sequence[str]) -> int:
        """Forgets values."""
        return int(await self._blobs.run(_DELETE, _packed(keys)))

    async def delete_tagged(self, tag: str) -> int:
        """Forgets values by tag."""
        return int(await self._blobs.run(_DELETE_TAGGED, tag))

    async def keys(self, prefix: str, limit: int = 1000) -> list[str]:
        """Keys that begin so."""
        return [key.decode() for key in await self._blobs.run(_KEYS, prefix, limit)]

    # --- claims and feed

    async def claim(self, duty: str, owner: str, ttl_s: float) -> bool:
        """Takes a duty."""
        return bool(await self._fleet.run(_CLAIM, duty, owner, math.ceil(ttl_s * 1000)))

    async def resign(self, duty: str, owner: str) -> None:
        """Gives a duty up."""
        await self._fleet.run(_RESIGN, duty, owner)

    async def publish(self, topic: str, message: bytes) -> str:
        """Tells all."""
        return position_of((await self._fleet.run(_PUBLISH, topic, message)).decode())

    def follow(self, topic: str, after: str | None = None) -> AsyncIterator[tuple[str, bytes]]:
        """Messages, as they come. Without `after`: from the call on, not from the first look."""
        last = self._background(self._last(topic)) if after is None else None
        return self._following(topic, after or "", last)

    # --- all

    async def ping(self) -> int:
        """The server's time."""
        seconds, micros = await self._money.call("TIME")
        return int(seconds) * 10**9 + int(micros) * 1000

    async def aclose(self) -> None:
        """Lets go of connections; what is owed is told first, if the server takes it."""
        await self._owed.aclose()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._wakes.aclose()
        for line in (self._money, self._rates, self._blobs, self._fleet):
            await line.aclose()

    # --- inside

    async def _following(
        self, topic: str, after: str, last: asyncio.Task[str] | None
    ) -> AsyncIterator[tuple[str, bytes]]:
        messages = following(self._server, self._stream(topic), await last if last else after, self._bound_s)
        try:
            async for told in messages:
                yield told
        finally:
            await messages.aclose()  # type: ignore[attr-defined]

    async def _last(self, topic: str) -> str:
        newest = await self._fleet.call("XREVRANGE", self._stream(topic), "+", "-", "COUNT", 1)
        return position_of(newest[0][0].decode() if newest else "0-0")

    def _stream(self, topic: str) -> str:
        return f"{self._fleet.base}:f:{topic}"

    def _background(self, work: Any) -> asyncio.Task[Any]:
        """A task that may fail by a lost Store without anybody to tell."""
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work, name="redis store")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _look(self, line: Line) -> None:
        """Warns, once, of a server that may forget what it was told."""
        log, self._log = self._log, None
        if log is None:
            return
        try:
            memory = _fields(await line.call("INFO", "memory"))
            disk = _fields(await line.call("INFO", "persistence"))
            policy = memory.get("maxmemory_policy", "noeviction")
            if policy != "noeviction":
                log("warning", "redis_evicts", maxmemory_policy=policy, right="noeviction")
            if disk.get("aof_enabled") == "0":
                saves = await line.call("CONFIG", "GET", "save")
                log(
                    "warning",
                    "redis_not_durable",
                    appendonly="no",
                    save=saves[1].decode() or "never",
                    right="appendonly yes",
                )
        except StateLost:  # not allowed to ask, or just gone
            pass


async def _heard(called: asyncio.Event, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await called.wait()
    except TimeoutError:
        pass


def _exact(amounts: Iterable[int]) -> None:
    for amount in amounts:
        if not 0 <= amount <= EXACT:
            raise ValueError(f"an amount of {amount}; 0 to 2^53 can be counted exactly")


def _levels(said: list[Any]) -> tuple[Level, ...]:
    return tuple([Level(int(said[n]), int(said[n + 1]), bool(said[n + 2])) for n in range(0, len(said), 3)])


def _answer(said: list[Any]) -> Granted | Refused:
    if said[0] == b"granted":
        return Granted(_levels(said[1]))
    return Refused(said[1], "spent" if said[2] == b"spent" else "held", _levels(said[4]), int(said[3]))


def _standing(said: list[Any]) -> Standing:
    id, asked, until_ns, held, spent = said
    hold = _hold_of(asked)
    parts = tuple([Part(part.scope, int(amount)) for part, amount in zip(hold.parts, held, strict=True)])
    return Standing(id.decode(), hold.owner, int(until_ns), parts, tuple(map(int, spent)))


def _fields(info: bytes) -> dict[str, str]:
    """What INFO says."""
    pairs = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, separator, value in pairs if separator}
