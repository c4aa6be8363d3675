"""Where conversations are, and what is warm there.

Rules:
1. A conversation is named by the header `x-weir-conversation`, else known by how it begins: tenant, model asked,
   instructions and the user's first turn.
2. This worker's memory first; another worker's word for it, from the Store, only where a conversation has begun before,
   and for a few milliseconds at most.
3. What is warm is assumed to be what was sent last, as long as the upstream keeps it, corrected by how much of it the
   upstream said it had cached.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Final

import msgspec
import orjson
from cachetools import LRUCache

from proxy.body import Body
from proxy.dialects import Usage
from proxy.exchange import Request
from proxy.language import text_of
from proxy.state.protocol import StateLost, Store
from proxy.wire.headers import get

HEADER: Final = b"x-weir-conversation"
CACHED_FROM: Final = 1024
"""Tokens of the shortest prompt that OpenAI and Anthropic keep for most models (their guides to prompt caching)."""
_LOOKED_AT: Final = 16 * 1024  # characters
_MOST: Final = 20_000
_KEPT_S: Final = 3600.0
_BOUND_S: Final = 0.005
_TURNS: Final = {"chat.completions": "messages", "messages": "messages", "responses": "input"}


class Seat(msgspec.Struct):
    """A conversation's model, and the tokens that were warm at each model, and since when (Unix seconds)."""

    model: str
    warm: dict[str, tuple[int, float]]
    hit: float = 1.0  # the share of what should have been cached that was
    at_s: float = 0.0

    def warm_at(self, model: str, now_s: float, warm_for_s: float) -> int:
        """Tokens that a model probably still has."""
        tokens, at_s = self.warm.get(model, (0, 0.0))
        return round(tokens * self.hit) if now_s - at_s <= warm_for_s else 0

    def most(self) -> int:
        """Tokens that would be warm at a model which the conversation had always been at."""
        return round(max([tokens for tokens, _ in self.warm.values()], default=0) * self.hit)

    def answered(self, model: str, usage: Usage, caches: bool, now_s: float, warm_for_s: float) -> None:
        """A turn was answered."""
        expected = self.warm.get(model, (0, 0.0))
        if expected[0] and now_s - expected[1] <= warm_for_s:
            self.hit = min(usage.cached_tokens / expected[0], 1.0)
        tokens = usage.input_tokens if caches and usage.input_tokens >= CACHED_FROM else 0
        self.model, self.at_s = model, now_s
        self.warm = {**self.warm, model: (tokens, now_s)}


class Named(msgspec.Struct, frozen=True):
    """A conversation. `begun`: it has had an answer before."""

    key: str
    begun: bool


_pack: Final = msgspec.msgpack.Encoder().encode
_seat: Final = msgspec.msgpack.Decoder(Seat).decode


def conversation_of(request: Request) -> Named | None:
    """Which conversation a request continues, or may begin; None where that can't be told."""
    body = request.body
    if not isinstance(body, Body):
        return None
    tenant, name = request.exchange.identity.tenant, _TURNS.get(request.endpoint.name)
    if (given := get(request.headers, HEADER)) is not None:
        return Named(_digest([tenant, given.decode("latin-1")]), True)
    if name is None:
        return None
    if not body.parsed:  # large: it isn't read for this
        start = body.raw.find(b'"%b"' % name.encode())
        beginning = body.raw[start : start + _LOOKED_AT].decode("latin-1")
        return Named(_digest([tenant, request.exchange.asked, beginning]), True)  # or it may have: nobody looked
    turns = body.get(name)
    listed = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    begun = any(turn.get("role") in ("assistant", "tool") or "role" not in turn for turn in listed)
    said = _beginning(turns, listed)
    if not said:
        return None
    instructions = [text_of(body.get(field))[:_LOOKED_AT] for field in ("system", "instructions")]
    return Named(_digest([tenant, request.exchange.asked, instructions, said]), begun)


def _beginning(turns: Any, listed: list[dict[str, Any]]) -> list[str]:
    """What was said up to the user's first turn, and how much it was."""
    found = [turns] if isinstance(turns, str) else []
    for turn in listed:
        found.append(text_of(turn.get("content")))
        if turn.get("role") == "user":
            break
    return [f"{len(text)}:{text[:_LOOKED_AT]}" for text in found]


def _digest(value: list[Any]) -> str:
    return hashlib.blake2b(orjson.dumps(value), digest_size=16).hexdigest()


class Seats:
    """One policy's conversations. `store` is None where there is only this worker."""

    def __init__(self, store: Store | None, policy: str) -> None:
        self._store = store
        self._prefix = f"route/{policy}/"
        self._seats: LRUCache[str, Seat] = LRUCache(_MOST)

    def __repr__(self) -> str:
        return f"<Seats {len(self._seats)}>"

    async def find(self, named: Named, now_s: float) -> Seat | None:
        """Where a conversation is."""
        seat = self._seats.get(named.key)
        if seat is None and self._store is not None and named.begun:
            seat = await self._ask(named.key)
        if seat is None or now_s - seat.at_s > _KEPT_S:
            return None
        return seat

    async def _ask(self, key: str) -> Seat | None:
        assert self._store is not None
        try:
            async with asyncio.timeout(_BOUND_S):
                data = await self._store.get(self._prefix + key)
            seat = None if data is None else _seat(data)
        except (StateLost, TimeoutError, msgspec.MsgspecError):
            return None
        if seat is not None:
            self._seats[key] = seat
        return seat

    def keep(self, key: str, seat: Seat) -> None:
        """Remembers it here."""
        self._seats[key] = seat

    @property
    def shared(self) -> bool:
        """Whether other workers are to be told."""
        return self._store is not None

    async def tell(self, key: str, seat: Seat) -> None:
        """Tells the other workers; if the Store is lost, they do without."""
        assert self._store is not None
        try:
            await self._store.put(self._prefix + key, _pack(seat), _KEPT_S)
        except StateLost:
            return
