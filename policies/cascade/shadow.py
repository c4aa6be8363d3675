"""What a cascade asks in the background: the other model, and the judge.

Rules:
1. Each is a detached exchange, with the guards of the client's own, the tags `weir=shadow` and `weir=judge`, and the
   cascade's `shadow_limit`; its cost is deducted from what the cascade saves.
2. No client waits for it, and no client gets its answer.
3. Whatever fails is no pair.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

import orjson

from policies.cascade import judging
from policies.cascade.answers import Answer, Gathered, Said, said
from policies.cascade.config import Config, Labelled
from policies.cascade.held import Held, looked_at
from policies.cascade.turn import Turn
from proxy.body import Body, scan
from proxy.chain import Services
from proxy.endpoints import endpoint_of
from proxy.errors import RATE_LIMIT, WeirError
from proxy.exchange import Attempt, Exchange, Forward, Request, Settle
from proxy.response import Response
from proxy.state.lease import Ticket
from proxy.state.protocol import Part, Refused, Scope, StateLost
from proxy.wire.headers import Headers

T = TypeVar("T")
SHADOW_S: Final = 600.0
_JUDGE_S: Final = 120.0
_DEPTH: Final = 128
_UTC: Final = ZoneInfo("UTC")
_OWN: Final = frozenset((b"content-length", b"content-encoding", b"accept-encoding", b"accept"))
_STREAMED: Final = ("stream", "stream_options")


class Shadows:
    """Makes these calls. `spent` is told what each came to."""

    def __init__(self, config: Config, services: Services, spent: Callable[[int], object]) -> None:
        self._config, self._services, self._spent = config, services, spent

    async def ask(self, request: Request, forward: Forward, model: str, turn: Turn) -> Answer:
        """What a model answers to the client's request, whole. Raises WeirError and ValueError."""
        assert isinstance(request.body, Body)
        asked, exchange, before = turn.asked, request.exchange, request.exchange.nanodollars
        small = model == self._config.small
        paced = small and turn.within_s is not None  # what is judged depends on its pace
        fields = {name: value for name, value in request.body.fields.items() if paced or name not in _STREAMED}
        fields["model"] = model
        if asked.dialect == "responses":
            fields["store"] = False  # nobody will ask for it again
        if asked.dialect == "chat" and small and self._config.logprobs:
            fields["logprobs"] = True
        response = await forward(made(request, request.path, fields, exchange))
        if response.status == 400 and "logprobs" in fields and not asked.own_logprobs:
            await response.aclose()
            del fields["logprobs"]
            response = await forward(made(request, request.path, fields, exchange))
        choices, early = await _whole(response, turn)
        served = exchange.attempts[-1].served or "" if exchange.attempts else ""
        return Answer(choices, spent(exchange, before), served, early)

    async def judge(self, request: Request, forward: Forward, question: str, small: str, large: str) -> float | None:
        """The loss as a model sees it, asked in either order."""
        first = await self._verdict(request, forward, question, large, small)
        second = None if first is None else await self._verdict(request, forward, question, small, large)
        return judging.loss_of(first, second)

    async def judge_labelled(self, request: Request, forward: Forward, pair: Labelled) -> float | None:
        """The same of a pair that a person has compared."""
        return await self.judge(request, forward, pair.question, pair.small, pair.large)

    async def _verdict(self, request: Request, forward: Forward, question: str, one: str, other: str) -> float | None:
        async def run(background: Exchange) -> float | None:
            fields = judging.question_for(self._config.judge, question, one, other)
            response = await forward(made(request, "/v1/chat/completions", fields, background))
            body = await response.read()
            return judging.verdict(body) if response.status == 200 else None

        return await self.detached(request.exchange, "judge", _JUDGE_S, run)

    async def detached(
        self, exchange: Exchange, kind: str, timeout_s: float, run: Callable[[Exchange], Awaitable[T]]
    ) -> T | None:
        """A background exchange with a tag of its own; None where anything fails."""
        try:
            return await self.begin(exchange, kind, timeout_s, run)
        except (WeirError, TimeoutError, ValueError, KeyError, TypeError):
            return None

    def begin(
        self, exchange: Exchange, kind: str, timeout_s: float, run: Callable[[Exchange], Awaitable[T]]
    ) -> asyncio.Task[T]:
        """The same, as a task that need not be awaited."""

        async def tagged(background: Exchange) -> T:
            background.tags = {**background.tags, "weir": kind}
            background.defer(self._ended)
            if self._limited not in background.guards:  # those of the exchange that began it are its own, too
                background.guard(self._limited)
            return await run(background)

        return exchange.detached(kind, tagged, timeout_s=timeout_s, policy=self._services.name)

    def _ended(self, exchange: Exchange) -> None:
        if exchange.nanodollars:
            self._spent(exchange.nanodollars)

    async def _limited(self, attempt: Attempt) -> Settle | None:
        """Reserves within the limit, or refuses."""
        limit, purse = self._config.shadow_limit, self._services.purse
        if limit is None or purse is None:
            return None
        window = limit.window(time.time_ns(), _UTC)
        key = f"cascade/{self._services.name}/{window.label}"
        scope = Scope(key, limit.amount, window.ends_ns, 0 if window.ends_ns else limit.span_s * 10**9)
        parts = (Part(scope, attempt.estimate_nanodollars or 0),)
        try:
            ticket = purse.try_reserve(parts) or await purse.reserve(parts)
        except StateLost:
            raise _refused("What it has used can't be asked for at the moment.") from None
        if isinstance(ticket, Refused):
            self._services.metrics.decision(self._services.name, "shadow_limited")
            raise _refused(f"The cascade's `shadow_limit` of {limit} is used up.")
        attempt.holds = (*attempt.holds, ticket.hold)
        reserved: Ticket = ticket
        return lambda settled: reserved.settle([settled.nanodollars or 0])


def _refused(message: str) -> WeirError:
    return WeirError(429, message, type=RATE_LIMIT, code="shadow_limit")


async def _whole(response: Response, turn: Turn) -> tuple[tuple[Said, ...], tuple[Said, ...] | None]:
    """All that an answer says, and of a stream what had come when time was up. Raises WeirError and ValueError."""
    dialect = turn.asked.dialect
    if response.status != 200:
        await response.aclose()
        raise ValueError("no answer")
    if not response.is_event_stream:
        choices = said(dialect, await response.read())
        if choices is None:
            raise ValueError("no answer")
        return choices, None
    gathered = Gathered(dialect)
    held = Held(response, gathered)
    try:
        _, early = await looked_at(held, gathered, turn)
        await held.until(lambda: False)
    finally:
        await held.aclose()
    return gathered.said(), early


def spent(exchange: Exchange, before: int | None) -> int | None:
    """What an exchange has come to since it had come to `before`."""
    return None if exchange.nanodollars is None or before is None else exchange.nanodollars - before


def made(request: Request, path: str, fields: dict[str, Any], exchange: Exchange) -> Request:
    """A request of ours, with the client's own headers and key."""
    endpoint = endpoint_of("POST", path)
    assert endpoint is not None
    headers: Headers = [(name, value) for name, value in request.headers if name not in _OWN]
    body = scan(orjson.dumps(fields), _DEPTH)
    return Request(exchange, endpoint, "POST", path.encode(), path, headers, body, fields["model"])
