"""The interface does what the design says it is for: each need is a short policy, and works on the wire.

Also where clients leave: nothing runs on, nothing stays open, everything is journalled, what was deferred ran once.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from proxy.exchange import Attempt, Exchange, Forward, Request
from proxy.response import Outcome, Response
from proxy.simulator import Simulator
from tests.plane import patterns
from tests.plane.conftest import Serve
from tests.plane.patterns import (
    Budget,
    Cache,
    Coalesce,
    Escalate,
    Hedge,
    MicroBatch,
    RateLimit,
    Retry,
    Route,
    Shared,
    Watch,
    module,
)
from tests.plane.questions import text
from tests.plane.running import Plane, entry
from tests.plane.test_metering import form
from tests.wire.raw import Answer, Raw, chat, post

LINES = 40


def _code_lines(*parts: type) -> int:
    """Lines of code, without blank ones and docstrings."""
    source = "\n".join(inspect.getsource(part) for part in parts)
    told = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return sum(bool(line.strip()) and number not in told for number, line in enumerate(source.splitlines(), 1))


@pytest.mark.parametrize(
    "parts",
    [
        (Cache,),
        (Route,),
        (Escalate,),
        (Retry,),
        (Hedge,),
        (Budget,),
        (RateLimit,),
        (Coalesce, Shared),
        (MicroBatch,),
        (Watch,),
    ],
    ids=lambda parts: parts[0].__name__,
)
def test_is_short(parts: tuple[type, ...]) -> None:
    """Each need is met in under forty lines, or the interface is wrong; sharing a call takes two such parts."""
    for part in parts:
        assert _code_lines(part) < LINES


def chain(serve: Serve, *policies: Any, **settings: Any) -> Any:
    """A data plane with these policies, outermost first."""
    named = [(f"policy-{number}", policy) for number, policy in enumerate(policies)]
    return serve(
        policies=[entry(name, line) for line, (name, _) in enumerate(named, 1)],
        registry={name: module(policy) for name, policy in named},
        **settings,
    )


def actions(plane: Plane) -> list[str]:
    return [decision["action"] for decision in plane.ended()["decisions"]]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_cache_hit(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """A hit is the same bytes without an attempt, costs nothing, and asks no guard."""
    budget = Budget(10**9)
    async with chain(serve, Cache(), budget) as plane:
        first = await plane.chat(stream=stream)
        second = await plane.chat(stream=stream)
        assert len(simulator.requests) == 1
        assert first.body.startswith(second.body)
        assert second.header(b"content-type") == first.header(b"content-type")
        miss, hit = plane.journal("ended")
        assert (hit["attempts"], hit["nanodollars"]) == (0, 0)
        assert hit["decisions"][0]["action"] == "hit"
        assert miss["nanodollars"] > 0
    assert budget.settled == [miss["nanodollars"]]


async def test_cut_answers_are_not_kept(serve: Serve, simulator: Simulator) -> None:
    """A cache that listens by tap never keeps half an answer."""
    async with chain(serve, Cache()) as plane:
        await plane.chat(stream=True, fault="mid-error")
        again = await plane.chat(stream=True)
    assert len(simulator.requests) == 2
    assert b"[DONE]" in again.body


async def test_other_model(serve: Serve, simulator: Simulator) -> None:
    """The upstream is asked for the chosen model, billed and priced by it, and the client is told."""
    async with chain(serve, Route()) as plane:
        answer = await plane.chat()
        assert answer.json["model"].startswith("gpt-4.1-nano")
        assert answer.header(b"x-weir-model").startswith(b"gpt-4.1-nano")
        (reserved,) = plane.journal("reserved")
        assert (reserved["asked"], reserved["model"]) == ("gpt-4o-mini", "gpt-4.1-nano")
    assert [row.model[:12] for row in simulator.invoice().rows] == ["gpt-4.1-nano"]


async def test_escalate(serve: Serve, simulator: Simulator) -> None:
    """Two models are asked, both are paid for, the client gets the second answer."""
    async with chain(serve, Escalate()) as plane:
        answer = await plane.chat(hard=True)
        assert answer.json["model"].startswith("gpt-4o")
        assert "mini" not in answer.json["model"]
        first, second = plane.journal("settled")
        assert plane.ended()["nanodollars"] == first["nanodollars"] + second["nanodollars"]
        assert (first["attempt"], second["attempt"]) == (1, 2)
        assert actions(plane) == ["escalated"]
        assert answer.header(b"x-weir-policies") == b"escalate=escalated"


async def test_small_answer_is_passed_on(serve: Serve, simulator: Simulator) -> None:
    """An answer that was read to look at it still reaches the client."""
    async with chain(serve, Escalate()) as plane:
        answer = await plane.chat()
        assert answer.json["choices"][0]["message"]["content"]
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_retry(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """What failed unbilled is tried again, then another model; each attempt is journalled, the failed ones as free."""
    simulator.fault("error-503", nth=1)
    simulator.fault("rate-limit:1", nth=2)
    async with chain(serve, Retry()) as plane:
        answer = await plane.chat(stream=stream)
        assert answer.status == 200
        costs = [record["nanodollars"] for record in plane.journal("settled")]
        assert len(plane.journal("reserved")) == len(costs) == 3
    assert costs[:2] == [0, 0]
    assert costs[2] > 0


async def test_maybe_billed_is_not_retried(serve: Serve, simulator: Simulator) -> None:
    """What may have been billed isn't sent again."""
    async with chain(serve, Retry()) as plane:
        assert (await plane.chat(fault="error-500")).status == 502
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("careful", [True, False])
async def test_uploads_are_sent_once(serve: Serve, simulator: Simulator, careful: bool) -> None:
    """A body that streamed through is gone: a policy can ask, and one that doesn't is told."""

    class Again:
        async def __call__(self, request: Request, forward: Forward) -> Response:
            response = await forward(request)
            await response.aclose()
            return await forward(request)

    async with chain(serve, Retry() if careful else Again()) as plane:
        body, kind = form({"purpose": "batch"}, ("file", "a", b"x" * 300_000))
        lines = ["x-sim-fault: error-503"] if careful else []
        answer = await plane.send(post("/v1/files", body, f"content-type: {kind}", *lines))
        codes = [record["error"] for record in plane.journal("settled")]
    assert answer.error["code"] == ("upstream_overloaded" if careful else "body_not_replayable")
    assert codes == (["upstream_overloaded"] if careful else [None, "body_not_replayable"])
    assert len(simulator.requests) == 1


