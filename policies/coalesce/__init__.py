"""`coalesce`: identical requests that are in flight at the same time share one call of the upstream.

- use: coalesce
  share: key

What lives here: the layer. `alike.py` says which requests share, `shared.py` is one call, `member.py` those who wait
for it, `shares.py` says who pays what.

Rules:
1. The first one makes the call, in its own exchange if it has no deadline, else in a detached one: nobody's deadline is
   another's. A request that finds no twin costs next to nothing.
2. A client that leaves, the first one's too, changes nothing for the others; when the last one has left, the call
   ends.
3. A failure that says something of the request goes to all. Where it says something of the one that led (a guard
   refused it, it never reached an upstream, it failed here), the next one leads, once; a refusal is for all of the same
   identity.
4. Nothing bounds the wait but each request's own deadline.
"""

from __future__ import annotations

import asyncio
import math
import time
from asyncio import current_task
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.cache.key import Share, uncacheable
from policies.coalesce.alike import InFlight, full_key, may_share
from policies.coalesce.member import Member, reject, same_terms
from policies.coalesce.shared import Shared
from proxy.chain import Services
from proxy.config import Order
from proxy.config.scalars import Size, Truth
from proxy.errors import OVERLOADED, WeirError
from proxy.exchange import Exchange, Forward, Request
from proxy.failures import of_error
from proxy.response import Outcome, Response
from proxy.wire.sse import Event

ORDER: Final = Order(
    outside=("cache", "cascade", "hedge", "fallback", "retry"),
    inside=("allow", "budget", "ratelimit", "timeout"),
    why="the call that is shared is looked up, tried again and falls back once for all",
)
_FOREVER: Final = math.inf


class Config(BaseModel):
    """Has identical requests share one call."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Share = "user"
    """Among whom calls are shared: `user` (the end user whom the request names, within a key), `key` or `tenant`. Never
    across tenants."""
    sampled: Truth = False
    """Also requests whose answers vary: those whose temperature isn't 0."""
    keep: Annotated[Size, Field(ge=65536)] = 4 * 1024 * 1024
    """How much of a stream is kept for those who join late or read slowly; who lags further behind is cut off."""


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    why = uncacheable(request, config.sampled)
    key = full_key(request, config.share, config.sampled)
    return f"passes by ({why})" if why else f"shares a call by {key}"


Fate = Literal["all", "next", "own"]


def fate(error: BaseException, again: int, now_s: float) -> Fate:
    """Who gets a leader's failure: all, nobody (the next one leads), or those of the leader's own identity."""
    if not isinstance(error, WeirError):
        return "all" if again and isinstance(error, Exception) else "next"
    failure = of_error(error, now_s)
    if failure is None:
        return "own"
    return "next" if failure.kind == "unreachable" and not again else "all"


