"""What workers tell each other, and what outlives them: entries, labels and fitted scores.

Rules:
1. Every message is applied where it was made at once, and elsewhere as the Store's feed brings it. Entries may come
   twice; a label counts once.
2. Entries are kept as bundles, each written once by the worker that made them, with the time to live of their answers:
   what is over leaves by itself, and nothing is ever rewritten.
3. What a tenant's traffic has taught is one value, replaced by whoever fitted last. It says until when it knows labels,
   so that those which came later are heard again from the feed.
4. All of it has the tenant's tag: evicting a tenant from the cache forgets its vectors and what was learnt.
5. Without a Store a worker has only itself; with a lost one, too, until it is back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from policies.cache.semantic.learner import Label
from policies.cache.semantic.room import Stored
from policies.cache.semantic.score import Fit, Weights
from policies.cache.tiers import PREFIX as TAGS
from policies.cache.tiers import forgotten
from proxy.state.protocol import StateLost, Store

_BUNDLE_BYTES: Final = 2**20
_KEPT_S: Final = 30 * 86_400.0
_AGAIN_S: Final = 1.0
_TURN: Final = 16  # messages heard before others have their turn
FLUSH_S: Final = 5.0


class Message(msgspec.Struct, frozen=True, array_like=True):
    """From one worker to all: an entry, a label, a fit, or several."""

    by: str
    tenant: str
    at_ns: int
    stored: Stored | None = None
    label: Label | None = None
    fit: tuple[bytes, ...] = ()


_pack: Final = msgspec.msgpack.Encoder().encode
_message: Final = msgspec.msgpack.Decoder(Message).decode
_bundle: Final = msgspec.msgpack.Decoder(list[Stored]).decode


def fit_to_bytes(fit: Fit) -> tuple[bytes, ...]:
    """A fit for a message."""
    return tuple(
        part.tobytes() for each in (fit.weights, *fit.folds) for part in (each.centres, each.spreads, each.beta)
    )


def fit_of(parts: tuple[bytes, ...]) -> Fit:
    """A fit from a message."""
    import numpy as np

    arrays = [np.frombuffer(part) for part in parts]
    weights = [Weights(*arrays[at : at + 3]) for at in range(0, len(arrays), 3)]
    return Fit(weights[0], tuple(weights[1:]))


class Shared:
    """A policy's line to the others, and to its own past."""

    def __init__(self, store: Store, policy: str, owner: str, kind: str, ttl_s: float) -> None:
        self._store = store
        self._owner = owner
        self._ttl_s = ttl_s
        self._topic = f"semantic/{policy}/{kind}"
        self._prefix = f"{self._topic}/"
        self._waiting: dict[str, list[Stored]] = {}
        self._bundles = 0

    # --- telling

    async def publish(self, message: Message) -> None:
        """Tells the others; if the Store is lost, they do without."""
        try:
            await self._store.publish(self._topic, _pack(message))
        except StateLost:
            return

    def keep(self, stored: Stored) -> None:
        """Has an entry written with the next bundle."""
        self._waiting.setdefault(stored.tenant, []).append(stored)

    def drop(self, tenant: str) -> None:
        """Has nothing written of what waits of a tenant's: it is to be forgotten."""
        self._waiting.pop(tenant, None)

    async def flush(self) -> None:
        """Writes what waits."""
        waiting, self._waiting = self._waiting, {}
        for tenant, entries in waiting.items():
            while entries:
                count, size = 0, 0
                while count < len(entries) and size < _BUNDLE_BYTES:
                    size += len(entries[count].vector) * 2 + len(entries[count].text) + 200
                    count += 1
                self._bundles += 1
                key = f"{self._prefix}entries/{_short(tenant)}/{_short(self._owner)}-{self._bundles:08d}"
                await self._put(key, _pack(entries[:count]), self._ttl_s, tenant)
                entries = entries[count:]

    async def save(self, tenant: str, state: dict[str, Any]) -> None:
        """Writes what a tenant's traffic has taught."""
        await self._put(
            f"{self._prefix}learnt/{_short(tenant)}", await asyncio.to_thread(_pack, [tenant, state]), _KEPT_S, tenant
        )

    async def _put(self, key: str, value: bytes, ttl_s: float, tenant: str) -> None:
        try:
            await self._store.put(key, value, ttl_s, [f"{TAGS}tenant={tenant}"])
        except (StateLost, ValueError):
            return

    async def may_fit(self, tenant: str) -> bool:
        """Whether it falls to this worker to fit: one does it for all."""
        try:
            return await self._store.claim(f"{self._topic}/fit/{_short(tenant)}", self._owner, 30.0)
        except StateLost:
            return True

    # --- hearing

    async def forgotten(self) -> dict[str, int]:
        """The tenants that were evicted, and when: the feed still has what was said before."""
        return await forgotten(self._store, "tenant=")

    async def past(self) -> tuple[list[Stored], list[tuple[str, dict[str, Any]]]]:
        """What was written before: entries, and what each tenant's traffic had taught."""
        entries: list[Stored] = []
        learnt: list[tuple[str, dict[str, Any]]] = []
        for key in await self._store.keys(self._prefix, 1_000_000):
            value = await self._store.get(key)
            if value is None:
                continue
            try:
                if key.startswith(f"{self._prefix}learnt/"):
                    tenant, state = msgspec.msgpack.decode(value)
                    learnt.append((tenant, state))
                else:
                    entries += await asyncio.to_thread(_bundle, value)
            except (msgspec.MsgspecError, ValueError, TypeError):
                continue  # another version's
        entries.sort(key=lambda stored: stored.made_s)
        return entries, learnt

    async def follow(self, hear: Callable[[Message], object]) -> None:
        """Hears the others, for ever; from the oldest message that is kept."""
        at = ""
        heard = 0
        while True:
            try:
                async for position, data in self._store.follow(self._topic, at):
                    at = position
                    heard += 1
                    if heard % _TURN == 0:
                        await asyncio.sleep(0)
                    try:
                        message = _message(data)
                    except (msgspec.MsgspecError, ValueError):
                        continue
                    if message.by != self._owner:
                        hear(message)
            except StateLost:
                pass
            await asyncio.sleep(_AGAIN_S)


def _short(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()
