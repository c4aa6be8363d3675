"""The provider, from a request to its performance: authentication, faults, routes, pace, and the memory of equals.

It touches no socket and no clock but `time.time()` for `created`. Order: `/sim/` first, then the key, then faults that
refuse, then the dialect, then faults that edit the answer, then those that spoil its bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any
from urllib.parse import unquote

import msgspec
import orjson

from proxy.simulator import faults
from proxy.simulator.control import Control
from proxy.simulator.faults.terms import Case, Dialect
from proxy.simulator.incoming import Incoming
from proxy.simulator.latency import NONE, Latency
from proxy.simulator.prefixes import PromptCache
from proxy.simulator.record import Record
from proxy.simulator.reply import Performance, Reply, script
from proxy.simulator.roster import ROSTER, Model, Roster
from proxy.simulator.rules import Chosen, Rules
from proxy.simulator.scenario import Flex, ModelEntry, Scenario
from proxy.simulator.speech import PREPARE, shelf
from proxy.simulator.speech.batches import Batches, Terms
from proxy.simulator.speech.terms import Call, Controls, Pace, Prepared, Refusal, Turn, UsageForm

_REMEMBERED_BYTES = 65_536
_REMEMBERED = 1024
_NO_CONTROLS = Controls()
_COMMON = (
    b"server: weir-simulator\r\nx-request-id: req_%b\r\nopenai-processing-ms: %d\r\nopenai-version: 2020-10-01\r\n"
    b"x-ratelimit-limit-requests: 10000\r\nx-ratelimit-remaining-requests: 9999\r\nx-ratelimit-reset-requests: 6ms\r\n"
)


@dataclass(frozen=True, slots=True)
class Options:
    """What a simulator is started with. A model's own latencies come before these, request headers before all."""

    seed: int = 0
    ttft: Latency = NONE
    per_token: Latency = NONE
    unary: Latency | None = None
    scenario: Scenario = field(default_factory=Scenario)
    key: str | None = None
    remember: int = 256