async def test_hedge(serve: Serve, simulator: Simulator) -> None:
    """The faster answer wins; the slower one is cancelled upstream, settled as aborted, and not waited for."""
    simulator.fault("no-headers", first=1)
    async with chain(serve, Hedge()) as plane:
        answer = await plane.chat()
        assert answer.status == 200
        await simulator.until(lambda state: state.cancelled == 1 and state.active == 0)
        outcomes = {record["attempt"]: record["outcome"] for record in plane.journal("settled")}
        assert outcomes == {1: "aborted", 2: "complete"}
        assert actions(plane) == ["won_by_2"]
        assert plane.reused() == 0


async def test_hedge_unneeded(serve: Serve, simulator: Simulator) -> None:
    """A quick answer needs no second call."""
    async with chain(serve, Hedge(after_s=5)) as plane:
        assert (await plane.chat()).status == 200
    assert len(simulator.requests) == 1


async def test_budget_refuses(serve: Serve, simulator: Simulator) -> None:
    """A guard refuses before anything is sent or journalled as reserved."""
    async with chain(serve, Budget(1)) as plane:
        answer = await plane.chat()
        assert (answer.status, answer.error["code"]) == (429, "budget_exceeded")
        assert answer.header(b"retry-after") == b"60"
        assert plane.journal("reserved") == []
        assert plane.ended()["nanodollars"] == 0
    assert simulator.requests == []


