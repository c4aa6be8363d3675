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
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from proxy.answer import Answer, AnswerLimits, Failed, Stale
from proxy.body import Body
from proxy.dialects import Usage, stream_reader
from proxy.dialects.request import RequestFacts, capped, facts
from proxy.endpoints import uses_stored
from proxy.errors import OVERLOADED, PERMISSION, UPSTREAM, WeirError
from proxy.exchange import Attempt, Exchange, Request, Settle
from proxy.failures import repeatable
from proxy.faults import Fault, of_wire
from proxy.journal import Estimate, Journal, Reserved, Settled
from proxy.metrics import Metrics
from proxy.objects.background import KIND as BACKGROUND
from proxy.objects.background import Following, goes_on
from proxy.objects.ownership import used_by
from proxy.pricing import RateCard, RateCards, is_regional, provider_of
from proxy.response import Response
from proxy.tokens import Estimator
from proxy.upstreams import Deployment, NoDeploymentError, Routes, Upstream
from proxy.wire.call import BodyReader
from proxy.wire.client import Progress, UpstreamConnection, WireError
from proxy.wire.ticker import NEVER

BYTES_A_TOKEN: Final = 4  # a first guess; the estimator of tokens.py learns better ones
_NO_FACTS: Final = RequestFacts()
_PRICES_S: Final = 60.0
STALE_S: Final = 0.5
"""By when a kept connection shows that it was closed as the request arrived: some round trips, and less than a model
takes for an answer."""
_UNKNOWN: Final[Any] = object()
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
        self._policies_hash = policies_hash
        self._routes = routes
        self._journal = journal
        self._metrics = metrics
        self._log = log
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._cards = cards
        self._tokens = tokens or Estimator()
        self._shared = shared  # many tenants use one upstream key: what is kept there must be kept apart
        self._cards_hash = cards.hash if cards is not None else ""
        self._priced: dict[tuple[str, str], RateCard | None] = {}
        self._priced_until = 0.0
        self.following: dict[str, Following] = {}  # responses that go on at an upstream, by their id

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

    async def send(self, request: Request, deployment: Deployment) -> Response:
        """One attempt at a given deployment."""
        response = await self._attempt(request, deployment, may_inject=True)
        if response is None:
            response = await self._attempt(request, deployment, may_inject=False)
            assert response is not None
            if response.status < 300:  # it was that field and nothing else: this upstream needn't be asked again
                deployment.upstream.include_usage = False
                self._metrics.count("include_usage_rejected")
        return response

    async def _attempt(
        self, request: Request, deployment: Deployment, may_inject: bool, fresh: bool = False
    ) -> Response | None:
        """The answer, or None where the upstream rejected a field of ours and the request can go again without it."""
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
            self._estimate(attempt, upstream)
        flight = deployment.begin(attempt) if deployment.watched else None
        settles: list[Settle] = _NOBODY if flight is None else [flight.land]
        if exchange.guards:
            settles = await _admitted(exchange, attempt, settles)
        if exchange.ended or exchange.deadline <= loop.time():
            raise _too_late(attempt, settles)
        lowered = _is_lower(attempt.output_cap, asked.output_cap)
        if lowered and endpoint.metered and not attempt.holds:  # else a guard has said what it reserved
            self._estimate(attempt, upstream)
        self._reserve(attempt, settles)
        inject = may_inject and asked.stream and _wants_injection(request, upstream)
        limit_s = exchange.total_s or upstream.total_s
        if exchange.total_s is None and (asked.service_tier is not None or upstream.reasoning_s is not None):
            limit_s = upstream.limit_s(request, model, asked.service_tier)
        answer = Answer(
            attempt,
            upstream,
            self._limits,
            self._settle,
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
            await self._exchange_bytes(request, deployment, model, answer, body, fresh)
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
                return None
            return answer.response()
        self._metrics.count("request_resent")  # by another attempt: the first one may be billed, too
        return await self._attempt(request, deployment, may_inject, fresh=True)

    # --- the wire

    async def _exchange_bytes(
        self,
        request: Request,
        deployment: Deployment,
        model: str,
        answer: Answer,
        body: bytes | BodyReader,
        fresh: bool,
    ) -> None:
        upstream, key = deployment.upstream, deployment.key
        if isinstance(body, BodyReader):
            head = upstream.head(request, model, key) + _framing(request.method, body.length)
            await self._upload(upstream, head, body, answer)
            return
        head = upstream.head(request, model, key) + _framing(request.method, len(body))
        connection = None if fresh else upstream.pool.take()
        if connection is None:
            connection = await _connected(upstream, answer, fresh)
        if connection.used > 0:
            answer.stale_until = self._loop.time() + STALE_S
        answer.attach(connection)
        connection.send(head, body, answer, head_request=request.method == "HEAD")
        try:
            await answer.ready
            return
        except Stale as stale:
            stale.__traceback__ = None
        answer.stale_until = 0.0
        self._metrics.count("request_resent")  # by the same attempt: the first copy was read by nobody
        answer.ready = asyncio.get_running_loop().create_future()
        connection = await _connected(upstream, answer, fresh=True)
        answer.attach(connection)
        connection.send(head, body, answer, head_request=request.method == "HEAD")
        await answer.ready

    async def _upload(self, upstream: Upstream, head: bytes, body: BodyReader, answer: Answer) -> None:
        if body.begun:
            message = "The request's body streams through: it can't be sent a second time."
            spent = Fault(WeirError(502, message, type=UPSTREAM, code="body_not_replayable"), billed=False)
            answer.refuse(spent)
            raise Failed(spent, None)
        # A body that streams through can't go twice, so it isn't risked on a connection that may be dead.
        connection = await _connected(upstream, answer, fresh=True)
        answer.attach(connection)
        sending = asyncio.get_running_loop().create_task(
            connection.send_streamed(head, body, answer, chunked=body.length is None, limit=upstream.stream_idle_s),
            name="upload",
        )
        try:
            await asyncio.wait((sending, answer.ready), return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and (error := sending.exception()) is not None and not answer.ready.done():
                if not isinstance(error, TimeoutError):
                    raise error  # the client's side of the upload failed
                answer.on_end(WireError("timeout", Progress.SENT, "it stopped taking the upload"))
            await answer.ready
        finally:
            sending.cancel()

    # --- money

    def _estimate(self, attempt: Attempt, upstream: Upstream) -> None:
        request = attempt.request
        body, model, guards = request.body, attempt.model, attempt.exchange.guards
        if guards and isinstance(body, Body) and any(getattr(one, "estimates", True) for one in guards):
            tokens = self._tokens.estimate(model, request.endpoint.name, body)
        else:  # nobody decides by it
            tokens = (body.length or 0 if isinstance(body, BodyReader) else len(body)) // BYTES_A_TOKEN
        attempt.estimated_input_tokens = tokens
        card = attempt.card = self._card(upstream, model)
        if card is not None:
            attempt.estimate_nanodollars = card.reserve(tokens, attempt.output_cap or 0, attempt.n)

    def card(self, deployment: Deployment, model: str) -> RateCard | None:
        """What a model costs at a deployment now; None where that isn't known."""
        return self._card(deployment.upstream, deployment.model or model)

    def _card(self, upstream: Upstream, model: str) -> RateCard | None:
        """The price of a model there; looked up anew every minute, since prices have a first day."""
        now = self._loop.time()
        if now > self._priced_until:
            self._priced.clear()
            self._priced_until = now + _PRICES_S
        key = (upstream.name, model)
        found = self._priced.get(key, _UNKNOWN)
        return self._look_up(upstream, key) if found is _UNKNOWN else found

    def _look_up(self, upstream: Upstream, key: tuple[str, str]) -> RateCard | None:
        if self._cards is None or not key[1]:
            return None
        provider, now = upstream.provider or provider_of(upstream.url), datetime.now(UTC)
        regional = is_regional(upstream.url)
        found = self._cards.card(provider, key[1], now, upstream=upstream.name, regional=regional)
        if len(self._priced) < 4096:
            self._priced[key] = found
        return found

    def _reserve(self, attempt: Attempt, settles: list[Settle]) -> None:
        exchange, identity = attempt.exchange, attempt.exchange.identity
        self._journal.append(
            Reserved(
                time.time_ns(),
                exchange.id,
                self._journal.worker,
                attempt.number,
                attempt.request.endpoint.name,
                exchange.kind,
                identity.tenant,
                identity.key,
                identity.org,
                identity.team,
                identity.project,
                exchange.tags,
                exchange.asked,
                attempt.model,
                attempt.deployment,
                attempt.upstream,
                Estimate(
                    attempt.estimated_input_tokens,
                    attempt.output_cap,
                    attempt.estimate_nanodollars,
                    attempt.n,
                    attempt.reserved_tokens,
                ),
                attempt.holds,
                exchange.parent,
                exchange.started_by,
                self._policies_hash,
            )
        )
        try:
            self._journal.flush()
        except WeirError:
            self._journal.discard_last()
            _unsent(attempt, settles, "journal_unavailable")
            raise

    def _settle(self, answer: Answer, outcome: str, fault: Fault | None) -> None:
        """Called from the socket's callback, where a failure would leave everybody waiting."""
        try:
            self._account(answer, outcome, fault)
        except Exception as error:
            self._metrics.count("internal_errors")
            self._log("error", "settle_failed", exchange=answer.attempt.exchange.id, error=type(error).__name__)

    def _account(self, answer: Answer, outcome: str, fault: Fault | None) -> None:
        attempt, reading = answer.attempt, answer.reading
        attempt.outcome = outcome
        attempt.error = None if fault is None else fault.error.code or fault.error.type
        attempt.usage, attempt.served = reading.usage, reading.model
        attempt.tier = reading.service_tier or attempt.tier
        metered = attempt.request.endpoint.metered
        if not metered:
            attempt.nanodollars, attempt.known = 0, "observed"
            if self.following and attempt.request.endpoint.name == "responses.stored":
                self._read(attempt)
        elif attempt.usage is None and goes_on(answer, outcome) and self._follow(answer):
            attempt.nanodollars, attempt.known = 0, "observed"  # another attempt stands for it
        else:
            self._price(answer, outcome, fault)
        attempt.exchange.charge(attempt.nanodollars)
        self._journal.append(_settled(attempt, self._journal.worker, answer.estimated_output_tokens))
        endpoint = attempt.request.endpoint.name
        self._metrics.attempt(
            endpoint,
            self._metrics.model_label(attempt.served or attempt.model),
            attempt.upstream,
            attempt.status if attempt.status is not None else attempt.error or outcome,
            None if attempt.ttft_ns is None else attempt.ttft_ns / 1e9,
            attempt.total_ns / 1e9,
            attempt.usage,
            attempt.nanodollars,
            attempt.known,
        )
        if answer.settles:
            if attempt.known == "observed" and attempt.usage is not None and isinstance(attempt.request.body, Body):
                self._tokens.learn(attempt.model, endpoint, attempt.request.body, attempt.usage.input_tokens)
            _tell(answer.settles, attempt)
        if attempt.error == "upstream_key_refused":
            self._metrics.count("upstream_key_refused")
            self._log(
                "error",
                "upstream_key_refused",
                upstream=attempt.upstream,
                deployment=attempt.deployment,
                status=attempt.status,
            )

    def _follow(self, answer: Answer) -> bool:
        """Settles what goes on at the upstream when it is over. False where that can't be promised."""
        spawn = answer.attempt.exchange.spawn
        if spawn is None:
            return False
        try:
            following = Following(self, answer)
        except WeirError:  # the journal can't be written
            return False
        self.following[following.id] = following
        spawn(following.run(), f"following {following.id}")
        return True

    def _read(self, attempt: Attempt) -> None:
        """A stored response was read; whoever follows it looks at once, unless it was he."""
        found = self.following.get(attempt.request.path.removeprefix("/v1/responses/").partition("/")[0])
        if found is not None and attempt.exchange.kind != BACKGROUND:
            found.read.set()

    def _price(self, answer: Answer, outcome: str, fault: Fault | None) -> None:
        """What the attempt cost, and how that is known: observed, estimated, unknown (maybe billed), or unpriced."""
        attempt = answer.attempt
        upstream = answer.upstream
        if attempt.usage is not None and outcome in ("partial", "aborted") and answer.reading.finish_reason is None:
            # Told on the way (Anthropic's first event says what the input was): not yet what the whole used.
            so_far = max(attempt.usage.output_tokens, answer.estimated_output_tokens)
            attempt.usage = msgspec.structs.replace(attempt.usage, output_tokens=so_far, clamped=True)
        card = self._card(upstream, attempt.served or attempt.model) or self._card(upstream, attempt.model)
        if attempt.usage is not None:
            attempt.cards = self._cards_hash
            attempt.nanodollars = card.cost(attempt.usage, attempt.tier) if card is not None else None
            unpriced = attempt.nanodollars is None
            attempt.known = "unpriced" if unpriced else "estimated" if attempt.usage.clamped else "observed"
        elif answer.connection is None or (outcome == "failed" and (fault is None or not fault.billed)):
            attempt.nanodollars, attempt.known = 0, "observed"
        elif card is None:
            attempt.nanodollars, attempt.known = None, "unpriced"
        elif outcome == "failed":
            attempt.nanodollars, attempt.known = attempt.estimate_nanodollars, "unknown"
        else:
            used = self._estimated(answer)
            attempt.nanodollars = card.cost(used, attempt.tier)
            attempt.known = "unpriced" if attempt.nanodollars is None else "estimated"

    def _estimated(self, answer: Answer) -> Usage:
        """What an answer that tells no usage may have used. Speech is billed by what was read out, which is known."""
        attempt = answer.attempt
        request = attempt.request
        if isinstance(request.body, Body):
            read = self._tokens.estimate(attempt.model, request.endpoint.name, request.body)
            attempt.estimated_input_tokens = read
        text = request.field("input") if request.endpoint.name == "audio.speech" else None
        return Usage(
            input_tokens=attempt.estimated_input_tokens,
            output_tokens=answer.estimated_output_tokens,
            characters=len(text) if isinstance(text, str) else 0,
        )


def _stateful() -> WeirError:
    message = "This endpoint keeps objects at the upstream, where tenants share one key: it is denied unless allowed."
    return WeirError(403, message, type=PERMISSION, code="stateful_not_allowed")


def _keeps_state(request: Request) -> bool:
    """Whether a request makes, reads or uses objects that stay at the upstream."""
    if request.endpoint.stateful or uses_stored(request.endpoint, request.field):
        return True
    return isinstance(request.body, Body) and bool(used_by(request.body))


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
        _unsent(attempt, settles, "refused")
        raise
    return settles


def _too_late(attempt: Attempt, settles: list[Settle]) -> WeirError:
    _unsent(attempt, settles, "deadline_exceeded")
    message = "The time that this request may take was over before it could be sent upstream."
    return WeirError(504, message, type=OVERLOADED, code="deadline_exceeded")


def _not_sent(request: Request, error: NoDeploymentError) -> None:
    """Nobody can take it: an attempt that failed, for layers that would try again, but never was in the journal."""
    exchange, deployment = request.exchange, error.deployment
    number, model = len(exchange.attempts) + 1, deployment.model or request.model or ""
    attempt = Attempt(exchange, request, number, deployment.label, deployment.upstream.name, model)
    exchange.attempts.append(attempt)
    attempt.known = "observed"
    _unsent(attempt, _NOBODY, "no_deployment_available")


def _unsent(attempt: Attempt, settles: list[Settle], error: str) -> None:
    """The attempt ends here; the guards that admitted it are told that it cost nothing."""
    attempt.outcome, attempt.error, attempt.nanodollars = "failed", error, 0
    _tell(settles, attempt)


def _tell(settles: list[Settle], attempt: Attempt) -> None:
    attempt.settled = True
    for settle in reversed(settles):
        try:
            settle(attempt)
        except Exception as error:  # one guard's failure must not keep the others, or the answer, from ending
            attempt.exchange.note("guard", "settle_failed", error=type(error).__name__)


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


def _settled(attempt: Attempt, worker: int, estimated_output_tokens: int) -> Settled:
    usage = attempt.usage
    if usage is not None:
        given, tokens = usage.given, usage.counts()
    else:
        given, tokens = None, {"input_tokens": attempt.estimated_input_tokens, "output_tokens": estimated_output_tokens}
    return Settled(
        time.time_ns(),
        attempt.exchange.id,
        worker,
        attempt.number,
        attempt.outcome,
        attempt.status,
        attempt.served,
        attempt.tier,
        given,
        tokens,
        attempt.nanodollars,
        attempt.known,
        attempt.cards,
        attempt.ttft_ns,
        attempt.total_ns,
        attempt.upstream_request_id,
        attempt.error,
    )
