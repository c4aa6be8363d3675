"""`hedge`: when a second call is made, which of the two counts, and what the other costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from pydantic import ValidationError

from policies import fallback, hedge, retry, timeout
from policies.hedge import Config, Seen, Spending, delay_s, lost_of, nanodollars_of, safe
from proxy.body import scan
from proxy.endpoints import endpoint_of
from proxy.errors import RATE_LIMIT, WeirError
from proxy.exchange import Attempt, Exchange, Forward, Identity, Request
from proxy.quantile import FadingQuantile
from proxy.response import Response
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.patterns import module
from tests.plane.questions import STREAMED, UNARY, text
from tests.plane.questions import Kind as Question
from tests.plane.running import Plane, entry
from tests.wire.raw import chat, post

SAMPLES = 20
QUESTIONS = [q for q in (*UNARY, *STREAMED) if not q.name.startswith("responses")]
EAGER = {"samples": SAMPLES, "at_least": "30ms", "max_extra": "100%"}


@asynccontextmanager
async def hedging(serve: Serve, **options: Any) -> AsyncIterator[Plane]:
    """A data plane with this policy; `settings` are of the data plane."""
    settings, outer = options.pop("settings", {}), options.pop("outer", {})
    policies = [*[entry(name) for name in outer], entry("hedge", 3, **{**EAGER, **options})]
    registry = {"hedge": hedge, **{name: module(policy) for name, policy in outer.items()}}
    async with serve(policies=policies, registry=registry, **settings) as plane:
        yield plane


async def warm(plane: Plane, question: Question, times: int = SAMPLES) -> None:
    """Lets the policy see what is usual."""
    for _ in range(times):
        assert (await plane.post(question.path, question.fields)).status == 200


CHAT, STREAM = UNARY[0], STREAMED[0]


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
async def test_a_straggler(serve: Serve, simulator: Simulator, question: Question) -> None:
    """The second call answers; the first is cancelled at its upstream, settled at its estimate, and shown."""
    async with hedging(serve) as plane:
        await warm(plane, question)
        simulator.reset()
        simulator.fault("no-headers", nth=1)
        answer = await plane.post(question.path, question.fields)
        assert answer.status == 200
        assert answer.whole
        assert question.done.removeprefix(b"data: ") in answer.body
        assert answer.header(b"x-weir-policies") == b"hedge=hedged"
        assert answer.header(b"x-weir-model")
        await simulator.until(lambda state: state.cancelled == 1)
        assert len(simulator.requests) == 2
        lost, won = sorted(plane.journal("settled")[-2:], key=lambda record: record["attempt"])
        ended = plane.journal("ended")[-1]
    assert (lost["attempt"], lost["outcome"], lost["known"]) == (1, "aborted", "estimated")
    assert (won["attempt"], won["outcome"], won["known"]) == (2, "complete", "observed")
    assert lost["nanodollars"] > 0
    assert ended["nanodollars"] == lost["nanodollars"] + won["nanodollars"]
    (decision,) = ended["decisions"]
    assert decision["numbers"]["won"] == "second"
    assert decision["numbers"]["extra_nanodollars"] == lost["nanodollars"]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_first_may_still_win(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """A second call that is even slower is given up when the first one answers."""
    question = STREAM if stream else CHAT
    async with hedging(serve) as plane:
        await warm(plane, question)
        simulator.reset()
        simulator.fault("no-headers:0.6", nth=1)
        simulator.fault("no-headers", nth=2)
        answer = await plane.post(question.path, question.fields)
        assert answer.status == 200
        await simulator.until(lambda state: state.cancelled == 1)
        (decision,) = plane.journal("ended")[-1]["decisions"]
        outcomes = {record["attempt"]: record["outcome"] for record in plane.journal("settled")[-2:]}
    assert decision["numbers"]["won"] == "first"
    assert outcomes == {1: "complete", 2: "aborted"}
    assert len(simulator.requests) == 2


async def test_nothing_is_known_at_first(serve: Serve, simulator: Simulator) -> None:
    """Until enough answers of that model, endpoint and kind were seen, nothing is called twice."""
    async with hedging(serve) as plane:
        await warm(plane, CHAT, SAMPLES - 1)
        simulator.reset()
        simulator.fault("no-headers:0.4")
        for fields in ({}, {"stream": True}, {"model": "gpt-4o"}):
            assert (await plane.chat(**fields)).status == 200
        assert len(simulator.requests) == 3
        assert plane.metrics.snapshot()["decisions"] == []


async def test_the_extra_cost_is_bounded(serve: Serve, simulator: Simulator) -> None:
    """Where the share is used up, slow answers are waited for, and that is noted."""
    async with hedging(serve, max_extra="10%") as plane:
        await warm(plane, CHAT)
        simulator.reset()
        simulator.fault("no-headers:0.3", every=1)
        for _ in range(8):
            assert (await plane.chat()).status == 200
        settled = plane.journal("settled")
        actions = [decision["action"] for end in plane.journal("ended") for decision in end["decisions"]]
    lost = sum(record["nanodollars"] for record in settled if record["outcome"] == "aborted")
    paid = sum(record["nanodollars"] for record in settled if record["outcome"] == "complete")
    assert actions.count("hedged") == len(simulator.requests) - 8
    assert 1 <= actions.count("hedged") <= 3
    assert lost <= 0.1 * paid


async def test_no_share_no_call(serve: Serve, simulator: Simulator) -> None:
    """A share of nothing makes no second call."""
    async with hedging(serve, max_extra="0%") as plane:
        await warm(plane, CHAT)
        simulator.reset()
        simulator.fault("no-headers:0.1")
        assert (await plane.chat()).status == 200
    assert len(simulator.requests) == 1


async def test_an_early_failure_is_passed(serve: Serve, simulator: Simulator) -> None:
    """What fails before the second call is due isn't a matter of being slow."""
    async with hedging(serve) as plane:
        await warm(plane, CHAT)
        simulator.reset()
        simulator.fault("rate-limit:7")
        answer = await plane.chat()
        assert (answer.status, answer.header(b"retry-after")) == (429, b"7")
    assert len(simulator.requests) == 1


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ("no-headers:0.4, error-503", "", 200),
        ("no-headers:0.4, error-503", "no-headers:0.4", 200),
        ("no-headers:0.4", "error-503", 200),
        ("no-headers:0.4", "rate-limit:7", 200),
        ("no-headers:0.5, error-503", "rate-limit:7", 503),
        ("no-headers:0.5, rate-limit:7", "error-503", 429),
    ],
)
async def test_failures(serve: Serve, simulator: Simulator, first: str, second: str, status: int) -> None:
    """A failure of one doesn't end the other; if both fail, the client gets the first one's."""
    async with hedging(serve) as plane:
        await warm(plane, CHAT)
        simulator.reset()
        simulator.fault(first, nth=1)
        if second:
            simulator.fault(second, nth=2)
        answer = await plane.chat()
        assert answer.status == status
        assert len(simulator.requests) == 2
        await plane.quiet()


