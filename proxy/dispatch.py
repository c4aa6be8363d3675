"""The end of the chain: one call of `dispatch` is one attempt at an upstream.

(Two, where a reset connection or a field that the upstream rejects asks for it.)

The order of things, which the invariants of the journal hang on:
1. a deployment is chosen, the attempt is described, and every guard admits it;
2. `reserved` is written;
3. the request is sent;
4. the answer is accounted for: `settled` is written, guards are told, before the last of it reaches the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from proxy.accounting import Books, unsent
from proxy.answer import Answer, AnswerLimits, Failed, Stale
from proxy.body import Body
from proxy.dialects import stream_reader
from proxy.dialects.request import RequestFacts, capped, facts
from proxy.endpoints import uses_stored
from proxy.errors import OVERLOADED, PERMISSION, UPSTREAM, WeirError
from proxy.exchange import Attempt, Exchange, Request, Settle
from proxy.failures import repeatable
from proxy.faults import Fault, of_wire
from proxy.journal import Journal
from proxy.metrics import Metrics
from proxy.objects.background import Followings
from proxy.objects.ownership import used_by
from proxy.pricing import RateCard, RateCards
from proxy.response import Response
from proxy.tokens import Estimator
from proxy.upstreams import Deployment, NoDeploymentError, Routes, Upstream
from proxy.wire.call import BodyReader
from proxy.wire.client import Progress, UpstreamConnection, WireError
from proxy.wire.ticker import NEVER

_NO_FACTS: Final = RequestFacts()
STALE_S: Final = 0.5
"""By when a kept connection shows that it was closed as the request arrived: some round trips, and less than a model
takes for an answer."""
_NOBODY: Final[list[Settle]] = []  # no guard to tell
_NOTHING: Final[frozenset[str]] = frozenset()


class Dispatch:
    """Sends requests to upstreams. One instance serves one configuration; what it shares with others is handed in."""

    def __init__(
        self,
        routes: Routes,
        journal: Journal,
        metrics: Metrics,
        limits: AnswerLimits,
        cards: RateCards | None,
        shared: bool = False,
        tokens: Estimator | None = None,
        log: Callable[..., object] = lambda level, event, **fields: None,
        policies_hash: str = "",
    ) -> None:
        self._routes = routes
        self._metrics = metrics
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._shared = shared  # many tenants use one upstream key: what is kept there must be kept apart
        self.books = Books(journal, metrics, cards, tokens or Estimator(), log, policies_hash, Followings(self))

    @property
    def routes(self) -> Routes:
        """Where models are served."""
        return self._routes

    def __call__(self, request: Request) -> Awaitable[Response]:
        """One attempt at the deployment whose turn it is. Raises WeirError where there is no answer to pass on."""
        exchange, model = request.exchange, request.model
        avoid = exchange.avoided(model) if exchange.avoid else _NOTHING
        try:
            deployment = self._routes.route(model).pick(request, avoid)
        except NoDeploymentError as error:
            self._metrics.count("no_deployment_available")
            _not_sent(request, error)
            raise
        return self.send(request, deployment)

    async def send(
        self, request: Request, deployment: Deployment, *, may_inject: bool = True, fresh: bool = False
    ) -> Response:
        """One attempt at a given deployment; a second one where the upstream rejects a field of ours, or has reset the
        connection (then over a `fresh` one).
        """
        exchange, upstream = request.exchange, deployment.upstream
        if self._shared and not exchange.stateful_allowed and _keeps_state(request):
            raise _stateful()
        model = deployment.model or request.model or ""
        asked = _facts(request)
        attempt = Attempt(
            exchange,
            request,
            len(exchange.attempts) + 1,
            deployment.label,
            upstream.name,
            model,
            asked.n,
            asked.output_cap,
            asked.service_tier,
            others=deployment.others,
        )
        exchange.attempts.append(attempt)
        endpoint, loop = request.endpoint, self._loop
        if endpoint.metered:
            self.books.estimate(attempt, upstream)
        flight = deployment.begin(attempt) if deployment.watched else None
        settles: list[Settle] = _NOBODY if flight is None else [flight.land]
        if exchange.guards:
            settles = await _admitted(exchange, attempt, settles)
        if exchange.ended or exchange.deadline <= loop.time():
            raise _too_late(attempt, settles)
        lowered = _is_lower(attempt.output_cap, asked.output_cap)
        if lowered and endpoint.metered and not attempt.holds:  # else a guard has said what it reserved
            self.books.estimate(attempt, upstream)
        self.books.reserve(attempt, settles)
        inject = may_inject and asked.stream and _wants_injection(request, upstream)
        limit_s = exchange.total_s or upstream.total_s
        if exchange.total_s is None and (asked.service_tier is not None or upstream.reasoning_s is not None):
            limit_s = upstream.limit_s(request, model, asked.service_tier)
        answer = Answer(
            attempt,
            upstream,
            self._limits,
            self.books.settle,
            endpoint.dialect if endpoint.metered else None,
            stream_reader(endpoint.dialect) if asked.stream and endpoint.dialect else None,
            inject,
            settles,
            loop,
            min(exchange.deadline, loop.time() + limit_s),
        )
        exchange.open_answers.append(answer)  # given up with the exchange, if nobody did before
        try:
            body = _wire_body(request, model, inject, attempt.output_cap if lowered else None)
            head = upstream.head(request, model, deployment.key)
            if isinstance(body, BodyReader):
                await self._upload(upstream, head, body, answer)
            else:
                head += _framing(request.method, len(body))
                connection = None if fresh else upstream.pool.take()
                if connection is None:
                    connection = await _connected(upstream, answer, fresh)
                if connection.used > 0:
                    answer.stale_until = loop.time() + STALE_S
                answer.attach(connection)
                connection.send(head, body, answer, head_request=request.method == "HEAD")
                try:
                    await answer.ready
                except Stale as stale:
                    stale.__traceback__ = None
                    await self._resend(upstream, head, body, answer)
        except Failed as failed:
            failed.__traceback__ = None  # its frames hold the answer, which holds it
            if not (failed.again and repeatable(request)):
                if flight is not None:
                    flight.failed(failed.fault.error)
                else:
                    deployment.failed(attempt, failed.fault.error)
                raise failed.fault.error from None
        except BaseException:
            answer.cancel()
            raise
        else:
            if flight is not None:
                flight.heard(answer)
            if inject and answer.status == 400 and _rejects_injection(answer):
                return await self._without_injection(request, deployment)
            return answer.response()
        self._metrics.count("request_resent")  # by another attempt: the first one may be billed, too
        return await self.send(request, deployment, may_inject=may_inject, fresh=True)

    async def _without_injection(self, request: Request, deployment: Deployment) -> Response:
        response = await self.send(request, deployment, may_inject=False)
        if response.status < 300:  # it was that field and nothing else: this upstream needn't be asked again
            deployment.upstream.include_usage = False
            self._metrics.count("include_usage_rejected")
        return response

    # --- the wire

    async def _resend(self, upstream: Upstream, head: bytes, body: bytes, answer: Answer) -> None:
        """Sends it again, by the same attempt: the first copy was read by nobody."""
        self._metrics.count("request_resent")
        answer.stale_until = 0.0
        answer.ready = self._loop.create_future()
        connection = await _connected(upstream, answer, fresh=True)
        answer.attach(connection)
        connection.send(head, body, answer, head_request=answer.attempt.request.method == "HEAD")
        await answer.ready

    async def _upload(self, upstream: Upstream, head: bytes, body: BodyReader, answer: Answer) -> None:
        if body.begun:
            message = "The request's body streams through: it can't be sent a second time."
            spent = Fault(WeirError(502, message, type=UPSTREAM, code="body_not_replayable"), billed=False)
            answer.refuse(spent)
            raise Failed(spent, None)
        head += _framing(answer.attempt.request.method, body.length)
        # A body that streams through can't go twice, so it isn't risked on a connection that may be dead.
        connection = await _connected(upstream, answer, fresh=True)
        answer.attach(connection)
        sending = self._loop.create_task(
            connection.send_streamed(head, body, answer, chunked=body.length is None, limit=upstream.stream_idle_s),
            name="upload",
        )
        sending.add_done_callback(partial(_uploaded, answer))
        try:
            await answer.ready
        finally:
            sending.cancel()

    # --- money

    def card(self, deployment: Deployment, model: str) -> RateCard | None:
        """What a model costs at a deployment now; None where that isn't known."""
        return self.books.card(deployment.upstream, deployment.model or model)