class Coalesce:
    """The layer."""

    def __init__(self, config: Config, services: Services) -> None:
        self._config = config
        self._services = services
        self._name, self._source = services.name, services.source
        self.in_flight = InFlight(config.share, config.sampled)

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if not may_share(request, self._config.sampled):
            return await forward(request)
        shared, found = self.in_flight.enter(request, self._new)
        if shared is None:
            return await forward(request)
        if self._services.observing:
            return await self._observe(request, forward, shared, found)
        if found:
            request.exchange.note(self._name, "followed", self._source, call=shared.carrier.id)
            return await self._follow(shared.join(request), forward)
        if request.exchange.deadline != _FOREVER:
            return await self._detached(shared, forward)
        return await self._inline(shared, request, forward)

    def _new(self, request: Request, like: int) -> Shared:
        return Shared(request, like, self._name, self._config.keep, self.in_flight.remove)

    # --- the one that leads

    async def _inline(self, shared: Shared, request: Request, forward: Forward) -> Response:
        """The call is made in the leader's own exchange, which outlives its client if others are there by then."""
        exchange = request.exchange
        exchange.wanted = shared.wanted
        shared.task = current_task()
        try:
            response = await forward(request)
        except BaseException as error:
            exchange.wanted = None
            self._failed(shared, error)
            raise
        if not response.whole:
            lead = self._stream(shared, response)
            if lead is not None:
                return lead
            assert shared.over is not None
            await shared.over
        else:
            shared.deliver(response)
        if shared.deserted:  # and everybody else has the answer
            raise asyncio.CancelledError
        return response

    def _stream(self, shared: Shared, response: Response) -> Response | None:
        """The answer has begun. Returns the leader's copy, if there is somebody to read it."""
        lead = shared.begin(response)
        if response.stream is not None:
            response.stream.connect(shared)
        else:
            assert self._services.spawn is not None
            self._services.spawn(_pump(response, shared), "coalesce")
        return lead

    async def _detached(self, shared: Shared, forward: Forward) -> Response:
        """The call is made beside the exchange, so that its deadline is nobody else's."""
        request = shared.request

        async def run(background: Exchange) -> None:
            same_terms(request.exchange, background)
            shared.carrier, shared.mark = background, 0
            try:
                response = await forward(request.using(exchange=background))
            except BaseException as error:
                self._failed(shared, error)
                raise
            background.status = response.status
            if response.whole:
                shared.deliver(response)
            else:
                self._stream(shared, response)
                assert shared.over is not None
                await shared.over

        member = shared.join(request)
        shared.task = request.exchange.detached("shared", run, policy=self._name)
        return await self._follow(member, forward)

    # --- those that follow

    async def _follow(self, member: Member, forward: Forward) -> Response:
        deadline = member.exchange.deadline
        assert member.ready is not None
        try:
            if deadline == _FOREVER:
                response = await member.ready
            else:
                async with asyncio.timeout_at(deadline):
                    response = await member.ready
        except WeirError:
            raise
        except BaseException as error:
            self._gone(member, error)
            raise _too_late() if isinstance(error, TimeoutError) else error from None
        if response is None:
            shared = member.shared
            if deadline != _FOREVER:
                return await self._detached(shared, forward)
            return await self._inline(shared, shared.request, forward)
        if deadline != _FOREVER and not response.whole:
            timer = asyncio.get_running_loop().call_at(deadline, member.drop, _too_late())
            member.exchange.defer(lambda exchange: timer.cancel())
        return response

    def _gone(self, member: Member, error: BaseException) -> None:
        """A follower left before it was served; it may have been told to lead just then."""
        ready = member.ready
        assert ready is not None
        if ready.done() and not ready.cancelled() and ready.exception() is None and ready.result() is None:
            self._failed(member.shared, asyncio.CancelledError())
        else:
            member.cancel()

    # --- failures

    def _failed(self, shared: Shared, error: BaseException) -> None:
        """The call failed before there was an answer."""
        shared.ended = True
        members = list(shared.members)
        shared.members.clear()
        verdict = fate(error, shared.again, time.time()) if members else "all"
        if verdict == "all":
            shared.close_joining()
            reject(members, error if isinstance(error, WeirError) else _internal())
            return
        if verdict == "own":
            assert isinstance(error, WeirError)
            identity = shared.request.exchange.identity
            reject([member for member in members if member.exchange.identity == identity], error)
            members = [member for member in members if member.exchange.identity != identity]
        self._hand_on(shared, members, counted=verdict == "next" and not isinstance(error, asyncio.CancelledError))

    def _hand_on(self, shared: Shared, members: list[Member], counted: bool) -> None:
        """The next one leads, and the others wait for that."""
        shared.close_joining()
        if not members:
            return
        first, *others = members
        following = self._new(first.request, shared.like)
        following.again = shared.again + counted
        following.members = dict.fromkeys(others)
        for member in members:
            member.shared = following
        self.in_flight.pass_on(following, shared.key)
        first.exchange.note(self._name, "led_next", self._source, call=shared.carrier.id)
        assert first.ready is not None
        if first.ready.done():  # it is leaving at this very moment
            self._failed(following, asyncio.CancelledError())
        else:
            first.ready.set_result(None)

    # --- observing

    async def _observe(self, request: Request, forward: Forward, shared: Shared, found: bool) -> Response:
        """Only says which requests would have followed."""
        if found:
            request.exchange.note(self._name, "would_follow", self._source, call=shared.carrier.id)
            return await forward(request)
        try:
            response = await forward(request)
        except BaseException:
            shared.close_joining()
            raise

        def tap(seen: Event | Outcome) -> None:
            if isinstance(seen, Outcome):
                shared.close_joining()

        if response.whole:
            shared.close_joining()
        else:
            response.tap(tap)
        return response


async def _pump(response: Response, shared: Shared) -> None:
    """Moves a layer's own generator."""
    try:
        async for piece in response:
            shared.events([Event(piece, None)])
    except WeirError as error:
        shared.end(error)
    except BaseException:
        shared.end(_internal())
        raise
    else:
        shared.end(None)


def _too_late() -> WeirError:
    message = "The time that this request may take was over before the call that it shares had ended."
    return WeirError(504, message, type=OVERLOADED, code="deadline_exceeded")


def _internal() -> WeirError:
    return WeirError(500, "The call that this request shares failed in the proxy.", type="server_error")


def build(config: Config, services: Services) -> Coalesce:
    """The policy for one entry of a policy file."""
    return Coalesce(config, services)
