"""`cache`: answers requests from earlier answers.

- use: cache
  exact: {ttl: 24h, share: tenant, sampled: true}

What lives here: the layer. `key.py` says what the same request is, `freshness.py` how old an answer may be, `entry.py`
what is kept and how it is given, `keepable.py` which answers may be, `tiers.py` where they are, `exact.py` the exact
tier, `operating.py` what an operator may ask.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from policies.cache.exact import MISS, ExactTier, only_if_cached
from policies.cache.freshness import NOTHING
from policies.cache.key import LARGE_BYTES, asked, key_of
from policies.cache.operating import operate
from policies.cache.options import Config
from policies.cache.tiers import Tiers
from proxy.body import Body
from proxy.chain import Services
from proxy.exchange import Exchange, Forward, Identity, Request
from proxy.response import Response

if TYPE_CHECKING:
    from policies.cache.semantic.tier import Look, SemanticTier

STORE = True

__all__ = ["STORE", "CachePolicy", "Config", "build", "foretell", "operate"]


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    told, exact = asked(request, config.exact.sampled), config.exact
    vary = frozenset(name.lower().encode() for name in exact.vary)
    return f"passes by ({told.why})" if told.why else f"looks for {key_of(request, exact.share, vary, told)}"


class CachePolicy:
    """The layer."""

    def __init__(self, config: Config, services: Services, wall: Callable[[], float] = time.time) -> None:
        self._services = services
        self._part_bytes = (
            config.memory // 8
        )  # for bodies that are known again, and twice that for answers that are ready
        left_bytes = config.memory - 3 * self._part_bytes
        self._allow(self._part_bytes)
        self._tiers = Tiers(services.store, left_bytes, config.store_timeout, services.metrics, services.name)
        services.metrics.level(services.name, "cache_entries", 0)  # an instance before it may have told of its own
        services.metrics.level(services.name, "cache_bytes", 0)
        self._exact = ExactTier(config.exact, services, self._tiers, wall)
        self._semantic = (
            None if config.semantic is None else _semantic(config, services, self._exact, self._tiers, wall)
        )
        self._following: asyncio.Task[None] | None = None
        if services.store is not None:
            self._following = asyncio.get_running_loop().create_task(self._tiers.follow(), name="follow evictions")

    async def __call__(self, request: Request, forward: Forward) -> Response:
        exact, exchange = self._exact, request.exchange
        name, source, observing = self._services.name, self._services.source, self._services.observing
        large = isinstance(request.body, Body) and len(request.body) > LARGE_BYTES
        told = await asyncio.to_thread(exact.asked, request) if large else exact.asked(request)
        if told.why is not None:
            exchange.note(name, "passed", source, reason=told.why)
            return await forward(request)
        wish, key = exact.wish(request), exact.key(request, told)
        found = exact.near(key, wish) if wish.read else None
        if wish.read and (found is None or found.verdict == "stale"):
            found = await exact.find(request, told, key, wish)
        if found is not None and observing:
            exchange.note(name, "would_hit", source, key=key, nanodollars=found.made.entry.nanodollars)
            return await forward(request)
        if found is not None and (response := exact.answer(request, told, found)) is not None:
            if found.verdict == "fresh":
                self._hit(exchange, key)
                if wish is NOTHING and told.keys is not None and self._services.ready is not None:
                    self._services.ready.offer(request, exact.again(told, found, self, self._hit))
            else:
                exchange.note(name, "stale", source, key=key)
                exact.renew(request, key, forward)
            return response
        look = None if self._semantic is None else await self._semantic.look(request, forward)
        if self._semantic is not None and look is not None and not isinstance(look, str) and not observing:
            response = await self._semantic.answer(look, told, wish, key)
            if response is not None:
                exchange.note(name, "semantic", source, **look.numbers)
                return response
        if wish.only:
            raise only_if_cached()
        exchange.note(name, "would_miss" if observing else "miss", source, key=key, **_told(look))
        if self._semantic is not None and look is not None and not isinstance(look, str):
            self._semantic.missed(look, key, kept=wish.store, observing=observing)
        before = len(exchange.attempts)
        response = await forward(request)
        if wish.store:
            exact.watch(exchange, response, key, request, before)
        response.headers = [*response.headers, *MISS]
        return response

    def _allow(self, part_bytes: int) -> None:
        if self._services.bodies is not None:
            self._services.bodies.allow(part_bytes)
        if self._services.ready is not None:
            self._services.ready.allow(2 * part_bytes)

    def _hit(self, exchange: Exchange, key: str) -> None:
        exchange.note(self._services.name, "hit", self._services.source, key=key)

    async def about(self, identity: Identity) -> dict[str, list[object]]:
        """For `GET /weir/me`: how the tenant's bound on wrong answers stands."""
        return {} if self._semantic is None else {"semantic_cache": [self._semantic.status(identity.tenant)]}

    async def aclose(self) -> None:
        """Stops hearing of evictions."""
        if self._following is not None:
            self._following.cancel()
        self._allow(-self._part_bytes)
        if self._semantic is not None:
            await self._semantic.aclose()


def _semantic(
    config: Config, services: Services, exact: ExactTier, tiers: Tiers, wall: Callable[[], float]
) -> SemanticTier:
    from policies.cache.semantic.tier import SemanticTier

    made = SemanticTier(config, services, exact, tiers, wall, secrets.token_hex(8))
    exact.kept, tiers.forgotten = made.kept, made.forget
    return made


def _told(look: Look | str | None) -> dict[str, object]:
    """What a decision says of a question that was, or wasn't, compared."""
    if look is None:
        return {}
    return {"semantic": look} if isinstance(look, str) else look.numbers


def build(config: Config, services: Services) -> CachePolicy:
    """The policy for one entry of a policy file."""
    return CachePolicy(config, services)