@pytest.mark.parametrize("given", [{}, {"max_tokens": 50}, {"max_completion_tokens": 50, "max_tokens": 5}], ids=str)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_budget_shortens(serve: Serve, simulator: Simulator, given: dict[str, int], stream: bool) -> None:
    """A guard's lower cap is what is reserved, and what the upstream keeps to."""
    budget = Budget(10**9)
    async with chain(serve, budget) as plane:
        await plane.chat(stream=stream, **given)
        reserved = plane.journal("reserved")[0]["estimate"]
        assert reserved["output_cap"] == 20
        assert plane.settled()["tokens"]["output_tokens"] <= 20
        assert plane.settled()["nanodollars"] <= reserved["nanodollars"]
    assert budget.reserved == 0
    assert len(budget.settled) == 1
    assert simulator.invoice().total.output <= 20


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_budget_shortens_other_dialects(serve: Serve, simulator: Simulator, path: str) -> None:
    """The cap has another name in each dialect."""
    fields = {
        "/v1/responses": {"model": "gpt-4o", "input": "hello"},
        "/v1/messages": {
            "model": "claude-sonnet-4-5",
            "max_tokens": 99,
            "messages": [{"role": "user", "content": "hi"}],
        },
    }
    async with chain(serve, Budget(10**9)) as plane:
        assert (await plane.post(path, fields[path])).status == 200
    assert 0 < simulator.invoice().total.output <= 20


@pytest.mark.parametrize("layer", [Retry, Escalate, Hedge], ids=lambda layer: layer.__name__)
async def test_nothing_slips_past_a_guard(serve: Serve, simulator: Simulator, layer: Callable[[], Any]) -> None:
    """However an inner layer multiplies calls, each is admitted and settled once."""
    budget = Budget(10**9)
    simulator.fault("error-503", first=1) if layer is Retry else simulator.fault("no-headers:0.1", first=1)
    async with chain(serve, budget, layer()) as plane:
        assert (await plane.chat(hard=True)).status == 200
        await plane.quiet()
        assert len(budget.settled) == len(plane.journal("reserved")) == len(plane.journal("settled")) == 2
        assert 10**9 - budget.left == plane.ended()["nanodollars"]
    assert budget.reserved == 0


async def test_guards_wait_in_order(serve: Serve, simulator: Simulator) -> None:
    """A guard may keep requests waiting; the next goes when one has settled."""
    limit = RateLimit(2)
    async with chain(serve, limit) as plane:
        answers = await asyncio.gather(*(plane.chat(stream=bool(n % 2)) for n in range(7)))
    assert [answer.status for answer in answers] == [200] * 7
    assert (limit.most, limit.running) == (2, 0)


async def test_deadline_ends_waiting(serve: Serve, simulator: Simulator) -> None:
    """A request that waits in a guard beyond its deadline is told so, unsent and free."""
    async with chain(serve, RateLimit(0)) as plane:
        answer = await plane.chat("x-weir-deadline: 50ms")
        assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
        assert plane.ended()["nanodollars"] == 0
    assert simulator.requests == []


