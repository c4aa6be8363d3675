"""`hedge`: a second call where the first is slower than usual; the quicker answer counts, the other call is given up.

    - use: hedge
      after: p90
      max_extra: 5%

Rules:
1. The second call is made when the first has taken longer than a quantile of what this worker has seen of that model,
   endpoint and kind of answer; not before enough has been seen.
2. What the calls that were given up cost stays below a share of what the others did, and goes to the slowest: the
   quantile rises until the share pays for all. Where prices aren't known, calls are counted instead. Both calls are
   attempts like any other: guards are asked, the ledger shows them.
3. Only requests that make nothing but an answer are sent twice.
4. The second call goes to another deployment of the model, if there is one.
"""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial
from typing import Annotated, Final

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from proxy.body import Body
from proxy.chain import Services
from proxy.config import Order
from proxy.config.scalars import Duration, Percent, wrong
from proxy.endpoints import uses_stored
from proxy.exchange import Attempt, Exchange, Forward, Request
from proxy.failures import Try, tried
from proxy.quantile import FadingQuantile
from proxy.response import Response

ORDER = Order(
    outside=("fallback", "retry"),
    inside=("timeout", "budget", "ratelimit", "cascade", "cache", "coalesce"),
    why="each of the two calls is tried again and falls back on its own",
)

_SAFE: Final = frozenset(
    (
        "chat.completions",
        "completions",
        "embeddings",
        "messages",
        "messages.count_tokens",
        "moderations",
        "responses",
        "responses.input_tokens",
    )
)


def _quantile(value: object) -> object:
    match = re.fullmatch(r"p(\d{1,2}(?:\.\d{1,3})?)", value) if isinstance(value, str) else None
    if isinstance(value, float) and 0 < value < 1:
        return value
    if match is None or not float(match[1]):
        raise wrong(f"expected a quantile such as p95 or p99.5, found {value!r}")
    return float(match[1]) / 100


Quantile = Annotated[
    float,
    BeforeValidator(_quantile),
    WithJsonSchema({"title": "quantile", "type": "string", "pattern": r"^p\d{1,2}(\.\d{1,3})?$", "examples": ["p95"]}),
]


class Config(BaseModel):
    """When a second call is made, and what that may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Quantile = Field(default=0.9, json_schema_extra={"default": "p90"})
    """The quantile of the time to the first token, or to a whole answer, after which the second call is made; a higher
    one where `max_extra` doesn't pay for so many."""
    at_least: Duration = 0.02
    """It is never made earlier than this."""
    max_extra: Percent = Field(default=0.05, json_schema_extra={"default": "5%"})
    """What calls that were given up may cost, as a share of what all others cost; for each worker."""
    samples: Annotated[int, Field(ge=10)] = 100
    """How many answers of a model must have been seen before."""


