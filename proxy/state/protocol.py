"""The `Store`: what workers share, and what each backend (memory, SQLite behind the state process, Redis) promises.

Rules:
1. A *hold* is a record, not a bump of a counter: {id, owner, until, parts}, each part an amount held, and an amount
   spent, of one scope. All scopes of a hold change in one atomic step.
2. For every hard scope, spent + held <= limit after every grant. A hold that would break it because of what is *held*
   waits, first come first served, as long as its caller allows; because of what is *spent*, it is refused at once.
3. `adjust` says what is so, not what changed: held and spent are absolute and spent never falls, so that it may be
   sent twice. A closed hold is remembered for an hour, so that it is settled once.
4. A hold past `until` stays as it is until its owner's journal has been read (`Holds.lost`); nobody's dispatched money
   is forgotten, and no limit is overspent by guessing.
5. Time is the Store's own (Redis' TIME, the state process' clock), so that hosts needn't agree.
6. Every call ends in bounded time: with an answer, or with `StateLost`.

Amounts are nano-dollars, tokens or requests: integers of the scope's own unit. Times are nanoseconds, Unix.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

import msgspec


class StateLost(Exception):  # noqa: N818 - a state of affairs, as the design names it
    """The Store didn't answer in time, or not at all: whether the call had an effect isn't known."""


class Scope(msgspec.Struct, frozen=True, array_like=True, gc=False, cache_hash=True):
    """One limit of one window. Two scopes with the same key are the same counter; the limit is the caller's word.

    Calendar windows name their start in the key and say when they end; rolling ones say their span, and what was spent
    within it counts (by sixtieths, the oldest whole). `hard=False` is counted and never refuses.
    """

    key: str
    limit: int
    ends_ns: int = 0
    span_ns: int = 0
    hard: bool = True


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An amount of one scope."""

    scope: Scope
    amount: int


class Hold(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is asked for: all parts or none. `owner` is the worker's instance (host/worker/boot)."""

    id: str
    owner: str
    until_ns: int
    parts: tuple[Part, ...]


class Level(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How full a scope is; `waiting` says that somebody queues for it, so leases should be given back."""

    spent: int
    held: int
    waiting: bool = False


class Granted(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """The hold stands. Levels of its parts, after it."""

    levels: tuple[Level, ...]


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """No part of the hold stands. `part` is the one that didn't fit.

    `why`: `spent` (waiting can't help before the window ends or rolls), `held` (it waited as long as it might).
    `retry_ns`: how long until it might fit, where that is known; else 0.
    """

    part: int
    why: Literal["spent", "held"]
    levels: tuple[Level, ...]
    retry_ns: int = 0


class Standing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A hold as the Store has it."""

    id: str
    owner: str
    until_ns: int
    parts: tuple[Part, ...]  # amounts still held
    spent: tuple[int, ...]


class Rate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`cost` of a rate of `limit` per `period_ns`, by GCRA: the burst is one period's limit unless said otherwise."""

    key: str
    limit: int
    period_ns: int
    cost: int = 1
    burst: int | None = None


class Taken(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What GCRA said of one rate: units left now, and nanoseconds until all are back, and until the cost would fit."""

    allowed: bool
    remaining: int
    reset_ns: int
    retry_ns: int = 0


class Holds(Protocol):
    """Budgets."""

    async def reserve(self, hold: Hold, wait_s: float = 0.0) -> Granted | Refused:
        """All parts or none, in turn. Reserving an id that stands changes nothing and grants. Cancelling stops waiting.

        A wait keeps its place for `wait_s`; the call itself takes that long plus the bound of any other call at most.
        """

    async def adjust(
        self, id: str, held: Sequence[int], spent: Sequence[int], until_ns: int, scopes: Sequence[Scope] = ()
    ) -> tuple[Level, ...]:
        """Sets what a hold holds and has spent in all, part by part; raising `held` is refused silently (ask anew).

        Levels after it. A hold that isn't known is made from `scopes` with its spent part alone.
        """

    async def close(self, id: str, spent: Sequence[int], scopes: Sequence[Scope] = ()) -> bool:
        """Ends a hold, with what it has spent in all. False if it was closed before; then nothing changes.

        Spent above what was held is counted too: a truth over the limit is still the truth.
        """

    async def levels(self, scopes: Sequence[Scope]) -> tuple[Level, ...]:
        """How full scopes are."""

    async def standing(self, owner: str = "", overdue_ns: int | None = None) -> list[Standing]:
        """The open holds of owners whose name begins so; only those past `until` for longer than this, if given."""


class Rates(Protocol):
    """Rate limits."""

    async def take(self, rates: Sequence[Rate]) -> tuple[Taken, ...]:
        """Takes from all rates, or, if any doesn't allow it, from none."""

    async def give(self, rates: Sequence[Rate]) -> None:
        """Gives back (`cost` > 0), or takes beyond the limit what turned out to be used (`cost` < 0)."""


class Blobs(Protocol):
    """Small values with a time to live, up to 4 MiB each."""

    async def get(self, key: str) -> bytes | None:
        """The value, unless its time is over."""

    async def put(self, key: str, value: bytes, ttl_s: float, tags: Sequence[str] = ()) -> None:
        """Keeps a value; one of the same key is replaced."""

    async def delete(self, keys: Sequence[str]) -> int:
        """Forgets values; says how many there were."""

    async def delete_tagged(self, tag: str) -> int:
        """Forgets all values with a tag; says how many there were."""

    async def keys(self, prefix: str, limit: int = 1000) -> list[str]:
        """Keys that begin so, in order."""


class Claims(Protocol):
    """Duties that may run only once in a fleet."""

    async def claim(self, duty: str, owner: str, ttl_s: float) -> bool:
        """Takes or renews a duty; False while somebody else has it."""

    async def resign(self, duty: str, owner: str) -> None:
        """Gives a duty up."""


class Feed(Protocol):
    """Changes, told to all. The last 10,000 messages of a topic (and at least an hour's) are kept."""

    async def publish(self, topic: str, message: bytes) -> str:
        """Tells all who follow a topic; returns its position."""

    def follow(self, topic: str, after: str | None = None) -> AsyncIterator[tuple[str, bytes]]:
        """Messages with their positions: all that come after a position (`""`: from the oldest kept), or, by None,
        from now on. Ends with StateLost; follow again after the last position."""


class Store(Holds, Rates, Blobs, Claims, Feed, Protocol):
    """All of it."""

    async def ping(self) -> int:
        """The Store's time: it is there."""

    async def aclose(self) -> None:
        """Lets go of connections. What was told is kept."""