async def present(plane: Plane, count: int) -> None:
    """So many requests have come in."""
    while plane.metrics.gauges.exchanges < count:
        await asyncio.sleep(0)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_coalesce(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """Requests that overlap get one call's answer, and share what it cost."""
    coalesce = Coalesce()
    async with chain(serve, coalesce) as plane:
        with simulator.still():
            asking = [asyncio.create_task(plane.chat("x-sim-ttft-ms: 10", stream=stream)) for _ in range(4)]
            await present(plane, 4)
        answers = await asyncio.gather(*asking)
        await plane.quiet()
        assert len({_plain(answer) for answer in answers}) == 1
        assert answers[0].status == 200
        (settled,) = plane.journal("settled")
        ended = plane.journal("ended")
        shared = [record for record in ended if record["kind"] == "shared"]
        assert len(ended) == 5
        assert [record["nanodollars"] for record in shared] == [settled["nanodollars"]]
        assert {record["nanodollars"] for record in ended if record["kind"] == "client"} == {
            settled["nanodollars"] // 4
        }
        assert shared[0]["parent"] in {record["exchange"] for record in ended}
    assert len(simulator.requests) == 1
    assert coalesce.shared == {}


async def test_coalesce_joins_midway(serve: Serve, simulator: Simulator) -> None:
    """Who comes while a shared stream runs gets all of it."""
    async with chain(serve, Coalesce()) as plane, await plane.connect() as first, await plane.connect() as second:
        asked = post("/v1/chat/completions", chat(True), "x-sim-fault: stall:3:0.01")
        with simulator.still():
            await first.send(asked)
            begun = await first.read_until(b"\r\n\r\n")
            await second.send(asked)
            await present(plane, 2)
        one, two = await asyncio.gather(_rest(first, begun), second.answer())
        assert two.whole
        assert one.endswith(b"0\r\n\r\n")
        assert text(two)
    assert len(simulator.requests) == 1


async def test_coalesce_shares_failure(serve: Serve, simulator: Simulator) -> None:
    """A failed shared call fails for all who share it, each in its own answer."""
    async with chain(serve, Coalesce()) as plane:
        with simulator.still():
            asking = [asyncio.create_task(plane.chat(fault="no-headers:0.01, error-500")) for _ in range(3)]
            await present(plane, 3)
        answers = await asyncio.gather(*asking)
        await plane.quiet()
        assert {(answer.status, answer.error["code"]) for answer in answers} == {(502, "upstream_500")}
    assert len(simulator.requests) == 1


async def test_first_client_leaves_a_shared_call(serve: Serve, simulator: Simulator) -> None:
    """A shared call outlives the client that caused it, as long as somebody reads."""
    async with chain(serve, Coalesce()) as plane:
        asked = post("/v1/chat/completions", chat(), "x-sim-fault: no-headers:0.01")
        first, second = await plane.connect(), await plane.connect()
        with simulator.still():
            await first.send(asked)
            await simulator.until(lambda state: state.active == 1)
            await second.send(asked)
            await present(plane, 2)
            first.close()
            while plane.metrics.gauges.exchanges == 2:
                await asyncio.sleep(0)
        assert (await second.answer()).status == 200
        second.close()
        await plane.quiet()
        assert sorted(record["outcome"] for record in plane.journal("ended")) == ["aborted", "complete", "complete"]
    assert len(simulator.requests) == 1


async def test_micro_batch(serve: Serve, simulator: Simulator) -> None:
    """Embeddings asked for together go up as one; each client gets its own vector and pays its share."""
    inputs = [f"text {number}" for number in range(5)]
    async with chain(serve, MicroBatch(window_s=0.4)) as plane:
        ask = {"model": "text-embedding-3-small", "encoding_format": "float"}
        answers = await asyncio.gather(*(plane.post("/v1/embeddings", {**ask, "input": one}) for one in inputs))
        await plane.quiet()
        (settled,) = plane.journal("settled")
        clients = [record for record in plane.journal("ended") if record["kind"] == "client"]
        assert sum(record["nanodollars"] for record in clients) == settled["nanodollars"] > 0
        alone = await plane.post("/v1/embeddings", {**ask, "input": inputs[3]})
    vectors = [answer.json["data"][0]["embedding"] for answer in answers]
    assert vectors[3] == alone.json["data"][0]["embedding"]
    assert len({str(vector) for vector in vectors}) == 5
    assert len(simulator.requests) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_watch(serve: Serve, stream: bool) -> None:
    """A tap sees every event that the client gets, then how it ended, once."""
    watch = Watch()
    async with chain(serve, watch) as plane:
        answer = await plane.chat(stream=stream)
    assert answer.body.startswith(b"".join(event.raw for event in watch.events))
    assert watch.outcomes == [Outcome.COMPLETE]


# --- clients that leave


class Witness:
    """Outermost: counts what must happen once."""

    def __init__(self) -> None:
        self.deferred: list[str] = []
        self.settled: list[Attempt] = []
        self.outcomes: list[Outcome] = []

    async def __call__(self, request: Request, forward: Forward) -> Response:
        request.exchange.defer(self._deferred)
        request.exchange.guard(self._guard)
        response = await forward(request)
        response.tap(lambda seen: self.outcomes.append(seen) if isinstance(seen, Outcome) else None)
        return response

    async def _guard(self, attempt: Attempt) -> Any:
        return self.settled.append

    def _deferred(self, exchange: Exchange) -> None:
        self.deferred.append(exchange.id)


MOMENTS = {
    "unary": (False, "no-headers", 0),
    "before-the-first-token": (True, "stall:0", 0),
    "before-the-headers": (True, "no-headers", 0),
    "mid-stream": (True, "stall:3", 3),
}
LAYERS: dict[str, Callable[[], Any]] = {
    "none": lambda: Watch(),
    "cache": Cache,
    "escalate": Escalate,
    "retry": Retry,
    "hedge": Hedge,
    "budget": lambda: Budget(10**9),
    "coalesce": Coalesce,
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("layer", LAYERS)
async def test_leaving(serve: Serve, simulator: Simulator, layer: str, moment: str) -> None:
    """Whenever the client leaves: the upstream is cancelled, everything is accounted for, nothing is left behind."""
    stream, fault, events = MOMENTS[moment]
    if layer == "escalate" and moment == "mid-stream":
        events = 0  # it reads the small model's answer to its end first
    witness = Witness()
    calls = 2 if layer == "hedge" and events == 0 else 1
    async with chain(serve, witness, LAYERS[layer]()) as plane:
        before = {task.get_name() for task in asyncio.all_tasks()}
        client = await plane.connect()
        await client.send(post("/v1/chat/completions", chat(stream), f"x-sim-fault: {fault}"))
        await simulator.until(lambda state: state.requests == calls)
        for _ in range(events):
            await client.read_until(b"\n\n")
        client.close()
        await simulator.until(lambda state: state.cancelled == calls and state.active == 0)
        await plane.quiet()
        assert {task.get_name() for task in asyncio.all_tasks()} == before
        assert plane.reused() == 0
        assert len(plane.journal("reserved")) == len(plane.journal("settled")) == calls
        assert {record["outcome"] for record in plane.journal("settled")} == {"aborted"}
        (ended,) = [record for record in plane.journal("ended") if record["kind"] == "client"]
        assert ended["outcome"] == "aborted"
        assert witness.deferred == [ended["exchange"]]
        assert len({id(attempt) for attempt in witness.settled}) == len(witness.settled)
        if layer != "coalesce":
            assert len(witness.settled) == calls
        assert witness.outcomes == ([Outcome.ABORTED] if events else [])


async def test_leaving_a_batch(serve: Serve, simulator: Simulator) -> None:
    """A client that leaves a batch takes nothing from the others."""
    ask = {"model": "text-embedding-3-small", "input": "hello"}
    async with chain(serve, MicroBatch(window_s=0.4)) as plane:
        client = await plane.connect()
        await client.send(post("/v1/embeddings", orjson.dumps(ask)))
        while plane.metrics.gauges.exchanges < 1:
            await asyncio.sleep(0)
        other = asyncio.create_task(plane.post("/v1/embeddings", ask))
        while plane.metrics.gauges.exchanges < 2:
            await asyncio.sleep(0)
        client.close()
        assert (await other).status == 200
        await plane.quiet()
        assert sorted(record["outcome"] for record in plane.journal("ended")) == ["aborted", "complete", "complete"]


async def test_leaving_while_waiting_in_a_guard(serve: Serve, simulator: Simulator) -> None:
    """A client that leaves the queue gives its place up, unsent and free."""
    limit, witness = RateLimit(0), Witness()
    async with chain(serve, witness, limit) as plane:
        client = await plane.connect()
        await client.send(post("/v1/chat/completions", chat()))
        while not witness.deferred and not plane.metrics.gauges.exchanges:
            await asyncio.sleep(0)
        client.close()
        await plane.quiet()
        assert plane.ended()["nanodollars"] == 0
        assert plane.journal("settled") == []
        (attempt,) = witness.settled
        assert (attempt.outcome, attempt.error, attempt.nanodollars) == ("failed", "refused", 0)
    assert simulator.requests == []


async def test_leaving_while_connecting(serve: Serve) -> None:
    """A client that leaves before a connection is there has cost nothing."""
    from proxy.simulator.ports import BlackHole

    with BlackHole() as hole:
        async with serve(url=hole.url) as plane:
            client = await plane.connect()
            await client.send(post("/v1/chat/completions", chat()))
            while not plane.journal("reserved"):
                await asyncio.sleep(0.001)
            client.close()
            await plane.quiet()
            settled = plane.settled()
    assert (settled["outcome"], settled["nanodollars"], settled["known"]) == ("aborted", 0, "observed")


class Forgetful:
    """A policy that leaves a call running and never looks at its answer again."""

    async def __call__(self, request: Request, forward: Forward) -> Response:
        self.task = asyncio.ensure_future(forward(request))
        await asyncio.sleep(0)
        return Response(200, [(b"content-type", b"text/plain")], b"done")


@pytest.mark.parametrize("fault", ["no-headers", "stall:2"])
async def test_forgotten_calls_end_with_their_exchange(serve: Serve, simulator: Simulator, fault: str) -> None:
    """A call that a policy forgot is given up with the exchange, cancelled upstream and settled."""
    forgetful = Forgetful()
    async with chain(serve, forgetful) as plane:
        simulator.fault(fault)
        assert (await plane.chat(stream=True)).body == b"done"
        await asyncio.wait((forgetful.task,))
        await simulator.until(lambda state: state.active == 0)
        await plane.quiet()
        assert len(plane.journal("reserved")) == len(plane.journal("settled"))
        assert plane.reused() == 0


async def test_failing_callbacks_harm_nobody(serve: Serve) -> None:
    """Taps, deferred functions and settle functions that raise are noted; the answer and the others go on."""
    ran: list[str] = []

    def broken(*_: Any) -> None:
        raise RuntimeError("secret words")

    class Broken:
        async def __call__(self, request: Request, forward: Forward) -> Response:
            async def guard(attempt: Attempt) -> Any:
                return broken

            async def other(attempt: Attempt) -> Any:
                return lambda attempt: ran.append("settled")

            request.exchange.guard(other)
            request.exchange.guard(guard)
            request.exchange.defer(lambda exchange: ran.append("deferred"))
            request.exchange.defer(broken)
            response = await forward(request)
            response.tap(broken)
            response.tap(lambda seen: ran.append("tapped") if isinstance(seen, Outcome) else None)
            return response

    async with chain(serve, Broken()) as plane:
        answer = await plane.chat(stream=True)
        assert answer.whole
        assert b"[DONE]" in answer.body
        assert sorted(ran) == ["deferred", "settled", "tapped"]
        assert {decision["action"] for decision in plane.ended()["decisions"]} == {"settle_failed", "deferred_failed"}
        assert [event for _, event, _ in plane.logged] == ["tap_failed"]
        assert "secret words" not in str(plane.logged)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_failing_edits_withhold_the_answer(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """What an edit was to change doesn't pass unchanged: a status where there is one, else an error in the stream."""

    class Censor:
        async def __call__(self, request: Request, forward: Forward) -> Response:
            response = await forward(request)

            def edit(event: Any) -> Any:
                raise ValueError("secret words")

            response.edit(edit)
            return response

    async with chain(serve, Censor()) as plane:
        answer = await plane.chat(stream=stream)
        await plane.quiet()
        assert b"secret" not in answer.body
        assert answer.status == (200 if stream else 500)
        assert b"server_error" in answer.body
        assert plane.reused() == 0
        assert plane.settled()["nanodollars"] > 0


async def test_policies_that_crash(serve: Serve, simulator: Simulator) -> None:
    """A policy's bug is a 500 in the right form, logged without its words."""

    class Crash:
        async def __call__(self, request: Request, forward: Forward) -> Response:
            raise KeyError("secret words")

    async with chain(serve, Crash()) as plane:
        answer = await plane.chat()
        assert (answer.status, answer.error["type"]) == (500, "server_error")
        (line,) = plane.logged
        assert line[1] == "internal_error"
        assert "secret" not in str(line) + str(answer.body)
        assert plane.ended()["status"] == 500


def _plain(answer: Answer) -> bytes:
    """A stream without the comments that tell its cost."""
    return b"\n\n".join(part for part in answer.body.split(b"\n\n") if not part.startswith(b":"))


async def _rest(client: Raw, begun: bytes) -> bytes:
    return begun + await client.read_until(b"0\r\n\r\n")


def test_table_is_covered() -> None:
    """The patterns here are the rows of the design's table."""
    rows = {Cache, Route, Escalate, Retry, Hedge, Budget, RateLimit, Coalesce, MicroBatch, Watch}
    assert all(row.__module__ == patterns.__name__ and row.__doc__ for row in rows)