class Spending:
    """What was paid for answers (`base`), and for calls that were given up (`extra`), of late. In nano-dollars."""

    WINDOW: Final = 10_000  # requests; then all is halved, so that a long calm doesn't pay for a storm
    PRIOR: Final = 5  # so many calls given up are assumed to have cost as much as whole answers, until more is known

    RESERVE: Final = 20  # second calls

    __slots__ = ("_share", "_unpriced", "base", "extra", "lost", "requests", "running")

    def __init__(self, share: float) -> None:
        self._share = share
        self._unpriced = False
        self.base = self.extra = 0.0
        self.requests = self.lost = 0.0
        self.running = 0  # second calls that are being made

    @property
    def usual(self) -> float:
        """What one request costs."""
        return self.base / self.requests if self.requests else 0.0

    @property
    def each(self) -> float:
        """What one call that is given up is expected to cost."""
        return (self.extra + self.PRIOR * self.usual) / (self.lost + self.PRIOR)

    @property
    def counted(self) -> bool:
        """Whether calls are counted, for want of prices."""
        return self._unpriced or not self.base

    def left(self) -> float:
        """How many second calls the share pays for now, if the calls that are given up cost what they do."""
        if self.counted:
            return self._share * self.requests - self.lost - self.running
        return (self._share * self.base - self.extra) / self.each - self.running

    def allows(self) -> bool:
        """Whether one more second call keeps the extra cost below the share."""
        return self.left() >= 1

    def affordable(self) -> float:
        """The lowest quantile at which the share pays for all second calls: so it goes to the slowest ones.

        Where little is left, after many slow answers in a row, it is kept for slower ones yet.
        """
        rate = self._share * (1.0 if self.counted else self.usual / self.each)
        return 1 - rate * (0.5 + 0.5 * min(max(self.left(), 0.0) / self.RESERVE, 1.0))

    def gave_up(self, nanodollars: int | None, streamed: bool) -> None:
        """A call was given up. What it used before its first token is estimated; a provider may well have gone on with
        an answer in one piece, so that counts in full."""
        self.lost += 1
        self._unpriced = nanodollars is None
        self.extra += nanodollars or 0 if streamed else max(nanodollars or 0, self.usual)

    def answered(self, nanodollars: int | None) -> None:
        """A request was answered."""
        self.requests += 1
        self._unpriced = nanodollars is None
        self.base += nanodollars or 0
        if self.requests >= self.WINDOW:
            self.base, self.extra, self.requests, self.lost = [
                part / 2 for part in (self.base, self.extra, self.requests, self.lost)
            ]


class Seen(msgspec.Struct, eq=False):
    """What a worker knows of one model at one endpoint, streamed or not."""

    times: FadingQuantile
    spending: Spending

    def ended(self, exchange: Exchange) -> None:
        """An exchange without a second call has ended."""
        self.spending.answered(exchange.nanodollars)


def delay_s(config: Config, seen: Seen) -> float | None:
    """How long to wait for the first call; None while too little is known."""
    if seen.times.seen < config.samples:
        return None
    share = max(config.after, seen.spending.affordable())
    return max(seen.times.recent_s(share), config.at_least)


def safe(request: Request) -> bool:
    """Whether a request makes nothing but an answer, so that it may be sent twice."""
    name = request.endpoint.name
    if name not in _SAFE or not isinstance(request.body, Body):
        return False
    if name == "responses":
        return request.field("store") is False and not uses_stored(request.endpoint, request.field)
    return request.field("store") is not True


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    if not safe(request):
        return "lets it pass: it may make more than an answer"
    return f"calls again after p{config.after * 100:g} of what was seen, for at most {config.max_extra:.0%} more"


class Hedge:
    """The layer."""

    MODELS: Final = 512  # names come from clients

    def __init__(self, config: Config, services: Services) -> None:
        self._config = config
        self._name, self._source = services.name, services.source
        self._clock = services.clock
        self._seen: dict[tuple[str, str | None, bool], Seen] = {}

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if not safe(request):
            return await forward(request)
        exchange, seen = request.exchange, self._of(request)
        wait_s, began_s = delay_s(self._config, seen), self._clock()
        if wait_s is not None and seen.spending.allows():
            race = _Race(request, forward)
            exchange.defer(partial(_answered, seen.spending, race.lost))
            return await self._raced(race, seen, wait_s, began_s)
        exchange.defer(seen.ended)
        response = await forward(request)
        if response.status < 400 and exchange.attempts:
            seen.times.add(self._clock() - began_s)
        return response

    async def _raced(self, race: _Race, seen: Seen, wait_s: float, began_s: float) -> Response:
        exchange, spending = race.request.exchange, seen.spending
        winner: Call | None = None
        hedged = False
        try:
            late = await race.first(wait_s) and race.sent
            if late and (hedged := spending.allows()):
                spending.running += 1
                race.second()
            elif late:
                exchange.note(self._name, "withheld", self._source, after_s=wait_s, why="max_extra")
            winner = await race.winner()
            if winner.get_name() == "second" or good(winner):
                seen.times.add(self._clock() - began_s)
        finally:
            await race.give_up(winner)
            spending.running -= hedged
        if hedged:
            extra = nanodollars_of(race.lost)
            spending.gave_up(extra, race.streamed)
            exchange.note(
                self._name, "hedged", self._source, after_s=wait_s, won=winner.get_name(), extra_nanodollars=extra
            )
        return winner.result().result()

    def _of(self, request: Request) -> Seen:
        key = (request.endpoint.name, request.model, request.field("stream") is True)
        seen = self._seen.get(key)
        if seen is None:
            seen = Seen(FadingQuantile(), Spending(self._config.max_extra))
            if len(self._seen) < self.MODELS:
                self._seen[key] = seen
        return seen


