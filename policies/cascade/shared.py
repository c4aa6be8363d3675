"""What workers tell each other about a cascade, and what outlives them.

Rules:
1. Every message takes effect when the Store's feed brings it, also where it was made: all workers know the same, in
   the same order, and a score that was fitted proves nothing about pairs that came before it.
2. What is known is one value for each class of traffic, with the feed's position up to which it knows; one worker
   writes it for all. Whoever starts reads it and follows the feed from there.
3. Without a Store a worker has only itself. With a lost one nothing is learnt, and what is known stays in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from proxy.state.protocol import StateLost, Store

_KEPT_S: Final = 90 * 86_400.0
_AGAIN_S: Final = 1.0
_CLAIM_S: Final = 10.0
FLUSH_S: Final = 2.0
REPORTS: Final = "cascade-report/"
_LARGEST: Final = 4 * 1024 * 1024 - 1024


class Pair(msgspec.Struct, frozen=True, tag=True):
    """Both answers to one request. `loss` is None where no judge was needed: it would be escalated in any case, as the
    scores `heeded` see it (None: whichever there are, since the judge was asked without looking at them)."""

    features: bytes
    gate: str | None
    loss: float | None
    small_nanos: int | None
    large_nanos: int | None
    served: tuple[str, str] = ("", "")
    heeded: tuple[int, ...] | None = None


class Fitted(msgspec.Struct, frozen=True, tag=True):
    """A score that pairs have taught; `number` counts them."""

    number: int
    score: bytes


class Traffic(msgspec.Struct, frozen=True, tag=True):
    """What was answered, and how, since a worker told last."""

    at_s: float
    requests: int
    small: int
    escalated: int
    saved_nanos: int
    spent_nanos: int
    gates: dict[str, int] = {}


class Order(msgspec.Struct, frozen=True, tag=True):
    """What an operator wants: `reset`, or `use` a score by its number (-1: whichever is best)."""

    what: str
    number: int = -1


class Agreed(msgspec.Struct, frozen=True, tag=True):
    """What the judge said of the labelled pair with this number: whether it agrees with the person."""

    pair: int
    agrees: bool


class Clustered(msgspec.Struct, frozen=True, tag=True):
    """Clusters of traffic: whose vectors they are of, their centres in single precision, and the share of each."""

    embedder: str
    centres: bytes
    shares: list[float]


What = Pair | Fitted | Traffic | Order | Agreed | Clustered


class Message(msgspec.Struct, frozen=True):
    """About one class of traffic; `kind` is the digest of all that evidence must not be mixed by."""

    name: str
    kind: str
    what: What


pack: Final = msgspec.msgpack.Encoder().encode
_message: Final = msgspec.msgpack.Decoder(Message).decode


def topic_of(policy: str) -> str:
    """Where a cascade's workers tell each other."""
    return f"cascade/{policy}"


def key_of(policy: str, name: str) -> str:
    """Where what is known of a class is kept."""
    return f"cascade/{policy}/{name}"


def report_of(policy: str, name: str) -> str:
    """Where it is kept how a class stands, for people."""
    return f"{REPORTS}{policy}/{name}"


class Shared:
    """A policy's line to the other workers. `hear` gets every message with its position."""

    def __init__(self, store: Store | None, policy: str, owner: str, hear: Callable[[Message, str], object]) -> None:
        self._store = store
        self._policy = policy
        self._owner = owner
        self._hear = hear
        self._topic = topic_of(policy)

    async def tell(self, message: Message) -> None:
        """Tells all workers, this one too."""
        if self._store is None:
            self._hear(message, "")
            return
        try:
            await self._store.publish(self._topic, pack(message))
        except StateLost:
            return

    async def past(self) -> list[dict[str, Any]]:
        """What was known. Raises StateLost."""
        assert self._store is not None
        found = []
        for key in await self._store.keys(key_of(self._policy, ""), 10_000):
            value = await self._store.get(key)
            try:
                told = msgspec.msgpack.decode(value) if value is not None else None
            except msgspec.MsgspecError:
                continue
            if isinstance(told, dict) and told.get("policy") == self._policy:
                found.append(told)
        return found

    async def keep(self, reports: dict[str, dict[str, Any]], states: dict[str, dict[str, Any]]) -> bool:
        """Writes how classes stand, and all that is known of some, if it falls to this worker."""
        if self._store is None:
            return False
        try:
            if not await self._store.claim(f"{self._topic}/write", self._owner, _CLAIM_S):
                return False
            for name, report in reports.items():
                await self._store.put(report_of(self._policy, name), pack({**report, "policy": self._policy}), _KEPT_S)
            for name, state in states.items():
                value = pack({**state, "policy": self._policy})
                if len(value) > _LARGEST:
                    value = pack({**state, "policy": self._policy, "examples": []})
                await self._store.put(key_of(self._policy, name), value, _KEPT_S)
        except StateLost:
            return False
        return True

    async def may_fit(self, what: str) -> bool:
        """Whether it falls to this worker to fit this."""
        if self._store is None:
            return True
        try:
            return await self._store.claim(f"{self._topic}/fit/{what}", self._owner, 600.0)
        except StateLost:
            return False

    async def forget(self, names: Sequence[str], keys: Sequence[Callable[[str, str], str]] = ()) -> None:
        """Keeps nothing of these classes any more; with `keys` only what is kept under these."""
        if self._store is None or not names:
            return
        try:
            await self._store.delete([key(self._policy, name) for name in names for key in keys or (key_of, report_of)])
        except StateLost:
            return

    async def resign(self) -> None:
        """Lets another worker write."""
        if self._store is not None:
            try:
                await self._store.resign(f"{self._topic}/write", self._owner)
            except StateLost:
                return

    async def follow(self, after: str) -> None:
        """Hears all workers, for ever, from a position on."""
        assert self._store is not None
        while True:
            try:
                async for position, data in self._store.follow(self._topic, after):
                    after = position
                    try:
                        message = _message(data)
                    except (msgspec.MsgspecError, ValueError):
                        continue  # another version's
                    self._hear(message, position)
            except StateLost:
                pass
            await asyncio.sleep(_AGAIN_S)
