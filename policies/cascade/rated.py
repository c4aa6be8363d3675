"""What clients say of the small model's answers, as evidence.

Rules:
1. A rating says nothing of the answer that the large model would have given: that is taken for perfect, so the loss is
   one minus the rating, or less.
2. Only answers of the small model are evidence, and only those that somebody rates; the last rating isn't waited for.
3. The worker that gave the answer tells of it; what it gave before it was replaced is forgotten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from policies.cascade.evidence import Evidence
from policies.cascade.shared import Pair
from proxy.feedback import TOPIC, heard
from proxy.state.protocol import StateLost, Store

_MOST: Final = 20_000
_AGAIN_S: Final = 1.0


class Ratings:
    """The answers that may be rated yet."""

    def __init__(self, store: Store, tell: Callable[[Evidence, Pair], Awaitable[None]]) -> None:
        self._store, self._tell = store, tell
        self._given: OrderedDict[str, tuple[Evidence, Pair]] = OrderedDict()

    def given(self, exchange: str, evidence: Evidence, pair: Pair) -> None:
        """The small model's answer of this exchange is the client's."""
        self._given[exchange] = (evidence, pair)
        if len(self._given) > _MOST:
            self._given.popitem(last=False)

    async def follow(self) -> None:
        """Hears ratings, for ever."""
        position: str | None = None
        while True:
            try:
                async for at, data in self._store.follow(TOPIC, position):
                    position = at
                    await self._rated(data)
            except StateLost:
                pass
            await asyncio.sleep(_AGAIN_S)

    async def _rated(self, data: bytes) -> None:
        try:
            message = heard(data)
        except msgspec.MsgspecError:
            return  # another version's
        found = self._given.pop(message.exchange, None)
        if found is not None:
            evidence, pair = found
            await self._tell(evidence, msgspec.structs.replace(pair, loss=1.0 - message.rating))
