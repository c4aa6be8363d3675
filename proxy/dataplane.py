"""What a worker does with a request: identity, chain, relay, and the end of the exchange.

Rules:
1. Nothing cold happens here: no database, no file, no DNS wait, no formatting of logs.
2. A configuration is one `Generation`, swapped whole. An exchange keeps the state that it began with.
3. Every accepted request gets an answer, or an abort that its client can see; every exchange ends once, in the
   journal, before its last byte leaves.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from proxy import chain as chains
from proxy import idempotency, told
from proxy.answer import AnswerLimits
from proxy.body import Body
from proxy.chain import Chain, Services
from proxy.clients.identity import Keys, identities_of
from proxy.clients.keys import KeyRecord
from proxy.config import Configuration, PolicyEntry, Registry, installed
from proxy.control import Lookup
from proxy.deferred import Grounds, reached
from proxy.dispatch import Dispatch
from proxy.endpoints import Endpoint, endpoint_of
from proxy.errors import PERMISSION, WeirError
from proxy.exchange import Exchange, Heads, Request
from proxy.feedback import Feedback
from proxy.form import model_in
from proxy.generation import Generation
from proxy.intake import Known, check_media_type, is_form, model_of, understood, wishes
from proxy.journal import Ended, Journal
from proxy.metrics import Metrics
from proxy.objects import batches
from proxy.objects.makers import RemoteObjects
from proxy.own import OWN, PROBES, no_such_path, own, probe_or_preflight
from proxy.pressure.overload import Gate, answer
from proxy.pricing import RateCards
from proxy.relay import Heartbeat, broken, relay, relay_late
from proxy.remembered import Bodies
from proxy.response import Outcome, Response
from proxy.state.protocol import Store
from proxy.state.purse import Purse
from proxy.tokens import Counter, Estimator
from proxy.upstreams import Routes, Upstream
from proxy.wire.call import BodyReader, Call, InFlight, Intake, http_date
from proxy.wire.connect import Connector
from proxy.wire.head import Head
from proxy.wire.ticker import Ticker

T = TypeVar("T")
_LEVELS: Final = {"deployment_closed": "info", "upstream_key_accepted": "info", "upstream_key_aside": "error"}
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
        self.store = store
        owner = owner or f"{socket.gethostname()}/{journal.worker}/{os.getpid()}"
        self.purse = None if store is None else Purse(store, owner, configuration.deployment.workers)
        self._idempotency = idempotency.Keys(store)
        self.tokens = Estimator(counter)
        self.bodies = Bodies()
        self.journal = journal
        self.metrics = metrics
        self.connector = connector
        self.ticker = ticker
        self.log = log
        self.lookup = lookup
        self._feedback = Feedback(journal, store, lookup, metrics, self.spawn)
        self._registry = installed() if registry is None else registry  # looked for once: it reads the disk
        self.bypass = False
        self.draining = False
        self._env = env
        self._cards = cards
        self._keys = keys
        self._signing: Mapping[str, list[dict[str, Any]]] = {}  # public keys of issuers
        self._loop = asyncio.get_running_loop()
        self._background: set[asyncio.Task[Any]] = set()
        self._upstreams: dict[str, Upstream] = {}
        self._chains: list[Chain] = []  # the present one, and those that running exchanges still use
        self._version = object()  # changes with whatever `Known` was found out from
        self.in_flight = InFlight(configuration.deployment.limits.in_flight_bytes)
        self.gate = Gate(self._loop.time)
        self._batches = batches.Batches()
        self.state = self._build(configuration, None)
        self._set_gate()

    # --- configuration

    def _build(self, configuration: Configuration, previous: Generation | None) -> Generation:
        upstreams = {}
        try:
            for name, config in configuration.deployment.upstreams.items():
                upstreams[name] = self._kept(name, configuration, previous) or Upstream(
                    name, config, configuration, self.connector, self.ticker, self._env, self._tell
                )
            state = self._compiled(configuration, previous, upstreams)
        except BaseException:
            for name, upstream in upstreams.items():
                if self._upstreams.get(name) is not upstream:
                    upstream.pool.close()
            raise
        self._upstreams = upstreams
        return state

    def _compiled(
        self, configuration: Configuration, previous: Generation | None, upstreams: dict[str, Upstream]
    ) -> Generation:
        deployment, limits = configuration.deployment, configuration.deployment.limits
        answer_limits = AnswerLimits(
            limits.unary_buffer_bytes, limits.stream_buffer_bytes, limits.event_bytes, limits.unparsed_event_bytes
        )
        routes, shared = Routes(configuration, upstreams, self._loop.time), deployment.keys == "required"
        dispatch = Dispatch(
            routes,
            self.journal,
            self.metrics,
            answer_limits,
            self._cards,
            shared,
            self.tokens,
            self.log,
            configuration.policy_hash,
        )
        chain = chains.build(
            configuration,
            dispatch,
            lambda entry: self._services(entry, configuration),
            previous.chain if previous else None,
            self._registry,
            discard=lambda policy: self.spawn(chains.close(policy), "close policy"),
        )
        self.metrics.adopt(deployment.models)
        before = None if previous is None else previous.identities
        identities = identities_of(configuration, self._keys, before, self._signing, self._unknown_key)
        state = Generation(configuration, chain, dispatch, identities, self.spawn, self._ended)
        self._chains.append(chain)
        for at, item in enumerate(chain.built):
            begin: Any = getattr(item.policy, "begin", None)
            if begin is not None:  # it works in the background too, by the layers inside of it
                inside = chains.compose(chain.built[at + 1 :], dispatch, frozenset())
                joining = [item for item in chain.built[:at] if item.essential]
                begin(Grounds(inside, chains.compose(joining, reached, frozenset()), dispatch, state.on_end))
        return state

    def _kept(self, name: str, configuration: Configuration, previous: Generation | None) -> Upstream | None:
        """The upstream of the state before, with its connections, if nothing about it changed."""
        if previous is None or name not in self._upstreams:
            return None
        old, new = previous.configuration.deployment, configuration.deployment
        same = (old.upstreams[name], old.timeouts, old.keys) == (new.upstreams[name], new.timeouts, new.keys)
        return self._upstreams[name] if same else None

    def _tell(self, event: str, **fields: Any) -> None:
        """Something happened to a deployment that operators want to know of."""
        self.metrics.count(event)
        self.log(_LEVELS.get(event, "warning"), event, **fields)

    def _services(self, entry: PolicyEntry, configuration: Configuration) -> Services:
        return Services(
            entry.name,
            entry.source,
            entry.mode == "observe",
            configuration,
            self.metrics,
            self._loop.time,
            self.log,
            RemoteObjects(self.lookup),
            self.store,
            self.spawn,
            self.purse,
            self.lookup,
            self.tokens,
            self.bodies,
            self.gate.spares,
        )

    async def reconfigure(self, configuration: Configuration, keys: list[KeyRecord], cards: RateCards | None) -> None:
        """Swaps in another configuration; raises, and changes nothing, if it can't be built."""
        old, old_upstreams = self.state, self._upstreams
        old_keys, old_cards = self._keys, self._cards
        self._keys, self._cards = keys, cards if cards is not None else self._cards
        try:
            state = self._build(configuration, old)
        except BaseException:
            self._keys, self._cards = old_keys, old_cards
            raise
        self.in_flight.limit = configuration.deployment.limits.in_flight_bytes
        self.state = state
        self._set_gate()
        self._version = object()
        await self.warm()
        for name, upstream in old_upstreams.items():
            if self._upstreams.get(name) is not upstream:
                upstream.pool.close()
        self.spawn(self._retire(old), "retire chain")

    def _set_gate(self) -> None:
        configuration = self.state.configuration
        high = self.state.ranks.high or configuration.honour.priority == "any"
        self.gate.adopt(configuration.deployment.overload, high=high)

    async def _retire(self, old: Generation) -> None:
        """Closes what no later chain took over, once the last exchange that uses it has ended."""
        await old.chain.idle()
        self._chains.remove(old.chain)
        await chains.close_dropped(old.chain, self._chains)

    def set_keys(self, keys: list[KeyRecord]) -> None:
        """Takes over another table of virtual keys, from the next request on."""
        self._keys = keys
        self._version = object()
        if isinstance(self.state.identities, Keys):
            self.state.identities.replace(keys)

    def set_signing(self, signing: Mapping[str, list[dict[str, Any]]]) -> None:
        """Takes over other public keys of issuers: what was signed by those that are gone counts no longer."""
        if signing == self._signing:
            return
        self._signing = signing
        self._version = object()
        if isinstance(self.state.identities, Keys) and self.state.identities.tokens is not None:
            self.state.identities.tokens.adopt(signing)

    def _unknown_key(self, issuer: str) -> None:
        self.lookup("signing", issuer=issuer)

    async def warm(self) -> None:
        """Opens the connections that the configuration wants ahead of the first request."""
        for upstream in self._upstreams.values():
            if upstream.config.pool.warm:
                self.spawn(upstream.pool.warm(upstream.config.pool.warm), "warm")

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A background task that this worker holds and ends."""
        task = self._loop.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._reaped)
        return task

    def _reaped(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if task.cancelled() or (error := task.exception()) is None or isinstance(error, (WeirError, TimeoutError)):
            return
        self.log("error", "background_failed", task=task.get_name(), error=f"{type(error).__name__}: {_where(error)}")
        self.metrics.count("background_failures")

    async def aclose(self, patience_s: float = 0.0) -> None:
        """Ends background work (waiting a little for it), connections and policies."""
        if self._background and patience_s:
            await asyncio.wait(self._background, timeout=patience_s)
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for upstream in self._upstreams.values():
            upstream.pool.close()
        while self._chains:
            await chains.close_dropped(self._chains.pop(), self._chains)
        if self.purse is not None:
            await self.purse.aclose()

    @property
    def upstream_connections(self) -> int:
        """Open connections to all upstreams."""
        return sum(upstream.pool.open for upstream in self._upstreams.values())

    # --- proxy.wire.server.Application

    def accept(self, head: Head, previous: Intake | None) -> Intake:
        """Refuses or admits a request by its head. Most are like the one before on their connection."""
        if previous is not None and self._holds(previous.known):
            return previous
        try:
            return self._admit(head)
        except WeirError as error:
            error.typed = head.path.startswith("/v1/messages")
            if self.state.cors is not None:  # else a page couldn't read why
                error.headers = (*error.headers, *self.state.cors.answer(head.headers))
            raise

    def _holds(self, known: Known | None) -> bool:
        return known is not None and known.version is self._version and known.until > time.time()

    def _admit(self, head: Head) -> Intake:
        state = self.state
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
        return Known(identity, endpoint, wished, Heads(head.headers), self._version, until, rank, typed)

    def shed(self, intake: Intake) -> bytes | None:
        """The ready answer to a request that is refused because this worker has too much to do; None to go on."""
        known = intake.known
        if known is None or known.endpoint is OWN or self.state.cors is not None or not self._holds(known):
            return None  # the ordinary way knows what to say
        return answer(known.typed) if self.gate.refuses(known.rank) else None

    def respond(self, call: Call) -> Awaitable[None]:
        """Answers one request. Raises nothing but CancelledError, when the client is gone."""
        known = call.intake.known
        if known is None:
            return probe_or_preflight(call, self.state.cors, self.draining)
        if known.endpoint is OWN:
            policies = [item.policy for item in self.state.chain.built]
            return own(call, known.identity, self.lookup, self._feedback, policies)
        if self.gate.enters(known.rank):
            return self._exchange(call, known, self.state)
        return self._waits(call, known)

    async def _waits(self, call: Call, known: Known) -> None:
        """There is no room now: waits for it, within bounds."""
        try:
            await self.gate.wait(known.rank)
        except WeirError as error:
            state = self.state
            headers = [] if state.cors is None else state.cors.answer(call.head.headers)
            error.typed = known.typed
            call.send_error(error, headers)
            error.let_go()
            return
        await self._exchange(call, known, self.state)

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
            self.log("error", "internal_error", exchange=exchange.id, error=f"{type(error).__name__}: {_where(error)}")
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
        identity = exchange.identity
        self.journal.append(
            Ended(
                time.time_ns(),
                exchange.id,
                self.journal.worker,
                exchange.kind,
                exchange.parent,
                exchange.status,
                outcome,
                identity.tenant,
                identity.key,
                identity.org,
                identity.team,
                identity.project,
                exchange.tags,
                exchange.endpoint,
                exchange.asked,
                len(exchange.attempts),
                total_ns,
                exchange.nanodollars,
                exchange.saved_nanodollars,
                policies_hash,
                exchange.decisions,
                exchange.savings,
                exchange.started_by,
            )
        )
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


def _where(error: BaseException) -> str:
    """Where an error was raised, without its text, which may hold what must not be logged."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
