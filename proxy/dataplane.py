"""What a worker does with a request: identity, chain, relay, and the end of the exchange.

Rules:
1. Nothing cold happens here: no database, no file, no DNS wait, no formatting of logs.
2. An exchange keeps the `Generation` that it began with.
3. Every accepted request gets an answer, or an abort that its client can see; every exchange ends once, in the
   journal, before its last byte leaves.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from proxy import idempotency, told
from proxy.accounting import ended
from proxy.body import Body
from proxy.clients.keys import KeyRecord
from proxy.config import Configuration, Registry, installed
from proxy.control import Lookup
from proxy.endpoints import Endpoint, endpoint_of
from proxy.errors import PERMISSION, WeirError
from proxy.exchange import Exchange, Heads, Request
from proxy.feedback import Feedback
from proxy.form import model_in
from proxy.generation import Generation, Generations, Surroundings
from proxy.intake import Known, check_media_type, is_form, model_of, understood, wishes
from proxy.journal import Journal
from proxy.metrics import Metrics
from proxy.objects import batches
from proxy.own import OWN, PROBES, no_such_path, own, probe_or_preflight
from proxy.pressure.overload import Gate, answer
from proxy.pricing import RateCards
from proxy.ready import Answers
from proxy.relay import Heartbeat, broken, relay, relay_late
from proxy.remembered import Bodies
from proxy.response import Outcome, Response
from proxy.state.protocol import Store
from proxy.state.purse import Purse
from proxy.tasks import Tasks, whereabouts
from proxy.tokens import Counter, Estimator
from proxy.wire.call import BodyReader, Call, InFlight, Intake, http_date
from proxy.wire.connect import Connector
from proxy.wire.head import Head
from proxy.wire.ticker import Ticker

_COMPLETE: Final = Outcome.COMPLETE  # looked up once: a member of an enumeration costs as much as a call
_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (b"content-type", b"text/event-stream; charset=utf-8")
_COMMITTED: Final = [_EVENTS, (b"cache-control", b"no-cache")]


class DataPlane:
    """One worker's whole business with requests (proxy.wire.server.Application)."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        journal: Journal,
        metrics: Metrics,
        keys: list[KeyRecord],
        cards: RateCards | None,
        connector: Connector,
        ticker: Ticker,
        env: Mapping[str, str],
        lookup: Lookup,
        log: Callable[..., object],
        registry: Registry | None = None,
        store: Store | None = None,
        counter: Counter | None = None,
        owner: str = "",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.journal = journal
        self.metrics = metrics
        self.lookup = lookup
        self.log = log
        self.bypass = False
        self.draining = False
        self.tokens = Estimator(counter)
        self.bodies = Bodies()
        self.ready = Answers(journal, metrics, lambda: self.generations)
        self.at_once: Callable[[Intake, bytes], bytes | None] | None = None
        self.tasks = Tasks(metrics, log)
        self.in_flight = InFlight(configuration.deployment.limits.in_flight_bytes)
        self.gate = Gate(self._loop.time)
        owner = owner or f"{socket.gethostname()}/{journal.worker}/{os.getpid()}"
        self.purse = None if store is None else Purse(store, owner, configuration.deployment.workers)
        self._idempotency = idempotency.Keys(store)
        self._feedback = Feedback(journal, store, lookup, metrics, self.tasks.spawn)
        self._batches = batches.Batches()
        self.surroundings = Surroundings(
            journal=journal,
            metrics=metrics,
            connector=connector,
            ticker=ticker,
            env=env,
            lookup=lookup,
            log=log,
            registry=installed() if registry is None else registry,  # looked for once: it reads the disk
            store=store,
            purse=self.purse,
            tokens=self.tokens,
            bodies=self.bodies,
            ready=self.ready,
            spares=self.gate.spares,
            tasks=self.tasks,
            on_end=self._ended,
        )
        self.generations = Generations(self.surroundings, configuration, keys, cards)
        self._adopted()

    @property
    def state(self) -> Generation:
        """The configuration that new exchanges begin with."""
        return self.generations.now

    async def reconfigure(self, configuration: Configuration, keys: list[KeyRecord], cards: RateCards | None) -> None:
        """Swaps in another configuration; raises, and changes nothing, if it can't be built."""
        await self.generations.replace(configuration, keys, cards)
        self._adopted()

    def _adopted(self) -> None:
        """What holds for all requests of this worker follows the present configuration."""
        now = self.generations.now
        configuration, deployment = now.configuration, now.configuration.deployment
        self.in_flight.limit = deployment.limits.in_flight_bytes
        self.at_once = self._ready if self.ready.limit_bytes else None
        self.gate.adopt(deployment.overload, high=now.ranks.high or configuration.honour.priority == "any")

    async def aclose(self, patience_s: float = 0.0) -> None:
        """Ends background work (waiting a little for it), connections and policies."""
        await self.tasks.aclose(patience_s)
        await self.generations.aclose()
        if self.purse is not None:
            await self.purse.aclose()

    # --- proxy.wire.server.Application

    def accept(self, head: Head, previous: Intake | None) -> Intake:
        """Refuses or admits a request by its head. Most are like the one before on their connection."""
        if previous is not None and self._holds(previous.known):
            return previous
        try:
            return self._admit(head)
        except WeirError as error:
            error.typed = head.path.startswith("/v1/messages")
            if self.generations.now.cors is not None:  # else a page couldn't read why
                error.headers = (*error.headers, *self.generations.now.cors.answer(head.headers))
            raise

    def _holds(self, known: Known | None) -> bool:
        return known is not None and known.version is self.generations.version and known.until > time.time()

    def _admit(self, head: Head) -> Intake:
        state = self.generations.now
        limits = state.limits
        endpoint = endpoint_of(head.method, head.path)
        if endpoint is None or head.method == "OPTIONS":
            if head.path.startswith("/weir/"):
                return Intake(True, limits.body_bytes, self._known(head, OWN, state))
            if head.path in PROBES or head.method == "OPTIONS":
                return Intake(True, limits.body_bytes)
            raise no_such_path(head.path)
        known = self._known(head, endpoint, state)
        if not endpoint.parsed:
            shared = state.configuration.deployment.keys == "required"
            if shared and endpoint.stateful and head.has_body and not is_form(head):
                return Intake(True, limits.body_bytes, known)  # which objects it names must be read
            return Intake(not head.has_body, limits.upload_bytes, known)
        check_media_type(head)
        return Intake(True, limits.body_bytes, known)

    def _known(self, head: Head, endpoint: Endpoint, state: Generation) -> Known:
        identity, until = state.identities.recognise(head.headers)
        wished = wishes(head.headers, state.configuration, identity.tags)
        if wished.feedback is not None:
            self._feedback.later(identity, wished.feedback)
        rank = state.ranks.of(identity, wished.priority, state.configuration.honour.priority)
        typed = endpoint.name.startswith("messages")
        version = self.generations.version
        return Known(identity, endpoint, wished, Heads(head.headers, version), version, until, rank, typed)

    def shed(self, intake: Intake) -> bytes | None:
        """The ready answer to a request that is refused because this worker has too much to do; None to go on."""
        known = intake.known
        if known is None or known.endpoint is OWN or self.generations.now.cors is not None or not self._holds(known):
            return None  # the ordinary way knows what to say
        first = not self.gate.coming
        if self.gate.refuses(known.rank):
            return answer(known.typed)
        if first:  # called before the tasks of those who were read in this turn
            self._loop.call_soon(self.gate.came)
        return None

    def _ready(self, intake: Intake, body: bytes) -> bytes | None:
        known: Known | None = intake.known
        if known is None or known.heads.ready is None or self.bypass:
            return None
        ready = known.heads.ready.get(body)
        if ready is None or known.version is not self.generations.version or known.until <= time.time():
            return None
        return self.ready.give(ready)

    def respond(self, call: Call) -> Awaitable[None]:
        """Answers one request. Raises nothing but CancelledError, when the client is gone."""
        known = call.intake.known
        if known is None:
            return probe_or_preflight(call, self.generations.now.cors, self.draining)
        if known.endpoint is OWN:
            policies = [item.policy for item in self.generations.now.chain.built]
            return own(call, known.identity, self.lookup, self._feedback, policies)
        if self.gate.enters(known.rank):
            return self._exchange(call, known, self.generations.now)
        return self._waits(call, known)

    async def _waits(self, call: Call, known: Known) -> None:
        """There is no room now: waits for it, within bounds."""
        try:
            await self.gate.wait(known.rank)
        except WeirError as error:
            state = self.generations.now
            headers = [] if state.cors is None else state.cors.answer(call.head.headers)
            error.typed = known.typed
            call.send_error(error, headers)
            error.let_go()
            return
        await self._exchange(call, known, self.generations.now)

    async def _exchange(self, call: Call, known: Known, state: Generation) -> None:
        endpoint, wished = known.endpoint, known.wishes
        exchange = Exchange(
            known.identity,
            endpoint.name,
            tags=wished.tags,
            bypass=wished.bypass,
            spawn=state.spawn,
            on_end=state.on_end,
            heads=known.heads,
        )
        call.on_gone = exchange.outlives_client
        self.metrics.gauges.exchanges += 1
        state.chain.running += 1
        anthropic = known.typed
        heartbeat: Heartbeat | None = None
        try:
            model = await self._form_model(call, known) if endpoint.metered and not endpoint.parsed else None
            request = self._request(call, exchange, known, state, model)
            if wished.idempotency_key is not None and isinstance(request.body, Body):
                await self._idempotency.check(known.identity.tenant, wished.idempotency_key, request, request.body.raw)
            if call.intake.gather and state.heartbeat_s and request.field("stream") is True:
                head = partial(told.fields, _COMMITTED, exchange, state.cors, call.head.headers, False)
                heartbeat = Heartbeat(self._loop, call, state.heartbeat_s, head)
            forward = state.chain.essential if self.bypass else state.chain.forward
            if endpoint.name == "models" and (local := state.catalogue.answer(request)) is not None:
                response = await local(forward)
            else:
                response = await forward(request)
                if not endpoint.metered and endpoint.name == batches.ENDPOINT and response.status == 200:
                    self._batches.watch(request, response, state.dispatch)
            if heartbeat is not None:
                heartbeat.stop()
            exchange.status = response.status
            whole = response.whole
            headers = told.fields(response.headers, exchange, state.cors, call.head.headers, whole)
            if call.started:
                await relay_late(response, call, partial(self._last_words, exchange), anthropic=anthropic)
            elif whole:
                body = response.held()
                self._end(exchange, _COMPLETE)
                call.send(response.status, headers, body)
            else:
                self.metrics.gauges.streams += 1
                try:
                    await relay(response, call, headers, partial(self._last_words, exchange), anthropic=anthropic)
                finally:
                    self.metrics.gauges.streams -= 1
            if response.failed_tap is not None:
                self.log("error", "tap_failed", exchange=exchange.id, error=response.failed_tap)
        except WeirError as error:
            self._refuse(call, exchange, error, state, anthropic)
            error.let_go()
        except asyncio.CancelledError:
            self._end(exchange, Outcome.ABORTED)
            raise
        except Exception as error:
            self.log("error", "internal_error", exchange=exchange.id, error=whereabouts(error))
            self.metrics.count("internal_errors")
            failure = WeirError(
                500, "The proxy failed on this request. The operator has been told.", type="server_error"
            )
            self._refuse(call, exchange, failure, state, anthropic)
        finally:
            if heartbeat is not None:
                heartbeat.stop()
            self.metrics.gauges.exchanges -= 1
            self.gate.leave(known.rank)
            state.chain.left()
            exchange.release()

    async def _form_model(self, call: Call, known: Known) -> str | None:
        """The model that a form asks for. Raises 403 where a key for certain models doesn't say soon enough which."""
        if not isinstance(call.body, BodyReader):
            return None
        model, certain = await model_in(call.body, call.head.headers)
        if not certain and known.identity.models is not None:
            message = "This key may use certain models only: send the form's `model` field before its file."
            raise WeirError(403, message, type=PERMISSION, code="model_not_allowed", param="model")
        return model

    def _request(self, call: Call, exchange: Exchange, known: Known, state: Generation, model: str | None) -> Request:
        head, endpoint, identity = call.head, known.endpoint, known.identity
        if known.wishes.deadline_s is not None:
            exchange.deadline = self._loop.time() + known.wishes.deadline_s
        body: Any = call.body
        if endpoint.parsed and call.intake.gather:
            body = understood(call, state.limits.body_bytes, state.limits.nesting, identity, self.bodies)
            call.body = b""
            model = model_of(body)
        exchange.asked = model
        if identity.models is not None and model is None and endpoint.metered:
            message = "This key may use certain models only: the request must name one."
            raise WeirError(400, message, code="model_missing", param="model")
        if identity.models is not None and model is not None and not state.may_use(identity, model):
            message = f"This key may not use the model `{model[:200]}`."
            raise WeirError(403, message, type=PERMISSION, code="model_not_allowed", param="model")
        return Request(exchange, endpoint, head.method, head.target, head.path, known.heads.headers, body, model)

    # --- ends

    def _end(self, exchange: Exchange, outcome: Outcome) -> None:
        """Before the last bytes leave: the exchange is over, and the journal knows it."""
        exchange.end(outcome)
        self._flush()

    def _last_words(self, exchange: Exchange, outcome: Outcome) -> bytes:
        """Ends the exchange of a stream; the cost, which its head could not tell, as a last comment."""
        self._end(exchange, outcome)
        if not exchange.attempts or not exchange.attempts[-1].request.endpoint.metered:
            return b""
        return told.last_words(exchange)

    def _ended(self, policies_hash: str, exchange: Exchange) -> None:
        outcome = exchange.outcome._value_ if exchange.outcome else ""
        total_ns = time.perf_counter_ns() - exchange.started_ns
        label = self.metrics.model_label(exchange.asked)
        self.metrics.exchange(exchange.endpoint, label, exchange.status, outcome, total_ns / 1e9)
        for decision in exchange.decisions:
            self.metrics.decision(decision.policy, decision.action)
        if exchange.savings:
            for saving in exchange.savings:
                self.metrics.saving(saving.policy, saving.known, saving.nanodollars)
        self.journal.append(ended(exchange, self.journal.worker, policies_hash, time.time_ns(), total_ns))
        if exchange.kind != "client":
            self._flush()  # nobody waits for its end, so nobody else would

    def _flush(self) -> None:
        """Writes what is known of ended exchanges; a full disk can't stop an answer that is already paid for."""
        try:
            self.journal.flush()
        except WeirError:
            self.metrics.count("journal_write_failures")

    def _refuse(self, call: Call, exchange: Exchange, error: WeirError, state: Generation, anthropic: bool) -> None:
        exchange.status = error.status
        exchange.end(Outcome.PARTIAL if call.started else Outcome.COMPLETE)
        self._flush()
        if call.finished:
            return
        if call.started:  # a heartbeat has committed status 200: the failure follows in-band
            broken(call, Response(200, [_EVENTS], b""), error, anthropic)
            return
        given = [_JSON, *error.headers]
        if exchange.attempts:
            given.append((b"date", http_date()))  # the upstream's isn't there
        headers = told.fields(given, exchange, state.cors, call.head.headers, True)
        call.send(error.status, headers, error.body_with_type() if anthropic else error.body())