class Provider:
    """Answers requests; the `Stage` of every connection."""

    def __init__(self, options: Options, record: Record) -> None:
        scenario = options.scenario
        self.options = options
        self.record = record
        self.seed = scenario.seed if scenario.seed is not None else options.seed
        self.random = Random(self.seed)  # noqa: S311
        self.rules = Rules(scenario.faults, self.random)
        self.roster = Roster(_models(scenario), strict=scenario.only_listed_models)
        self.prefixes = PromptCache()
        self.shelf = shelf.Shelf(self.roster, self.seed)
        self._flex = scenario.flex
        terms = scenario.batches
        self.batches = self.shelf.batches = Batches(
            Terms(terms.takes, terms.fail, terms.cancel.scale_s),
            self._line,
            self.shelf.content,
            self.shelf.add,
            self._charge_line,
            self.random,
        )
        self._answers = tuple((known.question, known.right, known.wrong) for known in scenario.answers)
        self._control = Control(record, self.rules, self._forget)
        self._ready: dict[tuple[bytes, bytes, Controls], Prepared] = {}
        self._ids = int.from_bytes(os.urandom(12), "big") | 1
        self._made = 0
        latency = scenario.latency
        self._ttft = latency.ttft or options.ttft
        self._per_token = latency.per_token or options.per_token
        self._unary = latency.unary or options.unary

    def _forget(self) -> None:
        self.prefixes.clear()
        self.batches.clear()
        self._ready.clear()

    # What a connection calls

    def hear(self, request: Incoming) -> Performance | None:
        """At the end of the head: uploads go to where they are kept, early errors are answered at once."""
        if b"early" in request.fields.get(b"x-sim-fault", b""):
            return self.perform(request)
        problem = self._unauthorised(request)
        if problem is None:
            self.shelf.receive(request)
        return None

    def perform(self, request: Incoming) -> Performance:
        """The answer to a complete request."""
        if request.target.startswith(b"/sim/"):
            return self._staged(request, self._control.reply(request))
        anthropic = _dialect(request.path) is Dialect.ANTHROPIC
        try:
            if problem := self._unauthorised(request):
                raise problem
            chosen = self._chosen(request)
            if not chosen:
                return self._staged(request, self._reply(request, UsageForm.RIGHT))
            return self._faulty(request, chosen)
        except Refusal as refusal:
            return self._staged(request, refusal.reply(anthropic=anthropic))

    def _unauthorised(self, request: Incoming) -> Refusal | None:
        if self.options.key is None or request.credential == self.options.key or request.target.startswith(b"/sim/"):
            return None
        message = "Incorrect API key provided."
        return Refusal(401, message, type="authentication_error", code="invalid_api_key")

    def _staged(self, request: Incoming, reply: Reply) -> Performance:
        if request.method == "HEAD" and reply.blocks is None:
            reply.length, reply.body = len(reply.body), b""
        common = _COMMON % (self._id(), int(reply.delay * 1000))
        return Performance(script(reply, common, request.keep_alive), reply.bill)

    def _id(self) -> bytes:
        self._made += 1
        return b"%024x" % ((self._ids * (self._made * 2 + 1)) & ((1 << 96) - 1))

    # Faults

    def _chosen(self, request: Incoming) -> Chosen:
        asked = request.fields.get(b"x-sim-fault")
        if asked is not None:
            try:
                return faults.parse(asked.decode("latin-1"))
            except ValueError as error:
                raise Refusal(400, str(error), param="x-sim-fault") from None
        if not self.rules:
            return []
        body = _object(request.body)
        model, stream = str(body.get("model", "")), body.get("stream") is True
        return self.rules.choose(model, request.path, stream, request.credential)

    def _faulty(self, request: Incoming, chosen: Chosen) -> Performance:
        body = _object(request.body)
        streamed, options = body.get("stream") is True, body.get("stream_options") is not None
        cases = [(f, Case(arguments, _dialect(request.path), streamed, options)) for f, arguments in chosen]
        try:
            return self._spoiled(request, cases)
        except (ValueError, KeyError) as error:
            raise Refusal(400, f"The fault's argument is not right: {error}", param="x-sim-fault") from None

    def _spoiled(self, request: Incoming, cases: list[tuple[faults.Fault, Case]]) -> Performance:
        for fault, _ in cases:
            self.record.faulted(fault.name)
        reply = self._refused(request, cases)
        if reply is None:
            forms = [fault.usage for fault, _ in cases if fault.usage]
            reply = self._reply(request, forms[0] if forms else UsageForm.RIGHT)
        for fault, case in cases:
            if fault.edit:
                reply = fault.edit(reply, case)
        performance = self._staged(request, reply)
        for fault, case in cases:
            if fault.spoil:
                performance.script = fault.spoil(performance.script, case)
        return performance

    def _refused(self, request: Incoming, cases: list[tuple[faults.Fault, Case]]) -> Reply | None:
        for fault, case in cases:
            reply = fault.refuse(case) if fault.refuse else None
            if reply is not None:
                if "billed" in case.arguments:
                    reply.bill = self._reply(request, UsageForm.RIGHT).bill
                return reply
        return None

    # Answers

    def _line(self, path: str, body: dict[str, Any], credential: str) -> Reply:
        """The answer to one line of a batch. Raises Refusal."""
        prepared = PREPARE[_place(path)[0]](Call(body, _NO_CONTROLS, self.seed, self.roster, self._answers, ""))
        pace = self._pace(prepared, _NO_CONTROLS)
        return prepared.reply(Turn(self._id(), int(time.time()), pace, credential, UsageForm.RIGHT, self.prefixes))

    def _charge_line(self, credential: str, reply: Reply) -> None:
        if reply.bill is not None:
            bill = msgspec.structs.replace(reply.bill, tier="batch")
            self.record.bill.charge(credential, bill, bill.tally.output)

    def _reply(self, request: Incoming, form: UsageForm) -> Reply:
        path, deployment = _place(request.path)
        prepare = PREPARE.get(path) if request.method == "POST" else None
        if prepare is None:
            return self.shelf.reply(request, path)
        controls = _controls(request.fields)
        longer_s = 0.0 if self._flex is None else self._flexible(self._flex, request)
        prepared = self._prepared(request, prepare, controls, deployment)
        turn = Turn(
            self._id(), int(time.time()), self._pace(prepared, controls), request.credential, form, self.prefixes
        )
        reply = prepared.reply(turn)
        reply.delay += longer_s
        self.shelf.keep(reply)
        return reply

    def _flexible(self, flex: Flex, request: Incoming) -> float:
        """How much longer a request takes for being on the tier `flex`. Raises Refusal where there is no room."""
        if _object(request.body).get("service_tier") != "flex":
            return 0.0
        if self.random.random() < flex.unavailable:
            raise Refusal(
                429, "Resource unavailable: no capacity for flex.", type="requests", code="resource_unavailable"
            )
        return flex.slower.draw(self.random)

    def _prepared(
        self, request: Incoming, prepare: Callable[[Call], Prepared], controls: Controls, deployment: str
    ) -> Prepared:
        at = (request.target, request.body, controls)
        small = len(request.body) <= _REMEMBERED_BYTES and not self.shelf.uploaded_to(request)
        if small and (ready := self._ready.get(at)):
            return ready
        body = self.shelf.form(request) if self.shelf.uploaded_to(request) else _parsed(request.body)
        prepared = prepare(Call(body, controls, self.seed, self.roster, self._answers, deployment))
        if small:
            if len(self._ready) >= _REMEMBERED:
                self._ready.clear()
            self._ready[at] = prepared
        return prepared

    def _pace(self, prepared: Prepared, controls: Controls) -> Pace:
        model = prepared.model
        ttft = controls.ttft or model.ttft or self._ttft
        gap = controls.per_token or model.per_token or self._per_token
        unary = None if controls.ttft or controls.per_token else model.unary or self._unary
        return Pace(ttft.draw(self.random), gap, unary.draw(self.random) if unary else None, self.random)