Call = asyncio.Task[Try]


class _Race:
    """One request with up to two calls. `lost` are the attempts that were given up."""

    def __init__(self, request: Request, forward: Forward) -> None:
        self.request, self._forward = request, forward
        self.streamed = request.field("stream") is True
        self.lost: list[Attempt] = []
        self._known = len(request.exchange.attempts)
        self._open = len(request.exchange.open_answers)
        self._calls: list[Call] = []

    async def first(self, wait_s: float) -> bool:
        """Makes the first call; whether it takes longer than that."""
        await asyncio.wait((self._call("first"),), timeout=wait_s)
        return not self._calls[0].done()

    @property
    def sent(self) -> bool:
        """Whether the first call waits for an upstream, and not for a guard or its next try."""
        return any(not answer.over for answer in self.request.exchange.open_answers[self._open :])

    def second(self) -> None:
        """Makes the second call, somewhere else if possible."""
        exchange = self.request.exchange
        for attempt in exchange.attempts[self._known :]:
            exchange.shun(attempt)
        self._call("second")

    async def winner(self) -> Call:
        """The first call that gave an answer; where none did, the first one, whose failure the client gets."""
        running = set(self._calls)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for call in self._calls:
                if call in done and good(call):
                    return call
        return self._calls[0]

    async def give_up(self, winner: Call | None) -> None:
        """Ends the others. Their attempts are settled by then."""
        others = [call for call in self._calls if call is not winner]
        for call in others:
            call.cancel()
        for one in await asyncio.gather(*others, return_exceptions=True):
            if isinstance(one, Try):
                await one.discard()
        if others:
            made = self.request.exchange.attempts[self._known :]
            self.lost.extend(lost_of(made))

    def _call(self, name: str) -> Call:
        call = asyncio.get_running_loop().create_task(tried(self.request, self._forward, time.time), name=name)
        self._calls.append(call)
        return call


def good(call: Call) -> bool:
    """Whether a finished call gave an answer."""
    if call.cancelled() or call.exception() is not None:
        return False
    one = call.result()
    return one.failure is None and isinstance(one.answer, Response)


def lost_of(attempts: list[Attempt]) -> list[Attempt]:
    """All attempts of a race but that of the winner: the one that goes on, else the first that was complete."""
    for outcome in ("", "complete"):
        for winner in attempts:
            if winner.outcome == outcome:
                return [attempt for attempt in attempts if attempt is not winner]
    return attempts


def nanodollars_of(attempts: list[Attempt]) -> int | None:
    """What attempts cost together; None where one's price isn't known."""
    costs = [attempt.nanodollars for attempt in attempts]
    return None if None in costs else sum(cost or 0 for cost in costs)


def _answered(spending: Spending, lost: list[Attempt], exchange: Exchange) -> None:
    extra = nanodollars_of(lost)
    if exchange.nanodollars is None or extra is None:
        spending.answered(None)
    else:
        spending.answered(exchange.nanodollars - extra)


def build(config: Config, services: Services) -> Hedge:
    """The policy for one entry of a policy file."""
    return Hedge(config, services)
