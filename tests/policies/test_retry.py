"""`retry`: what is asked again, when, and how often; each row of the fault table by name, on the wire.

P: nothing was billed, so the client sees the success. A: it may have been billed, so nothing is sent again unless the
policy accepts that. The simulator's count of requests proves how often it was asked, its invoice what was paid.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIStatusError, AsyncOpenAI
from pydantic import ValidationError

from policies import retry
from policies.retry import BURST, Config, Retry, RetryBudget, State, decide
from proxy.errors import RATE_LIMIT, WeirError
from proxy.exchange import Attempt, Forward, Request
from proxy.failures import KINDS, Failure, Kind
from proxy.response import Response
from proxy.simulator import Simulator
from proxy.simulator.certificates import Authority
from proxy.simulator.ports import UNKNOWN_HOST_URL, BlackHole, refused_url
from tests.plane.conftest import Serve
from tests.plane.patterns import module
from tests.plane.questions import ALL, STREAMED, UNARY, in_band_error
from tests.plane.questions import Kind as Question
from tests.plane.running import Plane, entry
from tests.wire.raw import Answer, chat, chunks, post

DRAW = 0.5


class Slept(list[float]):
    """The waits that were asked for; nobody waits."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def retrying(slept: Slept | None = None, wall_s: float = 1_700_000_000.0) -> Any:
    """The policy's module, with a fixed draw, a fixed Unix time and no waiting."""
    sleep = Slept() if slept is None else slept

    def build(config: Config, services: Any) -> Retry:
        return Retry(config, services, draw=lambda: DRAW, wall=lambda: wall_s, sleep=sleep)

    return SimpleNamespace(Config=Config, build=build, ORDER=retry.ORDER)


@asynccontextmanager
async def served(serve: Serve, slept: Slept | None = None, **options: Any) -> AsyncIterator[Plane]:
    """A data plane with this policy; `settings` are of the data plane."""
    settings = options.pop("settings", {})
    async with serve(policies=[entry("retry", 3, **options)], registry={"retry": retrying(slept)}, **settings) as plane:
        yield plane


async def ask(plane: Plane, question: Question) -> Answer:
    return await plane.post(question.path, question.fields)


def is_answer(answer: Answer, question: Question) -> bool:
    """A whole answer of its kind."""
    ending = question.done.removeprefix(b"data: ")
    return answer.status == 200 and answer.whole and ending in answer.body and b'"error":{' not in answer.body


# --- P rows that a second call of the same deployment mends

MENDED = {
    "row 5, rate limited": ("rate-limit:2", 2.0 + DRAW * 0.25),
    "row 5, rate limited, nothing said": ("rate-limit:-", DRAW * 0.25),
    "row 11, unavailable": ("error-503", DRAW * 0.25),
    "row 12, overloaded": ("overloaded-529", DRAW * 0.25),
}


@pytest.mark.parametrize("question", ALL, ids=str)
@pytest.mark.parametrize("row", MENDED)
async def test_mended(serve: Serve, simulator: Simulator, question: Question, row: str) -> None:
    """The client sees the answer of the second call; the first cost nothing, and the wait is what was asked for."""
    fault, wait_s = MENDED[row]
    simulator.fault(fault, first=1)
    slept = Slept()
    async with served(serve, slept) as plane:
        answer = await ask(plane, question)
        first, second = plane.journal("settled")
    assert is_answer(answer, question)
    assert len(simulator.requests) == 2
    assert slept == [wait_s]
    assert (first["nanodollars"], first["outcome"], second["outcome"]) == (0, "failed", "complete")
    assert simulator.invoice().total.requests == 1
    assert answer.header(b"x-weir-policies") == b"retry=retried"


@pytest.mark.parametrize("question", STREAMED, ids=str)
async def test_row_16_first_event_is_an_error(serve: Serve, simulator: Simulator, question: Question) -> None:
    """Row 16: an error as the first event of a 200 is a failure like any other, and unbilled."""
    simulator.fault("first-event-error", first=1)
    async with served(serve) as plane:
        answer = await ask(plane, question)
        assert [record["nanodollars"] == 0 for record in plane.journal("settled")] == [True, False]
    assert is_answer(answer, question)
    assert (len(simulator.requests), simulator.invoice().total.requests) == (2, 1)


