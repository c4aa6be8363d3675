"""`timeout`: which limits hold for a request, and what its client gets when one runs out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIError, APIStatusError, AsyncOpenAI
from pydantic import ValidationError

from policies import fallback, timeout
from policies.timeout import Config, Rules, Times, ran_out
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.questions import ALL, STREAMED, UNARY, in_band_error
from tests.plane.questions import Kind as Question
from tests.plane.running import Plane, entry

LONG = {"total_s": 30, "stream_idle_s": 30}


@asynccontextmanager
async def limited(serve: Serve, **options: Any) -> AsyncIterator[Plane]:
    """A data plane with this policy before generous limits of its own; `settings` are of the data plane."""
    settings = {"timeouts": LONG, **options.pop("settings", {})}
    async with serve(policies=[entry("timeout", 3, **options)], registry={"timeout": timeout}, **settings) as plane:
        yield plane


async def ask(plane: Plane, question: Question, fault: str) -> Any:
    return await plane.post(question.path, question.fields, fault=fault)


@pytest.mark.parametrize("question", ALL, ids=str)
async def test_row_13_total(serve: Serve, simulator: Simulator, question: Question) -> None:
    """Row 13: no answer in the time for all: 504 that says which limit it was, maybe billed, the upstream cancelled."""
    async with limited(serve, total="150ms") as plane:
        answer = await ask(plane, question, "no-headers")
        assert (answer.status, answer.whole) == (504, True)
        assert answer.header(b"x-should-retry") == b"false"
        assert "total time limit" in answer.json["error"]["message"]
        assert answer.header(b"x-weir-policies") == b"timeout=ran_out"
        settled = plane.settled()
        assert plane.ended()["decisions"][0]["numbers"] == {"limit": "total"}
        await simulator.until(lambda state: state.active == 0)
    assert (settled["outcome"], settled["known"]) == ("failed", "unknown")
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("question", STREAMED, ids=str)
@pytest.mark.parametrize("fault", ["no-headers", "heartbeat:100:0.02"])
async def test_first_event(serve: Serve, simulator: Simulator, question: Question, fault: str) -> None:
    """A stream without its first event: 504, though comments may have come; one that keeps the time isn't touched."""
    async with limited(serve, ttft="150ms") as plane:
        answer = await ask(plane, question, fault)
        assert (answer.status, answer.header(b"x-should-retry")) == (504, b"false")
        assert "no first event" in answer.json["error"]["message"]
        assert plane.ended()["decisions"][0]["numbers"] == {"limit": "ttft"}
        assert plane.settled()["known"] == "unknown"
        await simulator.until(lambda state: state.active == 0)
        slow_after_it = await ask(plane, question, "stall:3:0.3")
        assert question.done.removeprefix(b"data: ") in slow_after_it.body


@pytest.mark.parametrize("question", UNARY, ids=str)
async def test_unary_first_byte_is_total(serve: Serve, question: Question) -> None:
    """An answer in one piece has no first event: only `total` holds for it."""
    async with limited(serve, ttft="50ms", idle="50ms") as plane:
        answer = await ask(plane, question, "no-headers:0.2")
        assert answer.status == 200
        assert plane.settled()["known"] == "observed"


@pytest.mark.parametrize("question", STREAMED, ids=str)
@pytest.mark.parametrize("fault", ["stall", "half-open:3"])
async def test_rows_20_22_idle(serve: Serve, question: Question, fault: str) -> None:
    """Rows 20, 22: silence in mid-stream ends it with an error event; what came is settled as partial."""
    async with limited(serve, idle="120ms") as plane:
        answer = await ask(plane, question, fault)
        assert (answer.status, answer.whole) == (200, True)
        assert in_band_error(answer)["message"]
        assert question.done.removeprefix(b"data: ") not in answer.body
        assert plane.settled()["outcome"] == "partial"
        assert plane.ended()["decisions"][0]["numbers"] == {"limit": "idle"}


@pytest.mark.parametrize("question", STREAMED, ids=str)
async def test_row_20_heartbeats_are_life(serve: Serve, question: Question) -> None:
    """Row 20: comments of the upstream's keep a silent stream alive."""
    async with limited(serve, idle="150ms") as plane:
        answer = await ask(plane, question, "heartbeat:20:0.03")
        assert question.done.removeprefix(b"data: ") in answer.body