def _stateful() -> WeirError:
    message = "This endpoint keeps objects at the upstream, where tenants share one key: it is denied unless allowed."
    return WeirError(403, message, type=PERMISSION, code="stateful_not_allowed")


def _keeps_state(request: Request) -> bool:
    """Whether a request makes, reads or uses objects that stay at the upstream."""
    if request.endpoint.stateful or uses_stored(request.endpoint, request.field):
        return True
    return isinstance(request.body, Body) and bool(used_by(request.body))


def _uploaded(answer: Answer, sending: asyncio.Task[None]) -> None:
    """The request's body is out, or won't ever be."""
    if sending.cancelled() or (error := sending.exception()) is None or answer.ready.done():
        return
    if isinstance(error, TimeoutError):
        answer.on_end(WireError("timeout", Progress.SENT, "it stopped taking the upload"))
    else:
        answer.ready.set_exception(error)  # the client's side of the upload failed


async def _connected(upstream: Upstream, answer: Answer, fresh: bool) -> UpstreamConnection:
    try:
        async with asyncio.timeout_at(answer.deadline):
            connection = await upstream.pool.acquire(fresh)
    except TimeoutError:
        fault = of_wire(WireError("connect_timeout", Progress.CONNECTING))
        answer.refuse(fault)
        raise Failed(fault, None) from None
    except WireError as error:
        fault = of_wire(error)
        answer.refuse(fault)
        raise Failed(fault, error) from None
    if answer.over:  # the exchange ended meanwhile, and nobody told whoever waits here
        upstream.pool.release(connection, reusable=not connection.lost)
        raise asyncio.CancelledError
    return connection


