"""`retry`: asks again where an attempt failed and nothing was billed.

    - use: retry
      attempts: 3
      on: [unreachable, overloaded, rate_limited, server_error]

Rules:
1. What may have been billed is not sent again unless `double_bill` accepts that.
2. Once the first event has reached the client nothing is sent again; a body that streams through goes once.
3. The upstream's latest word on when to come back holds, unless another deployment can be asked instead. A wait that
   doesn't fit into the request's time ends the trying at once, with the upstream's own answer.
4. Retries stay below a share of each upstream's traffic, so that they can't keep down what they wait for. A call of
   a deployment that this exchange has not tried yet isn't a retry in that sense: each sees an exchange once for free.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from proxy.chain import Services
from proxy.config import Order
from proxy.config.scalars import Duration, OneOrList, Percent, Truth
from proxy.errors import WeirError
from proxy.exchange import Exchange, Forward, Request
from proxy.failures import Failure, Kind, Try, elsewhere, looked_at, repeatable, tried
from proxy.response import Response

ORDER = Order(
    inside=("timeout", "hedge", "fallback", "budget", "ratelimit", "cascade", "cache", "coalesce"),
    why="each call of theirs is tried again",
)

BURST: Final = 10.0  # retries that may come at once after a quiet time
_ELSEWHERE: Final = frozenset(("quota", "key_refused"))  # waiting doesn't mend these; another deployment may do

Why = Literal["again", "kind", "spent", "billed", "final", "body", "too_long", "budget"]


class Config(BaseModel):
    """How often, for what, and how long it is tried again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Calls of an upstream in all, the first included."""
    on: Annotated[tuple[Kind, ...], OneOrList()] = (
        "unreachable",
        "overloaded",
        "rate_limited",
        "quota",
        "key_refused",
        "server_error",
        "timeout",
        "broken",
    )
    """Kinds of failures that are worth another try; `quota` and `key_refused` only at another deployment."""
    double_bill: Truth = False
    """Whether what may have been billed is sent again, and perhaps billed twice."""
    backoff: Duration = 0.25
    """The longest first wait; it doubles from try to try. Each wait is drawn evenly from nothing to that."""
    max_backoff: Duration = 8.0
    """Where the doubling ends."""
    max_wait: Duration = 20.0
    """The longest wait that an upstream may ask for; if it wants more, its answer goes to the client at once."""
    within: Duration = 120.0
    """No try begins later than this after the first one did."""
    budget: Percent = Field(default=0.2, json_schema_extra={"default": "20%"})
    """Retries as a share of the calls of an upstream, for each worker."""
    budget_floor: Annotated[float, Field(ge=0)] = 3.0
    """Retries a second that are allowed whatever the share says, so that little traffic can be tried again."""


class RetryBudget:
    """Retries that an upstream may still see. Over any time: retries <= share x calls + floor x seconds + burst."""

    __slots__ = ("_at", "_floor_per_s", "_share", "left")

    def __init__(self, share: float, floor_per_s: float, now_s: float) -> None:
        self._share = share
        self._floor_per_s = floor_per_s
        self._at = now_s
        self.left = BURST

    def called(self) -> None:
        """A call that isn't a retry was made."""
        if self.left < BURST:
            self.left = min(BURST, self.left + self._share)

    def take(self, now_s: float) -> bool:
        """Whether one more retry may be made; counts it if so."""
        self.left = min(BURST, self.left + (now_s - self._at) * self._floor_per_s)
        self._at = now_s
        if self.left < 1:
            return False
        self.left -= 1
        return True


class State(msgspec.Struct, frozen=True):
    """What a decision depends on, besides the failure. Times in seconds."""

    made: int  # calls so far
    left_s: float  # until the deadline
    elsewhere: bool  # a deployment of the same model that this exchange hasn't given up
    replayable: bool  # the body can be sent again
    repeatable: bool  # sending it again makes nothing twice but the bill


