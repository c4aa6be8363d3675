"""`microbatch`: embeddings that are asked for at about the same time go up as one request.

- use: microbatch
  window: 2ms
  max_items: 16

What lives here: the layer and its batches. `split.py` cuts answers apart and shares usage, `group.py` says who goes
together, and how long to wait.

Rules:
1. Together go requests of one model, with equal parameters, of one key (or one tenant, if the policy says so).
2. A request that finds no other under way goes at once, as it is.
3. A batch goes when it is full, by inputs or by their length, or when its window is over.
4. An input that the upstream rejects fails nobody else: a rejected batch is halved until its own request is alone.
5. A batch is a detached exchange: no member's deadline or leaving is another's; the last one to leave ends it.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from policies.coalesce.member import copied, same_terms
from policies.coalesce.shares import cost_of
from policies.microbatch.group import Pace, Share, group_key
from policies.microbatch.split import Inputs, apart, inputs_of, parts
from proxy.body import Body
from proxy.chain import Services
from proxy.config import Order
from proxy.config.scalars import Duration
from proxy.errors import OVERLOADED, UPSTREAM, WeirError
from proxy.exchange import Attempt, Exchange, Forward, Request
from proxy.failures import of_error, of_response
from proxy.response import Response
from proxy.wire.headers import Headers

ORDER: Final = Order(
    outside=("hedge", "fallback", "retry"),
    inside=("allow", "budget", "ratelimit", "timeout", "cache", "coalesce"),
    why="what is cached needn't go up, and the whole batch is tried again",
)
_REJECTED: Final = frozenset(("rejected", "context_length", "content_filter"))
_GROUPS: Final = 1024  # names of models come from clients
_BYTES_A_TOKEN: Final = 4


class Config(BaseModel):
    """Sends embeddings that are asked for at about the same time as one request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: Annotated[Duration, Field(le=0.1)] = Field(default=0.002, json_schema_extra={"default": "2ms"})
    """How long a request waits for others, if others are under way."""
    max_items: Annotated[int, Field(ge=2, le=2048)] = 16
    """How many inputs go up as one request."""
    max_tokens: Annotated[int, Field(ge=1000)] = 100_000
    """How long they may be together, in tokens; of texts, four bytes count as one."""
    share: Share = "key"
    """Whose requests go together: those of one `key`, or of one `tenant`; then the first one's budgets are asked."""


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    inputs = _inputs(config, request)
    return "passes by" if inputs is None else f"may go up with others, {len(inputs.items)} of {config.max_items} inputs"


def _inputs(config: Config, request: Request) -> Inputs | None:
    """What it wants embedded; None where it goes up alone."""
    if request.endpoint.name != "embeddings" or not isinstance(request.body, Body):
        return None
    found = inputs_of(request.field("input"))
    full = found is None or len(found.items) >= config.max_items or length(found) >= config.max_tokens
    return None if full else found


def length(inputs: Inputs) -> int:
    """In tokens, about."""
    return inputs.weight if inputs.kind == "tokens" else inputs.weight // _BYTES_A_TOKEN + 1


class Member:
    """One request in a batch."""

    __slots__ = ("answer", "inputs", "request")

    def __init__(self, request: Request, inputs: Inputs) -> None:
        self.request = request
        self.inputs = inputs
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def gets(self, response: Response) -> None:
        """Its answer; nobody may be there any more."""
        if not self.answer.done():
            self.answer.set_result(response)

    def fails(self, error: WeirError) -> None:
        """Its failure."""
        if not self.answer.done():
            self.answer.set_exception(copied(error))


class Batch:
    """The requests that go up as one."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.members: list[Member] = []
        self.items = self.length = 0
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None

    def add(self, member: Member) -> None:
        """One more."""
        self.members.append(member)
        self.items += len(member.inputs.items)
        self.length += length(member.inputs)

    def leave(self, member: Member) -> None:
        """One less: before it went up its inputs don't; afterwards the last one to leave ends it."""
        if member in self.members:
            self.members.remove(member)
            self.items -= len(member.inputs.items)
            self.length -= length(member.inputs)
        if not self.members and self.task is not None:
            self.task.cancel()


