"""What clients say of answers that came from another question: a bad word counts as an answer that was wrong.

Rules:
1. Only the worker that gave an answer knows what it was decided by, for the last `_MOST` answers; it hears ratings from
   the Store's feed (`proxy.feedback`), whichever worker took them, and tells all workers the label.
2. A good word changes nothing: praise isn't a sample of all answers, so the bound on the error must not rest on it.
   A bad one can only make the tier more careful, within the tenant that said it. It is no audit.
3. An answer is labelled once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from policies.cache.semantic.learner import Label
from proxy.feedback import TOPIC, heard
from proxy.state.protocol import StateLost, Store

BAD: Final = 0.5
_MOST: Final = 10_000
_AGAIN_S: Final = 1.0


class Rated:
    """Answers that may still be rated. `learn` takes a tenant and a label."""

    def __init__(self, learn: Callable[[str, Label], Awaitable[object]]) -> None:
        self._learn = learn
        self._given: dict[str, tuple[str, Label]] = {}

    def gave(self, exchange: str, tenant: str, label: Label) -> None:
        """An answer was given, with what would be learnt if it was wrong."""
        if len(self._given) >= _MOST:
            del self._given[next(iter(self._given))]
        self._given[exchange] = tenant, label

    async def hear(self, data: bytes) -> None:
        """A rating of any answer, by any tenant."""
        try:
            told = heard(data)
        except msgspec.MsgspecError:
            return  # another version's
        given = self._given.get(told.exchange)
        if given is None or given[0] != told.tenant or told.rating >= BAD:
            return
        del self._given[told.exchange]
        await self._learn(*given)

    async def follow(self, store: Store) -> None:
        """Hears ratings, for ever, from now on."""
        at: str | None = None
        while True:
            try:
                async for position, data in store.follow(TOPIC, at):
                    at = position
                    await self.hear(data)
            except StateLost:
                pass
            await asyncio.sleep(_AGAIN_S)
