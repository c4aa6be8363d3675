"""Minutes to wait: the tier `flex`, at half the price, and the standard tier if that doesn't come in time.

Rules:
1. Whatever keeps flex from answering (no room, a failure, a model that hasn't it, time) is followed by the standard
   tier, once. A stream that has begun is the answer.
2. What was saved is claimed from the usage of the answer itself, at the prices of both tiers.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final

from proxy.deferred import standard_nanodollars
from proxy.errors import WeirError
from proxy.exchange import Exchange, Forward, Request, Saving
from proxy.failures import discard, of_error, of_response
from proxy.response import Response

_FINAL: Final = frozenset(("context_length", "content_filter", "quota", "key_refused", "not_found"))
_UNTOLD_S: Final = 3600.0


class Flex:
    """Sends requests by flex. Remembers which models hadn't it, for an hour."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source
        self._without: dict[str | None, float] = {}

    async def __call__(self, request: Request, forward: Forward, until: float) -> Response:
        """The answer; `until` is the loop's time at which the standard tier takes over."""
        exchange, now = request.exchange, asyncio.get_running_loop().time()
        if self._without.get(request.model, 0.0) > now or until <= now:
            return await forward(request)
        exchange.defer(partial(_claim, self._name))
        cheap = request.using(fields={"service_tier": "flex"})
        why = "time"
        try:
            async with asyncio.timeout_at(until) as limit:
                response = await forward(cheap)
        except TimeoutError:
            if not limit.expired():
                raise
        except WeirError as error:
            failure = of_error(error, time.time())
            if failure is None or failure.kind in _FINAL:
                raise
            why = failure.kind
        else:
            if response.status < 400:
                exchange.note(self._name, "flex", self._source)
                return response
            failure = await of_response(response, time.time())
            if failure.kind in _FINAL:
                return response
            why = failure.kind
            await discard(response)
        exchange.note(self._name, "fell_back", self._source, why=why)
        response = await forward(request)
        if why == "rejected" and response.status < 400:  # it was the tier and nothing else
            self._without[request.model] = now + _UNTOLD_S
        return response


def _claim(policy: str, exchange: Exchange) -> None:
    """What flex saved: the standard price of the same usage, less what was paid; less what was given up on the way."""
    for attempt in exchange.attempts:
        if attempt.tier != "flex" or attempt.known != "observed" or attempt.nanodollars is None:
            continue
        standard = standard_nanodollars(attempt)
        if attempt.outcome == "complete" and standard is not None and attempt.usage is not None:
            saved = standard - attempt.nanodollars
            exchange.save(Saving(policy, saved, attempt.served or attempt.model, attempt.usage.counts(), "observed"))