class MicroBatch:
    """The layer."""

    def __init__(self, config: Config, services: Services) -> None:
        self._config = config
        self._name, self._source = services.name, services.source
        self._observing = services.observing
        self._loop = asyncio.get_running_loop()
        self._paces: dict[bytes, Pace] = {}
        self._open: dict[bytes, Batch] = {}

    async def __call__(self, request: Request, forward: Forward) -> Response:
        inputs = _inputs(self._config, request)
        if inputs is None:
            return await forward(request)
        key = group_key(request, inputs, self._config.share)
        pace = self._pace(key)
        batch = self._open.get(key)
        if batch is not None and not self._room(batch, inputs):
            self._send(key, batch, forward)
            batch = None
        window_s = 0.0 if batch is not None else pace.window_s(self._config.window)
        if batch is None and (not window_s or self._observing):
            return await self._alone(request, forward, pace, window_s > 0)
        if batch is None:
            batch = self._open[key] = Batch(pace)
            batch.timer = self._loop.call_later(window_s, self._send, key, batch, forward)
        member = Member(request, inputs)
        batch.add(member)
        if batch.items >= self._config.max_items:
            self._send(key, batch, forward)
        return await self._answer(member, batch)

    def _pace(self, key: bytes) -> Pace:
        pace = self._paces.get(key)
        if pace is None:
            if len(self._paces) >= _GROUPS:
                self._paces = {name: one for name, one in self._paces.items() if one.running}
            pace = self._paces[key] = Pace()
        return pace

    def _room(self, batch: Batch, inputs: Inputs) -> bool:
        config = self._config
        items, tokens = batch.items + len(inputs.items), batch.length + length(inputs)
        return items <= config.max_items and tokens <= config.max_tokens

    async def _alone(self, request: Request, forward: Forward, pace: Pace, would_wait: bool) -> Response:
        if would_wait:  # observing
            request.exchange.note(self._name, "would_wait", self._source)
        pace.running += 1
        try:
            return await forward(request)
        finally:
            pace.running -= 1

    async def _answer(self, member: Member, batch: Batch) -> Response:
        deadline = member.request.exchange.deadline
        try:
            if deadline == math.inf:
                return await member.answer
            async with asyncio.timeout_at(deadline):
                return await member.answer
        except TimeoutError:
            batch.leave(member)
            raise _too_late() from None
        except asyncio.CancelledError:
            batch.leave(member)
            raise

    # --- what goes up

    def _send(self, key: bytes, batch: Batch, forward: Forward) -> None:
        """The batch is closed."""
        if self._open.get(key) is batch:
            del self._open[key]
        if batch.timer is not None:
            batch.timer.cancel()
        batch.pace.brought(max(0, len(batch.members) - 1))
        if not batch.members:
            return
        first = batch.members[0].request
        batch.pace.running += 1

        async def run(background: Exchange) -> None:
            same_terms(first.exchange, background)
            members = list(batch.members)
            try:
                await self._run(members, background, forward, call=background.id)
            except WeirError as error:
                _all_fail(members, error)
                raise
            except BaseException:
                _all_fail(members, _failed())
                raise
            finally:
                batch.pace.running -= 1

        batch.task = first.exchange.detached("batch", run, policy=self._name)

    async def _run(self, members: list[Member], exchange: Exchange, forward: Forward, call: str) -> None:
        """Sends these as one; what is rejected is halved."""
        mark = len(exchange.attempts)
        items = [item for member in members for item in member.inputs.items]
        first = members[0].request
        try:
            response = await forward(first.using(fields={"input": items}, exchange=exchange))
            body = await response.read()
        except WeirError as error:
            failure = of_error(error, time.time())
            if failure is None or failure.kind not in _REJECTED or len(members) == 1:
                raise
            await self._halved(members, exchange, forward, call)
            return
        exchange.status = response.status
        if response.status >= 400:
            failure = await of_response(response, time.time())
            if failure.kind in _REJECTED and len(members) > 1:
                await self._halved(members, exchange, forward, call)
                return
            for member in members:
                member.gets(Response(response.status, list(response.headers), body))
            return
        self._share(members, exchange.attempts[mark:], response.headers, body, call)

    async def _halved(self, members: list[Member], exchange: Exchange, forward: Forward, call: str) -> None:
        """Each half goes up on its own, and fails on its own."""
        middle = len(members) // 2
        for half in (members[:middle], members[middle:]):
            try:
                await self._run(half, exchange, forward, call)
            except WeirError as error:
                _all_fail(half, error)

    def _share(self, members: list[Member], attempts: list[Attempt], headers: Headers, body: bytes, call: str) -> None:
        """Everybody gets its vectors; those who are still there pay, in proportion to their tokens."""
        weights = [member.inputs.weight for member in members]
        found = apart(body, [len(member.inputs.items) for member in members], weights)
        if found is None:
            raise _not_theirs()
        there = [at for at, member in enumerate(members) if not member.answer.done()]
        cost = cost_of(attempts) if attempts else 0
        shares = [None] * len(there) if cost is None else parts(cost, [found.tokens[at] for at in there])
        for at, share in zip(there, shares, strict=True):
            member, own, tokens = members[at], found.bodies[at], found.tokens[at]
            exchange = member.request.exchange
            exchange.charge(share)
            exchange.note(
                self._name, "batched", self._source, call=call, by=len(members), tokens=tokens, share_nanodollars=share
            )
            member.gets(Response(200, _headers(headers, attempts, call, share), own))


def _headers(headers: Headers, attempts: list[Attempt], call: str, share: int | None) -> Headers:
    """What a member is told: the answer's own, but for its length, and what it pays."""
    given = [pair for pair in headers if pair[0] != b"content-length"]
    given.append((b"x-weir-batched", call.encode()))
    if attempts and (model := attempts[-1].served or attempts[-1].model).isprintable() and model.isascii():
        given.append((b"x-weir-model", model.encode()))
    given.append((b"x-weir-cost", b"unpriced" if share is None else b"%d.%09d" % divmod(share, 10**9)))
    return given


def _all_fail(members: list[Member], error: WeirError) -> None:
    for member in members:
        member.fails(error)


def _too_late() -> WeirError:
    message = "The time that this request may take was over before the batch that it is in was answered."
    return WeirError(504, message, type=OVERLOADED, code="deadline_exceeded")


def _failed() -> WeirError:
    return WeirError(500, "The batch that this request is in failed in the proxy.", type="server_error")


def _not_theirs() -> WeirError:
    message = "The upstream's answer doesn't hold one vector for each input of the batch."
    return WeirError(502, message, type=UPSTREAM, code="upstream_not_an_answer")


def build(config: Config, services: Services) -> MicroBatch:
    """The policy for one entry of a policy file."""
    return MicroBatch(config, services)
