"""`cache`: answers requests from earlier answers.

- use: cache
  exact: {ttl: 24h, share: team, sampled: true}

What lives here: the layer. `key.py` says what the same request is, `freshness.py` how old an answer may be, `entry.py`
what is kept and how it is given, `tiers.py` where it is, `exact.py` the exact tier.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from policies.cache.exact import ExactTier, only_if_cached
from policies.cache.key import key_of, uncacheable
from policies.cache.options import Config
from policies.cache.tiers import Tiers
from proxy.chain import Services
from proxy.exchange import Forward, Request
from proxy.response import Response

STORE = True

__all__ = ["STORE", "CachePolicy", "Config", "build", "foretell"]


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    why = uncacheable(request, config.exact.sampled)
    return f"passes by ({why})" if why else f"looks for {key_of(request, config.exact.share)}"


class CachePolicy:
    """The layer."""

    def __init__(self, config: Config, services: Services, wall: Callable[[], float] = time.time) -> None:
        self._services = services
        self._tiers = Tiers(services.store, config.memory, config.store_timeout, services.metrics.count)
        self._exact = ExactTier(config.exact, services, self._tiers, wall)
        self._following: asyncio.Task[None] | None = None
        if services.store is not None:
            self._following = asyncio.get_running_loop().create_task(self._tiers.follow(), name="follow evictions")

    async def __call__(self, request: Request, forward: Forward) -> Response:
        exact, exchange = self._exact, request.exchange
        name, source = self._services.name, self._services.source
        why = exact.why_not(request)
        if why is not None:
            exchange.note(name, "passed", source, reason=why)
            return await forward(request)
        wish, key = exact.wish(request), exact.key(request)
        if wish.read and (found := await exact.found(request, key, wish, forward)) is not None:
            exchange.note(name, "hit", source, key=key)
            return found
        if wish.only:
            raise only_if_cached()
        exchange.note(name, "miss", source, key=key)
        response = await forward(request)
        if wish.store:
            exact.watch(exchange, response, key, request)
        response.headers = [*response.headers, (b"x-weir-cache", b"miss")]
        return response

    async def aclose(self) -> None:
        """Stops hearing of evictions."""
        if self._following is not None:
            self._following.cancel()


def build(config: Config, services: Services) -> CachePolicy:
    """The policy for one entry of a policy file."""
    return CachePolicy(config, services)