def _models(scenario: Scenario) -> tuple[Model, ...]:
    """The built-in models with the scenario's differences, and its own."""
    known = {} if scenario.only_listed_models else {model.name: model for model in ROSTER}
    base = {model.name: model for model in ROSTER}
    for name, entry in scenario.models.items():
        known[name] = msgspec.structs.replace(base.get(name, Model(name)), **_given(entry))
    return tuple(known.values())


def _given(entry: ModelEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.model_fields_set if getattr(entry, name) is not None}


def _dialect(path: str) -> Dialect:
    if path.startswith("/v1/messages"):
        return Dialect.ANTHROPIC
    return Dialect.RESPONSES if path.endswith("/responses") else Dialect.OPENAI


def _place(path: str) -> tuple[str, str]:
    """(endpoint, deployment) of `/v1/chat/completions` or Azure's `/openai/deployments/NAME/chat/completions`."""
    if path.startswith("/v1/"):
        return path[4:], ""
    if path.startswith("/openai/v1/"):
        return path[11:], ""
    if path.startswith("/openai/deployments/"):
        deployment, _, rest = path[20:].partition("/")
        return rest, unquote(deployment)
    return path, ""


def _parsed(body: bytes) -> dict[str, Any]:
    """The object of a JSON body. Raises Refusal."""
    try:
        value = orjson.loads(body)
    except ValueError:
        raise Refusal(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(value, dict):
        raise Refusal(400, "The body must be a JSON object.")
    return value


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body) if body else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _controls(fields: dict[bytes, bytes]) -> Controls:
    """The `x-sim-*` headers that choose length and speed. Raises Refusal."""
    given = tuple(map(fields.get, _CONTROLS))
    return _NO_CONTROLS if given == _NOTHING else _read_controls(*given)


_CONTROLS = (b"x-sim-ttft-ms", b"x-sim-token-ms", b"x-sim-tokens", b"x-sim-chunks")
_NOTHING = (None, None, None, None)


@lru_cache(1024)
def _read_controls(ttft: bytes | None, token: bytes | None, tokens: bytes | None, chunks: bytes | None) -> Controls:
    try:
        return Controls(_delay(ttft), _delay(token), _whole(tokens), _whole(chunks))
    except ValueError as error:
        raise Refusal(400, f"A header of x-sim-ttft-ms, -token-ms, -tokens, -chunks is not right: {error}") from None


def _delay(value: bytes | None) -> Latency | None:
    return None if value is None else Latency.parse(value.decode("latin-1"))


def _whole(value: bytes | None) -> int | None:
    return None if value is None else max(0, int(value))