async def test_guards_see_both(serve: Serve, simulator: Simulator) -> None:
    """The second call is admitted by itself; a guard that refuses it leaves the first."""
    asked: list[int] = []
    told: list[str] = []

    async def watch(request: Request, forward: Forward) -> Response:
        async def guard(attempt: Attempt) -> Any:
            asked.append(attempt.number)
            if attempt.number == 2 and request.field("seed") == 1:
                raise WeirError(429, "The budget is used up.", type=RATE_LIMIT, code="budget_exceeded")
            return lambda settled: told.append(settled.outcome)

        request.exchange.guard(guard)
        return await forward(request)

    async with hedging(serve, outer={"watch": watch}) as plane:
        await warm(plane, CHAT)
        for seed, outcomes in ((0, ["complete", "aborted"]), (1, ["complete"])):
            simulator.reset()
            simulator.fault("no-headers:0.5" if seed else "no-headers", nth=1)
            asked.clear()
            told.clear()
            assert (await plane.chat(seed=seed)).status == 200
            assert (asked, told) == ([1, 2], outcomes)
            assert len(simulator.requests) == 2 - seed


async def test_waiting_for_a_guard_is_not_slow(serve: Serve, simulator: Simulator) -> None:
    """A call that waits in a queue isn't with an upstream: a second one would only wait behind it."""

    async def queue(request: Request, forward: Forward) -> Response:
        async def guard(attempt: Attempt) -> None:
            if request.field("seed") == 1:
                await asyncio.sleep(0.3)

        request.exchange.guard(guard)
        return await forward(request)

    async with hedging(serve, outer={"queue": queue}) as plane:
        await warm(plane, CHAT)
        assert (await plane.chat(seed=1)).status == 200
        assert plane.journal("ended")[-1]["attempts"] == 1
        assert plane.journal("ended")[-1]["decisions"] == []
    assert len(simulator.requests) == SAMPLES + 1


