"""What a route saved: the price of the same tokens at the model that was asked for, less what was paid. Pure.

Rules:
1. Only whole answers of the model that was chosen are claimed; a dearer model is a saving below 0, and told as one.
2. What the asked model would have had in its prompt cache is counted as cached in the counterfactual.
3. An exchange that another one started (a judge, a shadow) claims nothing here.
"""

from __future__ import annotations

import msgspec

from proxy.exchange import Attempt, Exchange, Saving, Settle
from proxy.pricing import RateCard


class Claim:
    """A guard that admits every attempt, and hears how those of the chosen model ended."""

    estimates = False  # it decides nothing by what an attempt may cost

    def __init__(self, policy: str, exchange: Exchange, asked: str, card: RateCard, model: str, warm: int) -> None:
        self._policy, self._exchange = policy, exchange
        self._asked, self._card, self._model, self._warm = asked, card, model, warm

    async def __call__(self, attempt: Attempt) -> Settle | None:
        return self._settled if attempt.exchange is self._exchange else None

    def _settled(self, attempt: Attempt) -> None:
        usage = attempt.usage
        if attempt.request.model != self._model or attempt.outcome != "complete":
            return
        if usage is None or attempt.nanodollars is None or attempt.known != "observed":
            return
        cached = min(max(usage.cached_tokens, self._warm), usage.input_tokens - usage.cache_write_tokens)
        instead = msgspec.structs.replace(usage, cached_tokens=max(cached, 0))
        cost = self._card.cost(instead, None)
        if cost is not None:
            saved = cost - attempt.nanodollars
            self._exchange.save(Saving(self._policy, saved, self._asked, instead.counts()))