async def test_row_15_stale_connection_and_a_retry(serve: Serve, simulator: Simulator) -> None:
    """Row 15: a dead connection is replaced below the chain; that isn't a retry, and uses none up."""
    async with served(serve, attempts=1) as plane:
        await plane.chat(fault="close-idle:next")
        answer = await plane.chat()
    assert answer.status == 200
    assert answer.header(b"x-weir-policies") is None
    assert simulator.invoice().total.requests == 2


# --- P rows that only another deployment mends


@asynccontextmanager
async def two(
    serve: Serve, broken: dict[str, Any], good: Simulator, options: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Plane, Slept]]:
    """A model at two upstreams, of which the first, with nearly all the weight, is broken."""
    upstreams = {"broken": {"pool": {"warm": 0}, **broken}, "good": {"url": good.url, "pool": {"warm": 0}}}
    deployments = [{"upstream": "broken", "weight": 1e6}, {"upstream": "good"}]
    slept = Slept()
    settings = {
        "upstreams": upstreams,
        "models": {"*": {"deployments": deployments}},
        "timeouts": {"connect_s": 0.2},
    }
    async with served(serve, slept, settings=settings, **(options or {})) as plane:
        yield plane, slept


async def _unreached(serve: Serve, simulator: Simulator, url: str, stream: bool, **fields: Any) -> None:
    async with two(serve, {"url": url, **fields}, simulator) as (plane, slept):
        answer = await plane.chat(stream=stream)
        first, second = plane.journal("settled")
        asked = [record["deployment"] for record in plane.journal("reserved")]
    assert answer.status == 200
    assert (b"[DONE]" in answer.body) is stream
    assert asked == ["broken", "good"]
    assert slept == [], "somewhere else there is nothing to wait for"
    assert (first["nanodollars"], first["known"], second["outcome"]) == (0, "observed", "complete")
    assert (len(simulator.requests), simulator.invoice().total.requests) == (1, 1)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_row_1_refused(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """Row 1: nobody listens there; the other deployment answers."""
    await _unreached(serve, simulator, refused_url(), stream)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_row_2_unknown_name(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """Row 2: the name doesn't resolve; the other deployment answers."""
    await _unreached(serve, simulator, UNKNOWN_HOST_URL, stream)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_row_3_black_hole(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """Row 3: nobody answers the SYN; the other deployment answers."""
    with BlackHole() as hole:
        await _unreached(serve, simulator, hole.url, stream)


async def test_row_4_bad_certificate(serve: Serve, simulator: Simulator, tmp_path: Path) -> None:
    """Row 4: a bad certificate is never accepted; the other deployment answers, and alone, none is asked twice."""
    authority = Authority(tmp_path)
    async with Simulator(tls=authority.serving("elsewhere.example")) as other:
        await _unreached(serve, simulator, other.url, True, ca=str(authority.path))
        settings = {"url": other.url, "upstream": {"ca": str(authority.path)}}
        async with served(serve, settings=settings) as plane:
            answer = await plane.chat()
            assert (answer.status, answer.error["code"]) == (502, "upstream_tls")
            assert plane.journal("ended")[-1]["attempts"] == 1
        assert other.requests == []


ELSEWHERE = {
    "row 5, rate limited": "rate-limit:2",
    "row 6, rate limited for an hour": "rate-limit:3600",
    "row 7, quota exhausted": "quota",
    "row 8, key refused": "unauthorized",
    "row 8, key forbidden": "forbidden",
    "row 11, unavailable": "error-503",
    "row 12, overloaded": "overloaded-529",
    "row 16, first event": "first-event-error",
    "row 33, redirect": "redirect",
}


@pytest.mark.parametrize(
    ("row", "stream"),
    [
        pytest.param(row, stream, id=f"{row}-{'stream' if stream else 'unary'}")
        for row in ELSEWHERE
        for stream in (False, True)
        if stream or "first event" not in row  # a unary answer has no events
    ],
)
async def test_another_deployment(serve: Serve, simulator: Simulator, row: str, stream: bool) -> None:
    """What waiting doesn't mend, or not soon, another deployment does, at once."""
    async with Simulator(seed=2) as other:
        other.fault(ELSEWHERE[row])
        key = {"key": {"env": "UP", "value": "sk-ours"}}
        async with two(serve, {"url": other.url, **key}, simulator) as (plane, slept):
            answer = await plane.chat(stream=stream)
            assert answer.status == 200
            assert answer.header(b"x-weir-model")
        assert (len(other.requests), len(simulator.requests)) == (1, 1)
        assert other.invoice().total.requests == 0
    assert slept == []


async def test_each_deployment_before_any_again(serve: Serve, simulator: Simulator) -> None:
    """Of several broken deployments each is asked once; only then one of them again, after a wait."""
    async with Simulator(seed=2) as other:
        other.fault("error-503")
        simulator.fault("error-503", first=1)
        async with two(serve, {"url": other.url}, simulator, {"attempts": 4}) as (plane, slept):
            answer = await plane.chat()
            asked = [record["deployment"] for record in plane.journal("reserved")]
    assert asked[:2] == ["broken", "good"]
    assert len(slept) == len(asked) - 2
    assert (answer.status == 200) is (asked[-1] == "good")


# --- what isn't sent again

PASSED = {
    "row 6, rate limited for an hour": ("rate-limit:3600", 429, "too_long"),
    "row 7, quota exhausted": ("quota", 429, None),
    "row 8, key refused": ("unauthorized", 502, None),
    "row 9, bad request": ("bad-request", 400, None),
    "row 9, not found": ("not-found", 404, None),
    "row 9, unprocessable": ("unprocessable", 422, None),
    "row 10, context length": ("context-length", 400, None),
    "row 11, server error": ("error-500", 502, "billed"),
    "row 11, bad gateway": ("error-502", 502, "billed"),
    "row 14, reset": ("reset-after-request", 502, "billed"),
    "row 28, HTML": ("html-200", 502, "billed"),
    "row 28, nothing": ("empty-200", 502, "billed"),
    "row 30, encoding": ("unknown-encoding", 502, "billed"),
    "row 33, redirect": ("redirect", 502, "final"),
}


@pytest.mark.parametrize("question", ALL, ids=str)
@pytest.mark.parametrize("row", PASSED)
async def test_passed(serve: Serve, simulator: Simulator, question: Question, row: str) -> None:
    """Asked once: what may have been billed, what would fail again, what would take too long."""
    fault, status, why = PASSED[row]
    simulator.fault(fault)
    slept = Slept()
    async with served(serve, slept) as plane:
        answer = await ask(plane, question)
        assert answer.status == status
        assert len(plane.journal("settled")) == 1
        decisions = plane.ended()["decisions"]
    assert (len(simulator.requests), slept) == (1, [])
    assert (answer.header(b"x-should-retry") == b"false") is (why == "billed" or "key" in row)
    assert [decision["numbers"]["why"] for decision in decisions] == ([why] if why else [])
    if fault.startswith("rate-limit"):
        assert answer.header(b"retry-after") == b"3600"


@pytest.mark.parametrize("question", UNARY, ids=str)
@pytest.mark.parametrize("fault", ["truncated-json", "wrong-length", "gzip-bomb", "rst", "no-headers"])
async def test_rows_13_29_30_maybe_billed(serve: Serve, simulator: Simulator, question: Question, fault: str) -> None:
    """Rows 13, 29, 30: half an answer, or none in time, may have been paid for."""
    simulator.fault(fault)
    total_s = 0.3 if fault == "no-headers" else 30.0
    async with served(serve, settings={"timeouts": {"total_s": total_s}}) as plane:
        answer = await ask(plane, question)
        settled = plane.settled()
    assert answer.status == (504 if fault == "no-headers" else 502)
    assert answer.header(b"x-should-retry") == b"false"
    assert settled["known"] == "unknown"
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("question", STREAMED, ids=str)
@pytest.mark.parametrize("fault", ["mid-error", "eof-no-done", "cut-chunk", "rst", "malformed-event", "stall"])
async def test_rows_17_to_23_after_the_first_event(
    serve: Serve, simulator: Simulator, question: Question, fault: str
) -> None:
    """Rows 17 to 20, 23: what breaks after the client has seen something is told in the stream, and asked once."""
    simulator.fault(fault, first=1)
    async with served(serve, double_bill=True, settings={"timeouts": {"stream_idle_s": 0.1}}) as plane:
        answer = await ask(plane, question)
        assert in_band_error(answer)["message"]
        assert plane.settled()["outcome"] == "partial"
    assert (answer.status, len(simulator.requests)) == (200, 1)


# --- accepting a double bill

BILLED = {
    "row 11, server error": "error-500:billed",
    "row 13, no answer in time": "no-headers",
    "row 14, reset": "reset-after-request",
    "row 28, HTML": "html-200",
    "row 29, truncated": "truncated-json",
}


@pytest.mark.parametrize("row", BILLED)
async def test_double_bill(serve: Serve, simulator: Simulator, row: str) -> None:
    """`double_bill: true` sends it again; what the first call may have cost stays on the account as unknown."""
    simulator.fault(BILLED[row], first=1)
    async with served(serve, double_bill=True, settings={"timeouts": {"total_s": 0.3}}) as plane:
        answer = await plane.chat()
        first, second = plane.journal("settled")
    assert answer.status == 200
    assert len(simulator.requests) == 2
    assert (first["known"], second["known"]) == ("unknown", "observed")
    assert first["nanodollars"] > 0


async def test_double_bill_makes_nothing_twice(serve: Serve, simulator: Simulator) -> None:
    """What makes an object isn't sent again after a failure that may have come too late; reading is."""
    simulator.fault("reset-after-request", first=1)
    async with served(serve, double_bill=True) as plane:
        answer = await plane.post("/v1/responses", {"model": "gpt-4o-mini", "input": "x", "conversation": "conv_1"})
        assert answer.status == 502
        assert len(simulator.requests) == 1
        simulator.reset()
        simulator.fault("reset-after-request", first=1)
        assert (await plane.get("/v1/models")).status == 200
        assert len(simulator.requests) == 2


async def test_uploads_go_once(serve: Serve, simulator: Simulator) -> None:
    """A body that streamed through is gone: the upstream's refusal is what the client gets."""
    simulator.fault("error-503", first=1)
    form = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b--\r\n'
    head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: weir\r\nTransfer-Encoding: chunked\r\n"
    async with served(serve) as plane:
        answer = await plane.send(
            head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + chunks(form)
        )
        assert answer.status == 503
        (decision,) = plane.ended()["decisions"]
    assert decision["numbers"]["why"] == "body"
    assert len(simulator.requests) == 1


# --- bounds


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_attempts(serve: Serve, simulator: Simulator, attempts: int) -> None:
    """No more calls than allowed, each wait drawn from twice as much; then the last failure as it is."""
    simulator.fault("error-503")
    slept = Slept()
    async with served(serve, slept, attempts=attempts) as plane:
        answer = await plane.chat()
        assert len(plane.journal("settled")) == attempts
        assert plane.ended()["nanodollars"] == 0
    assert (answer.status, answer.error["code"]) == (503, "upstream_overloaded")
    assert len(simulator.requests) == attempts
    assert slept == [DRAW * 0.25 * 2**n for n in range(attempts - 1)]


async def test_deadline(serve: Serve, simulator: Simulator) -> None:
    """A wait that doesn't fit into the client's deadline isn't begun: the upstream's answer is passed at once."""
    simulator.fault("rate-limit:5")
    slept = Slept()
    async with served(serve, slept) as plane:
        answer = await plane.chat("x-weir-deadline: 4s")
        assert (answer.status, answer.header(b"retry-after")) == (429, b"5")
        assert answer.header(b"x-weir-policies") == b"retry=gave_up"
        assert slept == []
        await plane.chat("x-weir-deadline: 1h")
        assert slept[0] == 5 + DRAW * 0.25


async def test_storm(serve: Serve, simulator: Simulator) -> None:
    """An upstream that is down sees hardly more calls than clients make, once the budget is used up."""
    simulator.fault("error-503")
    async with served(serve, attempts=10, budget="10%", budget_floor=0) as plane:
        for _ in range(100):
            assert (await plane.chat()).status == 503
        why = [d["numbers"].get("why") for end in plane.journal("ended") for d in end["decisions"]]
    retries = len(simulator.requests) - 100
    assert retries <= 100 * 0.1 + BURST
    assert retries >= BURST
    assert "budget" in why


async def test_own_refusals_are_final(serve: Serve, simulator: Simulator) -> None:
    """What a guard or a layer further in refuses isn't an upstream's failure, whatever its status."""

    async def refuse(request: Request, forward: Forward) -> Response:
        async def guard(attempt: Attempt) -> None:
            raise WeirError(429, "The budget is used up.", type=RATE_LIMIT, headers=((b"retry-after", b"1"),))

        request.exchange.guard(guard)
        return await forward(request)

    registry = {"retry": retrying(slept := Slept()), "refuse": module(refuse)}
    async with serve(policies=[entry("retry"), entry("refuse")], registry=registry) as plane:
        assert (await plane.chat()).status == 429
    assert (simulator.requests, slept) == ([], [])


async def test_guards_see_every_attempt(serve: Serve, simulator: Simulator) -> None:
    """A retry doesn't slip past what limits calls: guards are asked for each, and told of each end."""
    asked: list[int] = []
    told: list[int | None] = []

    async def watch(request: Request, forward: Forward) -> Response:
        async def guard(attempt: Attempt) -> Any:
            asked.append(attempt.number)
            return lambda settled: told.append(settled.nanodollars)

        request.exchange.guard(guard)
        return await forward(request)

    simulator.fault("error-503", first=2)
    registry = {"retry": retrying(), "watch": module(watch)}
    async with serve(policies=[entry("watch"), entry("retry")], registry=registry) as plane:
        assert (await plane.chat()).status == 200
    assert asked == [1, 2, 3]
    assert told[:2] == [0, 0]
    assert (told[2] or 0) > 0


async def test_leaving_while_it_waits(serve: Serve, simulator: Simulator) -> None:
    """A client that leaves during a wait ends it; nothing more is sent."""
    simulator.fault("rate-limit:15")
    async with serve(policies=[entry("retry")], registry={"retry": retry}) as plane:
        client = await plane.connect()
        await client.send(post("/v1/chat/completions", chat()))
        await simulator.until(lambda state: state.requests == 1 and state.active == 0)
        client.close()
        await plane.quiet()
        assert plane.ended()["outcome"] == "aborted"
    assert len(simulator.requests) == 1


async def test_observing(serve: Serve, simulator: Simulator) -> None:
    """Observed, it calls nothing again, and says that it would have."""
    simulator.fault("error-503")
    policies = [entry("retry", mode="observe")]
    async with serve(policies=policies, registry={"retry": retrying()}) as plane:
        assert (await plane.chat()).status == 503
        await plane.quiet()
        actions = [decision["action"] for decision in plane.ended()["decisions"]]
    assert "would_forward_again" in actions
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("fault", ["rate-limit:2", "error-503", "overloaded-529", "first-event-error"])
async def test_what_the_sdk_sees(serve: Serve, simulator: Simulator, fault: str) -> None:
    """OpenAI's SDK, its own retries off, reads the answer; with the policy off, the status."""
    ask: Any = [{"role": "user", "content": "what is 6*7?"}]
    async with (
        served(serve) as plane,
        AsyncOpenAI(base_url=plane.url, api_key="sk-x", max_retries=0) as client,
    ):
        simulator.fault(fault, first=1)
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=ask, stream=True)
        told = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert told
        if fault != "first-event-error":
            simulator.reset()
            simulator.fault(fault, first=1)
            answer = await client.chat.completions.create(model="gpt-4o-mini", messages=ask)
            assert answer.choices[0].message.content
            simulator.fault(fault)
            plane.plane.bypass = True
            with pytest.raises(APIStatusError):
                await client.chat.completions.create(model="gpt-4o-mini", messages=ask)


# --- the decision

AGAIN = State(made=1, left_s=60.0, elsewhere=False, replayable=True, repeatable=True)


def state(**changes: Any) -> State:
    fields = {name: getattr(AGAIN, name) for name in State.__struct_fields__}
    return State(**{**fields, **changes})


@pytest.mark.parametrize(
    ("config", "failure", "changes", "why"),
    [
        ({}, Failure("overloaded", 503, False), {}, "again"),
        ({}, Failure("rejected", 400, False), {}, "kind"),
        ({"on": "rejected"}, Failure("rejected", 400, False), {}, "again"),
        ({"on": ["timeout"]}, Failure("overloaded", 503, False), {}, "kind"),
        ({}, Failure("quota", 429, False), {}, "kind"),
        ({}, Failure("quota", 429, False), {"elsewhere": True}, "again"),
        ({}, Failure("overloaded", 503, False), {"made": 3}, "spent"),
        ({}, Failure("broken", 502, True), {}, "billed"),
        ({}, Failure("broken", 502, True), {"elsewhere": True}, "billed"),
        ({"double_bill": True}, Failure("broken", 502, True), {}, "again"),
        ({"double_bill": True}, Failure("broken", 502, True), {"repeatable": False}, "billed"),
        ({}, Failure("overloaded", 503, False, final=True), {}, "final"),
        ({}, Failure("overloaded", 503, False, final=True), {"elsewhere": True}, "again"),
        ({}, Failure("overloaded", 503, False), {"replayable": False}, "body"),
        ({}, Failure("rate_limited", 429, False, 19.0), {}, "again"),
        ({}, Failure("rate_limited", 429, False, 21.0), {}, "too_long"),
        ({"max_wait": "1h"}, Failure("rate_limited", 429, False, 50.0), {}, "again"),
        ({"max_wait": "1h"}, Failure("rate_limited", 429, False, 60.0), {}, "too_long"),
        ({}, Failure("rate_limited", 429, False, 3600.0), {"elsewhere": True}, "again"),
        ({}, Failure("overloaded", 503, False), {"left_s": 0.0}, "too_long"),
        ({}, Failure("overloaded", 503, False), {"left_s": -1.0, "elsewhere": True}, "too_long"),
    ],
)
def test_decision(config: dict[str, Any], failure: Failure, changes: dict[str, Any], why: str) -> None:
    """Each reason to go on or to stop, one at a time."""
    assert decide(Config.model_validate(config), failure, state(**changes), DRAW)[0] == why


@given(
    kind=st.sampled_from(KINDS),
    billed=st.booleans(),
    told_s=st.none() | st.floats(0, 1e5),
    made=st.integers(1, 12),
    left_s=st.floats(-10, 1000),
    elsewhere=st.booleans(),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_bounds(
    kind: Kind, billed: bool, told_s: float | None, made: int, left_s: float, elsewhere: bool, draw: float
) -> None:
    """Whatever happens: nothing billed goes again unasked, no wait outlasts its bounds or undercuts what was told."""
    config = Config()
    failure = Failure(kind, 503, billed, told_s)
    given_state = state(made=made, left_s=left_s, elsewhere=elsewhere)
    why, wait_s = decide(config, failure, given_state, draw)
    if why == "again":
        assert not billed
        assert made < config.attempts
        assert 0 <= wait_s < left_s
        assert wait_s <= config.max_wait + config.max_backoff
        assert elsewhere or told_s is None or wait_s >= told_s


@given(
    share=st.floats(0, 1),
    floor=st.floats(0, 10),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0, 2)), max_size=200),
)
def test_budget(share: float, floor: float, steps: list[tuple[bool, float]]) -> None:
    """However calls and retries mix: retries <= share x calls + floor x seconds + burst."""
    now_s, calls, retries = 100.0, 0, 0
    budget = RetryBudget(share, floor, now_s)
    for is_call, passed_s in steps:
        now_s += passed_s
        if is_call:
            budget.called()
            calls += 1
        else:
            retries += budget.take(now_s)
    assert retries <= share * calls + floor * (now_s - 100.0) + BURST + 1e-6


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"attempts": 11}, {"on": ["503"]}, {"budget": 0.2}, {"budget_floor": -1}, {"tries": 3}],
)
def test_options_that_are_none(options: dict[str, Any]) -> None:
    """What can't be meant is an error of the file."""
    with pytest.raises(ValidationError):
        Config.model_validate(options, context={"from_file": True})