@pytest.mark.parametrize("question", STREAMED, ids=str)
async def test_row_21_one_byte_at_a_time(serve: Serve, question: Question) -> None:
    """Row 21: bytes that keep coming don't outlast the time for all."""
    async with limited(serve, total="400ms") as plane:
        answer = await ask(plane, question, "drip:0.001")
        error = in_band_error(answer) if answer.status == 200 else answer.json["error"]
        assert "total time limit" in error["message"]
        assert plane.ended()["decisions"][0]["numbers"] == {"limit": "total"}


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_longer_than_the_deployment_file(serve: Serve, stream: bool) -> None:
    """The limits stand in for the deployment file's, also where they are longer."""
    settings = {"timeouts": {"total_s": 0.15, "stream_idle_s": 0.1}}
    async with limited(serve, total="20s", idle="10s", settings=settings) as plane:
        answer = await plane.chat(stream=stream, fault="stall:3:0.3" if stream else "no-headers:0.3")
        assert (answer.status, b"upstream_timeout" in answer.body) == (200, False)


@pytest.mark.parametrize(("policy", "header", "status"), [("20s", "150ms", 504), ("150ms", "20s", 504)])
async def test_the_requests_own_deadline(serve: Serve, policy: str, header: str, status: int) -> None:
    """The client's deadline holds besides; the earlier one counts."""
    async with limited(serve, total=policy) as plane:
        answer = await plane.chat(f"x-weir-deadline: {header}", fault="no-headers")
        assert (answer.status, answer.error["code"]) == (status, "upstream_timeout")


async def test_matching(serve: Serve) -> None:
    """Several entries, each for its requests: the others keep what the deployment file says."""
    policies = [
        entry("timeout", 1, name="streams", match={"stream": True}, ttft="100ms"),
        entry("timeout", 2, name="small", match={"model": "gpt-4o-mini"}, total="100ms"),
    ]
    async with serve(policies=policies, registry={"timeout": timeout}) as plane:
        assert (await plane.chat(model="gpt-4o", fault="no-headers:0.2")).status == 200
        assert (await plane.chat(fault="no-headers:0.2")).status == 504
        slow = await plane.chat(model="gpt-4o", stream=True, fault="no-headers:0.2")
        assert (slow.status, slow.header(b"x-weir-policies")) == (504, b"streams=ran_out")


async def test_a_late_first_event_leads_on(serve: Serve, simulator: Simulator) -> None:
    """The time to the first event is that of each call: where a double bill is accepted, another model answers."""
    simulator.fault("no-headers", model="gpt-4o")
    policies = [entry("timeout", ttft="100ms"), entry("fallback", to=["gpt-4o-mini"], double_bill=True)]
    async with serve(policies=policies, registry={"timeout": timeout, "fallback": fallback}) as plane:
        answer = await plane.chat(model="gpt-4o", stream=True)
        assert answer.status == 200
        assert (answer.header(b"x-weir-model") or b"").startswith(b"gpt-4o-mini")
        assert [record["known"] for record in plane.journal("settled")] == ["unknown", "observed"]


async def test_after_a_heartbeat(serve: Serve) -> None:
    """A comment of ours has committed the status: what runs out then is told in the stream."""
    async with limited(serve, total="200ms", settings={"heartbeat_s": 0.05}) as plane:
        answer = await plane.chat(stream=True, fault="no-headers")
        assert answer.status == 200
        assert in_band_error(answer)["code"] == "upstream_timeout"


async def test_observing(serve: Serve) -> None:
    """Observed, it limits nothing."""
    async with limited(serve, total="50ms", mode="observe") as plane:
        assert (await plane.chat(fault="no-headers:0.2")).status == 200
        await plane.quiet()


async def test_what_the_sdk_sees(serve: Serve, simulator: Simulator) -> None:
    """OpenAI's SDK asks once: a 504 it doesn't retry, and in mid-stream an error."""
    words: Any = [{"role": "user", "content": "what is 6*7?"}]
    async with limited(serve, total="150ms") as plane, AsyncOpenAI(base_url=plane.url, api_key="sk-x") as client:
        simulator.fault("no-headers", stream=False)
        with pytest.raises(APIStatusError) as raised:
            await client.chat.completions.create(model="gpt-4o-mini", messages=words)
        assert raised.value.status_code == 504
        simulator.fault("stall:3", stream=True)
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=words, stream=True)
        with pytest.raises(APIError):
            _ = [chunk async for chunk in stream]
    assert len(simulator.requests) == 2


# --- the rules