async def test_waiting_for_a_retry_is_not_slow(serve: Serve, simulator: Simulator) -> None:
    """While the upstream has asked to be left alone, nobody else asks it."""
    policies = [entry("hedge", **EAGER), entry("retry", backoff="0s")]
    async with serve(policies=policies, registry={"hedge": hedge, "retry": retry}) as plane:
        await warm(plane, CHAT)
        simulator.reset()
        simulator.fault("rate-limit:0.3", nth=1)
        assert (await plane.chat()).status == 200
        actions = [decision["action"] for decision in plane.journal("ended")[-1]["decisions"]]
    assert actions == ["retried"]
    assert len(simulator.requests) == 2


async def test_another_deployment(serve: Serve, simulator: Simulator) -> None:
    """The second call goes where the first didn't."""
    async with Simulator(seed=2) as slow:
        upstreams = {"slow": {"url": slow.url}, "quick": {"url": simulator.url}}
        deployments = [{"upstream": "slow", "weight": 1e6}, {"upstream": "quick"}]
        settings = {"upstreams": upstreams, "models": {"*": {"deployments": deployments}}}
        async with hedging(serve, settings=settings) as plane:
            await warm(plane, CHAT)
            slow.fault("no-headers")
            assert (await plane.chat()).status == 200
            assert [record["deployment"] for record in plane.journal("reserved")[-2:]] == ["slow", "quick"]
        assert len(simulator.requests) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_leaving(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """A client that leaves cancels both calls; nothing goes on."""
    async with hedging(serve) as plane:
        await warm(plane, STREAM if stream else CHAT)
        simulator.reset()
        simulator.fault("no-headers")
        client = await plane.connect()
        await client.send(post("/v1/chat/completions", chat(stream)))
        await simulator.until(lambda state: state.active == 2)
        client.close()
        await simulator.until(lambda state: state.cancelled == 2)
        await plane.quiet()
        assert plane.journal("ended")[-1]["outcome"] == "aborted"
        assert [record["outcome"] for record in plane.journal("settled")[-2:]] == ["aborted", "aborted"]
        assert [task for task in asyncio.all_tasks() if task.get_name() in ("first", "second")] == []


async def test_observing(serve: Serve, simulator: Simulator) -> None:
    """Observed, it calls nothing twice, and says when it would have."""
    async with hedging(serve, mode="observe") as plane:
        await warm(plane, CHAT)
        simulator.reset()
        simulator.fault("no-headers:0.2")
        assert (await plane.chat()).status == 200
        await plane.quiet()
        actions = [decision["action"] for decision in plane.journal("ended")[-1]["decisions"]]
    assert "would_forward_again" in actions
    assert len(simulator.requests) == 1


async def test_what_the_sdk_sees(serve: Serve, simulator: Simulator) -> None:
    """OpenAI's SDK reads one whole answer."""
    words: Any = [{"role": "user", "content": "what is 6*7?"}]
    async with hedging(serve) as plane, AsyncOpenAI(base_url=plane.url, api_key="sk-x", max_retries=0) as client:
        await warm(plane, STREAM)
        plain = text(await plane.chat(stream=True, messages=words))
        simulator.reset()
        simulator.fault("no-headers", nth=1)
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=words, stream=True)
        told = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert told == plain != ""