def decide(config: Config, failure: Failure, state: State, draw: float) -> tuple[Why, float]:
    """Whether to try again, and after how many seconds. `draw` is from [0, 1)."""
    if failure.kind not in config.on or (failure.kind in _ELSEWHERE and not state.elsewhere):
        return "kind", 0.0
    if state.made >= config.attempts:
        return "spent", 0.0
    if failure.billed and not (config.double_bill and state.repeatable):
        return "billed", 0.0
    if failure.final and not state.elsewhere:
        return "final", 0.0
    if not state.replayable:
        return "body", 0.0
    if state.elsewhere:
        return ("again" if state.left_s > 0 else "too_long"), 0.0
    # Full jitter: an even draw spreads the tries of many clients better than a narrow one around the middle.
    wait_s = draw * min(config.max_backoff, config.backoff * 2.0 ** (state.made - 1))
    if failure.told_s is not None:
        if failure.told_s > config.max_wait:
            return "too_long", failure.told_s
        wait_s += failure.told_s
    return ("again" if wait_s < state.left_s else "too_long"), wait_s


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    billed = ", even if it may be billed twice" if config.double_bill else ""
    return f"makes up to {config.attempts} calls in all{billed}; on {', '.join(config.on)}"


class Retry:
    """The layer. `draw` gives the jitter, `wall` the Unix time; `sleep` waits."""

    def __init__(
        self,
        config: Config,
        services: Services,
        draw: Callable[[], float] = random.random,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._config = config
        self._name, self._source = services.name, services.source
        self._clock = services.clock
        self._draw, self._wall, self._sleep = draw, wall, sleep
        self._budgets: dict[str, RetryBudget] = {}

    async def __call__(self, request: Request, forward: Forward) -> Response:
        attempts, began_s = request.exchange.attempts, self._clock()
        known = len(attempts)
        try:
            answer: Response | WeirError = await forward(request)
        except WeirError as error:
            answer = error
        made = attempts[known:]
        if made:
            self._budget(made[0].upstream).called()
        if isinstance(answer, Response) and answer.status < 400:
            return answer
        return await self._tried(request, forward, await looked_at(answer, made, self._wall), began_s)

    async def _tried(self, request: Request, forward: Forward, one: Try, began_s: float) -> Response:
        made = 1
        while one.failure is not None:
            state = self._state(request, one, made, began_s + self._config.within)
            why, wait_s = decide(self._config, one.failure, state, self._draw())
            if why == "again" and not state.elsewhere and not self._take(one):
                why = "budget"
            self._note(request.exchange, one.failure, why, wait_s, made)
            if why != "again":
                break
            await one.discard()
            if wait_s > 0:
                await self._sleep(wait_s)
            one = await tried(request, forward, self._wall)
            made += 1
            if state.elsewhere and one.attempts:
                self._budget(one.attempts[0].upstream).called()
        return one.result()

    def _take(self, one: Try) -> bool:
        return self._budget(one.attempts[-1].upstream).take(self._clock())

    def _state(self, request: Request, one: Try, made: int, latest_s: float) -> State:
        exchange = request.exchange
        for attempt in one.attempts:
            if attempt.outcome == "failed":
                exchange.shun(attempt)
        left_s = min(exchange.deadline, latest_s) - self._clock()
        return State(made, left_s, elsewhere(one.attempts[-1], exchange), request.replayable, repeatable(request))

    def _note(self, exchange: Exchange, failure: Failure, why: Why, wait_s: float, made: int) -> None:
        told: dict[str, object] = {"kind": failure.kind, "status": failure.status, "attempts": made}
        if why == "again":
            exchange.note(self._name, "retried", self._source, wait_s=wait_s, **told)
        elif why != "kind":
            exchange.note(self._name, "gave_up", self._source, why=why, **told)

    def _budget(self, upstream: str) -> RetryBudget:
        budget = self._budgets.get(upstream)
        if budget is None:
            made = RetryBudget(self._config.budget, self._config.budget_floor, self._clock())
            budget = self._budgets[upstream] = made  # as many as the deployment file has upstreams
        return budget


def build(config: Config, services: Services) -> Retry:
    """The policy for one entry of a policy file."""
    return Retry(config, services)