CONFIG = {
    "total": "60s",
    "ttft": "5s",
    "idle": "20s",
    "flex": {"total": "15m"},
    "reasoning": {"total": "20m", "ttft": "5m"},
}
USUAL, FLEX, REASONING = Times(60, 5, 20), Times(900, 5, 20), Times(1200, 300, 20)


@pytest.mark.parametrize(
    ("model", "fields", "times"),
    [
        ("gpt-4o", {}, USUAL),
        (None, {}, USUAL),
        ("gpt-4o", {"service_tier": "flex"}, FLEX),
        ("gpt-4o", {"service_tier": "priority"}, USUAL),
        ("o3", {"service_tier": "flex"}, FLEX),
        ("o3-mini", {}, REASONING),
        ("gpt-5.1", {}, REASONING),
        ("deepseek-reasoner", {}, REASONING),
        ("gpt-4o", {"reasoning_effort": "low"}, REASONING),
        ("gpt-4o", {"reasoning_effort": "none"}, USUAL),
        ("gpt-4o", {"reasoning": {"effort": "high"}}, REASONING),
        ("gpt-4o", {"reasoning": {"effort": "none"}}, USUAL),
        ("claude-sonnet-4-5", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, REASONING),
        ("claude-sonnet-4-5", {"thinking": {"type": "disabled"}}, USUAL),
    ],
)
def test_classes(model: str | None, fields: dict[str, Any], times: Times) -> None:
    """Flex by its tier, reasoning by the model or a field; what a class leaves out is as for the others."""
    assert Rules(Config.model_validate(CONFIG)).times(model, fields.get) == times


def test_models_that_reason() -> None:
    """Which models reason can be said."""
    rules = Rules(Config.model_validate({**CONFIG, "reasoning_models": "house-*"}))
    assert rules.class_of("house-70b", {}.get) == "reasoning"
    assert rules.class_of("o3", {}.get) == "usual"


@given(st.floats(0, 100), st.floats(0, 100), st.booleans(), st.booleans())
def test_which_ran_out(now_s: float, deadline_s: float, streamed: bool, began: bool) -> None:
    """The deadline before all; then what a stream waited for."""
    what = ran_out(now_s, deadline_s, streamed, began)
    assert (what == "total") is (now_s >= deadline_s or not (streamed or began))
    assert what != "idle" or began


@pytest.mark.parametrize("options", [{"total": "0s"}, {"ttft": "soon"}, {"flex": {"max": "1m"}}, {"first": "1s"}])
def test_options_that_are_none(options: dict[str, Any]) -> None:
    """What can't be meant is an error of the file."""
    with pytest.raises(ValidationError):
        Config.model_validate(options)


@pytest.mark.parametrize(
    ("fields", "of"),
    [
        ({"model": "gpt-4o-mini"}, "total_s"),
        ({"model": "o4-mini", "service_tier": "flex"}, "flex_s"),
        ({"model": "o4-mini"}, "reasoning_s"),
        ({"model": "gpt-4o-mini", "reasoning_effort": "low"}, "reasoning_s"),
        ({"model": "gpt-4o-mini", "reasoning": {"effort": "none"}}, "total_s"),
    ],
    ids=["usual", "flex", "a model that thinks", "asked to think", "asked not to"],
)
@pytest.mark.parametrize("one_upstream", [False, True], ids=["for all", "for one upstream"])
async def test_the_deployment_file_limits_by_class(
    serve: Serve, fields: dict[str, Any], of: str, one_upstream: bool
) -> None:
    """Without any policy: what runs out is the limit of the request's class, and no other's."""
    classes = ("total_s", "flex_s", "reasoning_s")
    short = {name: 0.15 if name == of else 30 for name in classes}
    settings: dict[str, Any] = {"timeouts": short}
    if one_upstream:
        settings = {"timeouts": dict.fromkeys(classes, 30), "upstream": {"timeouts": short}}
    async with serve(**settings) as plane:
        answer = await plane.chat(fault="no-headers", **fields)
        assert (answer.status, answer.json["error"]["code"]) == (504, "upstream_timeout")
        assert plane.settled()["error"] == "upstream_timeout"


async def test_a_class_of_its_own_may_take_longer(serve: Serve) -> None:
    """A model that thinks isn't cut at the limit of the others; without a limit of its own it is."""
    for reasoning_s, status in ((30, 200), (None, 504)):
        async with serve(timeouts={"total_s": 0.2, "reasoning_s": reasoning_s}) as plane:
            assert (await plane.chat("x-sim-ttft-ms: 500", model="o4-mini")).status == status