async def test_the_whole_onion(serve: Serve, simulator: Simulator) -> None:
    """timeout ▸ hedge ▸ fallback ▸ retry: each call of the race is tried again and falls back by itself."""
    policies = [
        entry("timeout", total="5s"),
        entry("hedge", **EAGER),
        entry("fallback", to=["gpt-4o-mini"]),
        entry("retry", attempts=2, backoff="0s"),
    ]
    registry = {"timeout": timeout, "hedge": hedge, "fallback": fallback, "retry": retry}
    async with serve(policies=policies, registry=registry) as plane:
        for _ in range(SAMPLES):
            assert (await plane.chat(model="gpt-4o")).status == 200
        simulator.reset()
        simulator.fault("no-headers", model="gpt-4o", nth=1)
        simulator.fault("error-503", model="gpt-4o")
        answer = await plane.chat(model="gpt-4o")
        assert answer.status == 200
        assert (answer.header(b"x-weir-model") or b"").startswith(b"gpt-4o-mini")
        asked = [record["model"] for record in plane.journal("reserved")[SAMPLES:]]
        await simulator.until(lambda state: state.active == 0)
        await plane.quiet()
    assert asked == ["gpt-4o", "gpt-4o", "gpt-4o", "gpt-4o-mini"]
    assert simulator.invoice().total.requests <= 2


# --- the parts


def request_of(path: str, **fields: Any) -> Request:
    endpoint = endpoint_of("POST", path)
    assert endpoint is not None
    body = scan(orjson.dumps({"model": "m", **fields}), 64)
    return Request(Exchange(Identity("t")), endpoint, "POST", path.encode(), path, [], body, "m")


@pytest.mark.parametrize(
    ("path", "fields", "may"),
    [
        ("/v1/chat/completions", {}, True),
        ("/v1/chat/completions", {"store": True}, False),
        ("/v1/completions", {}, True),
        ("/v1/messages", {}, True),
        ("/v1/embeddings", {}, True),
        ("/v1/moderations", {}, True),
        ("/v1/responses", {}, False),
        ("/v1/responses", {"store": False}, True),
        ("/v1/responses", {"store": False, "background": True}, False),
        ("/v1/responses", {"store": False, "conversation": "conv_1"}, False),
        ("/v1/images/generations", {}, False),
        ("/v1/audio/speech", {}, False),
        ("/v1/batches", {}, False),
    ],
)
def test_safe(path: str, fields: dict[str, Any], may: bool) -> None:
    """Only what makes nothing but an answer, and a cheap one, is sent twice."""
    assert safe(request_of(path, **fields)) is may
    assert hedge.foretell(Config(), request_of(path, **fields)).startswith("calls again after p90") is may


def seen_times(*seconds: float, share: float = 1.0) -> Seen:
    seen = Seen(FadingQuantile(), Spending(share))
    for one in seconds:
        seen.times.add(one)
    return seen


def test_delay() -> None:
    """Nothing before enough samples; then the quantile, but never less than the floor."""
    config = Config(samples=10, at_least=0.05, after=0.5)
    assert delay_s(config, seen_times(*[0.2] * 9)) is None
    assert delay_s(config, seen_times(*[0.2] * 10)) == pytest.approx(0.2, rel=0.05)
    assert delay_s(config, seen_times(*[0.001] * 20)) == 0.05


def test_the_share_goes_to_the_slowest() -> None:
    """Where the share doesn't pay for a second call at the quantile that is asked for, a higher one counts."""
    times = [n / 100 for n in range(1, 101)]
    config = Config(samples=10, after=0.5)
    seen = seen_times(*times, share=0.05)
    for _ in range(1000):
        seen.spending.answered(100)
    assert seen.spending.affordable() == pytest.approx(0.95)
    assert delay_s(config, seen) == pytest.approx(0.95, rel=0.05)
    for _ in range(200):
        seen.spending.gave_up(10, streamed=True)  # cheap ones: more can be paid for
    assert seen.spending.affordable() == pytest.approx(0.6, abs=0.05)