async def _admitted(exchange: Exchange, attempt: Attempt, told: list[Settle]) -> list[Settle]:
    """Asks every guard, outermost first; if one refuses, those that admitted (and who else is told) hear of it."""
    settles = [*told]
    try:
        async with asyncio.timeout_at(None if exchange.deadline == NEVER else exchange.deadline) as limit:
            for guard in exchange.guards:
                settle = await guard(attempt)
                if settle is not None:
                    settles.append(settle)
    except BaseException as error:
        if isinstance(error, TimeoutError) and limit.expired():
            raise _too_late(attempt, settles) from None
        unsent(attempt, settles, "refused")
        raise
    return settles


def _too_late(attempt: Attempt, settles: list[Settle]) -> WeirError:
    unsent(attempt, settles, "deadline_exceeded")
    message = "The time that this request may take was over before it could be sent upstream."
    return WeirError(504, message, type=OVERLOADED, code="deadline_exceeded")


def _not_sent(request: Request, error: NoDeploymentError) -> None:
    """Nobody can take it: an attempt that failed, for layers that would try again, but never was in the journal."""
    exchange, deployment = request.exchange, error.deployment
    number, model = len(exchange.attempts) + 1, deployment.model or request.model or ""
    attempt = Attempt(exchange, request, number, deployment.label, deployment.upstream.name, model)
    exchange.attempts.append(attempt)
    attempt.known = "observed"
    unsent(attempt, _NOBODY, "no_deployment_available")


def _facts(request: Request) -> RequestFacts:
    return facts(request.endpoint.name, request.body) if isinstance(request.body, Body) else _NO_FACTS


def _wants_injection(request: Request, upstream: Upstream) -> bool:
    if not (request.endpoint.include_usage and upstream.include_usage):
        return False
    options = request.field("stream_options")
    return not (isinstance(options, dict) and "include_usage" in options)


def _rejects_injection(answer: Answer) -> bool:
    """Whether the upstream's 400 is about the field that we added (some servers know no `stream_options`)."""
    return b"stream_options" in answer.response().held()


def _is_lower(cap: int | None, asked: int | None) -> bool:
    return cap is not None and (asked is None or cap < asked)


def _wire_body(request: Request, model: str, inject: bool, cap: int | None) -> bytes | BodyReader:
    body = request.body
    if not isinstance(body, Body):
        return body
    changes: dict[str, Any] = {} if cap is None else capped(request.endpoint.name, body, cap)
    if request.model is not None and model != request.model:
        changes["model"] = model
    if inject:
        options = body.get("stream_options")
        changes["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return body.using(changes).raw if changes else body.raw


def _framing(method: str, length: int | None) -> bytes:
    """The end of a request's head; None for a body that follows in chunks."""
    if length is None:
        return b"transfer-encoding: chunked\r\n\r\n"
    if length or method not in ("GET", "HEAD", "DELETE", "OPTIONS"):
        return b"content-length: %d\r\n\r\n" % length
    return b"\r\n"
