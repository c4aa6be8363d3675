"""`timeout`: how long a request may take: in all, to its first event, between its events.

    - use: timeout
      total: 2m
      ttft: 10s
      idle: 30s
      reasoning: {total: 20m, ttft: 5m}

Rules:
1. `total` bounds the whole exchange, whatever is called in it. `ttft` and `idle` bound each call of an upstream that
   was asked for a stream; an answer that comes in one piece has its first byte when it has all.
2. They stand in for the deployment file's limits, shorter or longer; a deadline of the client's (`x-weir-deadline`)
   holds besides, and the earlier one counts.
3. What runs out before the first event is a 504 that must not be replayed unasked; after it, the stream ends with an
   error event.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from proxy.chain import Services
from proxy.config import Order, globs
from proxy.config.scalars import Duration, Names
from proxy.errors import WeirError
from proxy.exchange import Exchange, Forward, Request
from proxy.reasoning import MODELS, asked
from proxy.response import Response

ORDER = Order(
    outside=("hedge", "fallback", "retry", "cascade"), why="its total time is that of all their calls together"
)

Class = Literal["usual", "flex", "reasoning"]
Seconds = Annotated[Duration, Field(gt=0)]
_RAN_OUT: Final = frozenset(("upstream_timeout", "deadline_exceeded"))


class Limits(BaseModel):
    """The limits of one class of requests; what is left out is as for the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    total: Seconds | None = None
    """The whole exchange."""
    ttft: Seconds | None = None
    """From sending a request for a stream to its first event, for each call of an upstream."""
    idle: Seconds | None = None
    """Between two reads from an upstream's stream."""


class Config(Limits):
    """How long requests may take; without a limit, as the deployment file says."""

    flex: Limits = Limits()
    """What differs for the service tier `flex`."""
    reasoning: Limits = Limits()
    """What differs for models that think before they answer."""
    reasoning_models: Names = MODELS
    """Which models those are; a request that asks for reasoning by a field of its own counts too."""


class Times(msgspec.Struct, frozen=True):
    """What holds for one request, in seconds."""

    total_s: float | None
    ttft_s: float | None
    idle_s: float | None


def _times(config: Config, own: Limits) -> Times:
    return Times(own.total or config.total, own.ttft or config.ttft, own.idle or config.idle)


class Rules:
    """The pure part: which class a request is of, and what holds for it."""

    def __init__(self, config: Config) -> None:
        own: dict[Class, Limits] = {"usual": config, "flex": config.flex, "reasoning": config.reasoning}
        self._by_class = {name: _times(config, limits) for name, limits in own.items()}
        self._all = self._by_class["usual"] if len(set(self._by_class.values())) == 1 else None
        self._reasons = globs(list(config.reasoning_models))

    def class_of(self, model: str | None, field: Callable[[str], Any]) -> Class:
        """`field` reads a top-level field of the body."""
        if field("service_tier") == "flex":
            return "flex"
        if self._reasons(model) or asked(field):
            return "reasoning"
        return "usual"

    def times(self, model: str | None, field: Callable[[str], Any]) -> Times:
        """The limits of a request."""
        return self._all or self._by_class[self.class_of(model, field)]


def ran_out(now_s: float, deadline_s: float, streamed: bool, began: bool) -> str:
    """Which limit it was: `total`, `ttft` or `idle`."""
    if now_s >= deadline_s or not (streamed or began):
        return "total"
    return "idle" if began else "ttft"


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    rules = Rules(config)
    times = rules.times(request.model, request.field)
    given = {"total": times.total_s, "first event": times.ttft_s, "between events": times.idle_s}
    said = ", ".join(f"{name} {value:g} s" for name, value in given.items() if value is not None)
    return f"{rules.class_of(request.model, request.field)}: {said or 'as the deployment file says'}"


class Timeout:
    """The layer. The limits are kept where the bytes come in; it says which, and notes what ran out."""

    def __init__(self, config: Config, services: Services) -> None:
        self._rules = Rules(config)
        self._name, self._source = services.name, services.source
        self._clock = services.clock

    async def __call__(self, request: Request, forward: Forward) -> Response:
        exchange = request.exchange
        times = self._rules.times(request.model, request.field)
        if times.total_s is not None:
            exchange.total_s = times.total_s
            exchange.deadline = min(exchange.deadline, self._clock() + times.total_s)
        if times.ttft_s is not None:
            exchange.ttft_s = times.ttft_s
        if times.idle_s is not None:
            exchange.idle_s = times.idle_s
        try:
            response = await forward(request)
        except WeirError as error:
            if error.code in _RAN_OUT:
                self._note(exchange, request.field("stream") is True, began=False)
            raise
        if not response.whole:
            exchange.defer(partial(self._ended, request.field("stream") is True))
        return response

    def _ended(self, streamed: bool, exchange: Exchange) -> None:
        if exchange.attempts and exchange.attempts[-1].error == "upstream_timeout":
            self._note(exchange, streamed, began=True)

    def _note(self, exchange: Exchange, streamed: bool, began: bool) -> None:
        what = ran_out(self._clock(), exchange.deadline, streamed, began)
        exchange.note(self._name, "ran_out", self._source, limit=what)


def build(config: Config, services: Services) -> Timeout:
    """The policy for one entry of a policy file."""
    return Timeout(config, services)