def test_what_is_left_is_kept_for_the_slowest() -> None:
    """The less is left, the slower a call must be; at nothing, half as many are due as could be paid for."""
    spending = Spending(0.1)
    for _ in range(1000):
        spending.answered(100)
    quantiles = []
    while spending.allows():
        quantiles.append(spending.affordable())
        spending.gave_up(100, streamed=True)
    assert len(quantiles) == 100
    assert quantiles == sorted(quantiles)
    assert quantiles[0] == pytest.approx(0.9)
    assert spending.affordable() == pytest.approx(0.95)


@given(
    share=st.floats(0, 1),
    requests=st.lists(st.tuples(st.integers(1, 10**7), st.booleans(), st.floats(0, 1)), max_size=300),
    streamed=st.booleans(),
)
def test_spending(share: float, requests: list[tuple[int, bool, float]], streamed: bool) -> None:
    """As long as a call that was given up costs no more than expected, the extra cost stays below the share."""
    spending, base, extra = Spending(share), 0, 0.0
    for nanodollars, slow, part in requests:
        if slow and spending.allows():
            cost = int(spending.each * part)
            extra += cost
            spending.gave_up(cost, streamed)
        spending.answered(nanodollars)
        base += nanodollars
    assert extra <= share * base + 1e-6


@given(share=st.floats(0, 1), slow=st.lists(st.booleans(), max_size=300))
def test_unpriced(share: float, slow: list[bool]) -> None:
    """Without prices, calls are counted instead."""
    spending, hedged = Spending(share), 0
    for late in slow:
        if late and spending.allows():
            hedged += 1
            spending.gave_up(None, True)
        spending.answered(None)
    assert hedged <= share * len(slow)


def test_running_calls_count() -> None:
    """Second calls that are being made use up the share already."""
    spending = Spending(0.05)
    for _ in range(40):
        spending.answered(100)
    allowed = 0
    while spending.allows():
        spending.running += 1
        allowed += 1
    assert allowed == 2


def test_a_unary_loser_counts_in_full() -> None:
    """A provider may finish an answer in one piece though nobody waits: the budget assumes that it did."""
    spending = Spending(1.0)
    spending.answered(1000)
    spending.gave_up(10, streamed=False)
    assert spending.extra == 1000
    spending.gave_up(10, streamed=True)
    assert spending.extra == 1010


def attempt(outcome: str, nanodollars: int | None = 1) -> Attempt:
    made: Any = Attempt(None, None, 1, "d", "u", "m")  # type: ignore[arg-type]
    made.outcome, made.nanodollars = outcome, nanodollars
    return made


def test_whose_attempts_are_lost() -> None:
    """All but the one that goes on, or was complete first; an unknown price makes the sum unknown."""
    running, done, failed, given_up = attempt(""), attempt("complete"), attempt("failed", 0), attempt("aborted", 7)
    assert lost_of([given_up, running]) == [given_up]
    assert lost_of([failed, done, given_up]) == [failed, given_up]
    assert lost_of([failed, given_up]) == [failed, given_up]
    assert nanodollars_of([failed, given_up]) == 7
    assert nanodollars_of([given_up, attempt("aborted", None)]) is None


@pytest.mark.parametrize(
    "options",
    [{"after": 95}, {"after": "95%"}, {"after": "p0"}, {"after": "p100"}, {"samples": 1}, {"max_extra": "200%"}],
)
def test_options_that_are_none(options: dict[str, Any]) -> None:
    """What can't be meant is an error of the file."""
    with pytest.raises(ValidationError):
        Config.model_validate(options)


@pytest.mark.parametrize(("text", "share"), [("p95", 0.95), ("p99.5", 0.995), ("p50", 0.5), ("p5", 0.05)])
def test_quantiles(text: str, share: float) -> None:
    """Quantiles are written as people say them."""
    assert Config.model_validate({"after": text}).after == pytest.approx(share)
