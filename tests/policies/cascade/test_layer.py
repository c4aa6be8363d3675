"""`cascade` on the wire: who answers, what the client is told, and what it is charged."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from policies import allow, cascade
from policies.cascade.held import Held
from policies.cascade.learning.features import explained, unpacked
from proxy.config.upstreams import Price
from proxy.pricing import RateCards
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.questions import STREAMED, UNARY, Kind, events, text
from tests.plane.running import entry, key, running
from tests.policies.cascade.models import LARGE, SMALL, Models, cascading, certify, layer, message, ticking
from tests.wire.raw import chat, post

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
JSON = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "call-1", "type": "function", "function": {"name": name, "arguments": arguments}}


async def test_until_certified_the_large_model_answers(serve: Serve, models: Models) -> None:
    """The client waits for the large model alone; the small one is asked beside it, and the pair is judged."""
    models.says[SMALL] = "41"
    async with cascading(serve, models) as plane:
        answer = await plane.chat(model=LARGE)
        await plane.quiet()
        (evidence,) = layer(plane).classes
        client, shadow = sorted(plane.journal("ended"), key=lambda record: record["kind"])
    assert answer.json["choices"][0]["message"]["content"] == "42"
    assert (answer.header(b"x-weir-cascade") or b"").startswith(b"large; gathering; p=")
    assert models.models_asked() == [LARGE, SMALL]
    assert (evidence.judged, evidence.examples[0][1]) == (1, 1.0)
    assert (client["attempts"], client["saved_nanodollars"]) == (1, 0)
    assert (shadow["kind"], shadow["started_by"], shadow["tags"]) == ("shadow", "cascade", {"weir": "shadow"})


async def test_certified(serve: Serve, models: Models) -> None:
    """Once proven, the small model answers alone, and what the large one would have cost is claimed."""
    async with cascading(serve, models) as plane:
        await certify(plane)
        models.asked.clear()
        answer = await plane.chat(model=LARGE)
        ended = plane.journal("ended")[-1]
        await plane.quiet()
    assert (answer.header(b"x-weir-cascade") or b"").startswith(b"small; certified; p=")
    assert (answer.header(b"x-weir-model") or b"").startswith(SMALL.encode())
    assert answer.json["choices"][0]["logprobs"] is None
    assert models.models_asked() == [SMALL, LARGE]  # the second one is the shadow
    (saving,) = ended["savings"]
    assert (saving["policy"], saving["model"]) == ("cascade", LARGE)
    assert saving["nanodollars"] == 1000 * (2500 - 150) + (10_000 - 600)  # 2.50 and 10 against 0.15 and 0.60 a million
    assert answer.header(b"x-weir-saved") == b"0.002359400"


async def test_drift(serve: Serve, models: Models) -> None:
    """A small model that becomes worse no longer answers, by itself, and does again once it is good."""
    async with cascading(serve, models) as plane:
        await certify(plane)
        models.says[SMALL] = "41"
        told = b""
        for _ in range(100):
            told = (await plane.chat(model=LARGE)).header(b"x-weir-cascade") or b""
            await plane.quiet()
            if told.startswith(b"large; reverted"):
                break
        assert told.startswith(b"large; reverted")
        assert ("warning", "cascade_reverted") in [(level, event) for level, event, _ in plane.logged]
        models.says[SMALL] = "42"
        await certify(plane)
        assert ((await plane.chat(model=LARGE)).header(b"x-weir-cascade") or b"").startswith(b"small; certified")
        await plane.quiet()


STOPPED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "empty": (message(""), {}),
    "cut_off": (message("It is", end="length"), {}),
    "filtered": (message("It is", end="content_filter"), {}),
    "refusal": (message("I'm sorry, but I can't help with that."), {}),
    "not_json": (message("The number is 3."), {"response_format": JSON}),
    "schema": (message('{"n": "three"}'), {"response_format": JSON}),
    "no_tool": (message("I would look."), {"tools": [TOOL]}),
    "wrong_tool": (message(calls=[call("see", '{"n": 3}')]), {"tools": [TOOL]}),
    "arguments": (message(calls=[call("look", '{"m": 3}')]), {"tools": [TOOL]}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_gates(serve: Serve, models: Models, stream: bool) -> None:
    """What fails a gate never reaches the client: the large model answers, and the small call counts against it."""
    async with cascading(serve, models, until_certified="small", shadow_rate="0%", streaming="buffer") as plane:
        for gate, (says, fields) in STOPPED.items():
            if stream and "calls" in says:
                continue
            models.says[SMALL] = says
            answer = await plane.chat(model=LARGE, stream=stream, **fields)
            ended = plane.journal("ended")[-1]
            assert (text(answer) if stream else answer.json["choices"][0]["message"]["content"]) == "42", gate
            assert ended["decisions"][0]["action"] == "escalated"
            assert ended["decisions"][0]["numbers"]["reason"] == gate
            assert ended["saved_nanodollars"] < 0
            assert models.models_asked()[-2:] == [SMALL, LARGE]
            assert (answer.header(b"x-weir-cascade") or b"").startswith(b"large; gathering")


async def test_what_passes(serve: Serve, models: Models) -> None:
    """Right JSON, right calls, and texts that answer the result of a tool are given."""
    turns = [{"role": "user", "content": "Look."}, {"role": "tool", "tool_call_id": "call-1", "content": "3"}]
    passing: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (message('{"n": 3}'), {"response_format": JSON}),
        (message(calls=[call("look", '{"n": 3}')]), {"tools": [TOOL]}),
        (message("It is 3."), {"tools": [TOOL], "messages": turns}),
        (message("It is 3."), {"tools": [TOOL], "tool_choice": "none"}),
        (message("It is 3."), {"n": 2}),
    ]
    async with cascading(serve, models, until_certified="small", shadow_rate="0%") as plane:
        for says, fields in passing:
            models.says[SMALL] = says
            answer = await plane.chat(model=LARGE, **fields)
            assert (answer.header(b"x-weir-cascade") or b"").startswith(b"small; gathering"), fields
            assert models.models_asked()[-1] == SMALL


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_small_model_fails(serve: Serve, models: Models, stream: bool) -> None:
    """A failure of the small model is nobody's business: the large one answers."""
    async with cascading(serve, models, until_certified="small", shadow_rate="0%") as plane:
        for models.says[SMALL] in (500, 429, 404):
            answer = await plane.chat(model=LARGE, stream=stream)
            assert answer.status == 200
            assert plane.journal("ended")[-1]["decisions"][0]["action"] == "escalated"


async def test_large_model_fails_once(serve: Serve, models: Models) -> None:
    """Where both fail, the client gets the large model's failure, which was asked once."""
    models.says.update({SMALL: message("", end="length"), LARGE: 503})
    async with cascading(serve, models, until_certified="small", shadow_rate="0%") as plane:
        for stream in (False, True):
            assert (await plane.chat(model=LARGE, stream=stream)).status == 503
    assert models.models_asked() == [SMALL, LARGE] * 2


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_both_at_once(serve: Serve, models: Models, stream: bool) -> None:
    """Where waiting is dear, the large model is started beside the small one; what isn't needed is given up."""
    ways: dict[str, Any] = {"until_certified": "small", "shadow_rate": "100%", "second_worth": "1000000 USD"}
    async with cascading(serve, models, streaming="buffer", **ways) as plane:
        ticking(plane)
        models.says[SMALL] = message("", end="length")
        await plane.chat(model=LARGE, stream=stream)
        await plane.quiet()
        await layer(plane).classes.flush()
        models.asked.clear()
        escalated = await plane.chat(model=LARGE, stream=stream)
        await plane.quiet()
        assert sorted(models.models_asked()) == [LARGE, SMALL]  # the pair is complete
        models.says[SMALL] = "42"
        given = await plane.chat(model=LARGE, stream=stream)
        ended = [record for record in plane.journal("ended") if record["kind"] == "client"]
        await plane.quiet()
    assert [each["decisions"][0]["action"] for each in ended] == ["escalated", "both", "both"]
    assert (escalated.header(b"x-weir-cascade") or b"").startswith(b"large")
    assert (given.header(b"x-weir-cascade") or b"").startswith(b"small")
    assert (given.header(b"x-weir-model") or b"").startswith(SMALL.encode())


@pytest.mark.parametrize(("cached", "stays"), [(1.25, False), (0.1, True)])
async def test_warm_conversations(models: Models, cards: RateCards, tmp_path: Path, cached: float, stays: bool) -> None:
    """A conversation that was escalated stays with the large model where its cache is cheaper than the small model."""
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "?"},
    ]
    priced = cards.overridden({LARGE: [Price(cached_input=Decimal(str(cached)))]})
    options = {"rungs": [SMALL, LARGE], "max_quality_loss": "2 points", "judge": {"equality": "exact"}}
    policies = [entry("cascade", options={**options, "until_certified": "small", "shadow_rate": "0%"})]
    async with running(models.url, tmp_path, policies, {"cascade": cascade}, cards=priced) as plane:
        models.says[SMALL] = message("", end="length")
        await plane.chat(model=LARGE, messages=turns[:1])
        models.says[SMALL] = "42"
        answer = await plane.chat(model=LARGE, messages=turns)
        other = await plane.chat(model=LARGE, messages=[{"role": "user", "content": "Another"}])
    assert (answer.header(b"x-weir-policies") == b"cascade=stayed") is stays
    assert other.header(b"x-weir-policies") == b"cascade=small"


async def test_logprobs_refused(serve: Serve, models: Models) -> None:
    """A small model that can't say how sure it is is asked without, from the second request on at once."""
    models.says[SMALL] = lambda request: 400 if "logprobs" in request else "42"
    async with cascading(serve, models, until_certified="small", shadow_rate="0%") as plane:
        for _ in range(2):
            answer = await plane.chat(model=LARGE)
            assert (answer.header(b"x-weir-cascade") or b"").startswith(b"small")
    assert ["logprobs" in request for request in models.asked] == [True, False, False]


async def test_own_logprobs(serve: Serve, models: Models) -> None:
    """A client that asks for probabilities gets them."""
    async with cascading(serve, models, until_certified="small", shadow_rate="0%") as plane:
        answer = await plane.chat(model=LARGE, logprobs=True)
    assert answer.json["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.01


async def test_never_a_model_that_is_not_allowed(serve: Serve, models: Models) -> None:
    """A key's own list and the `allow` layers outside hold for both rungs; nothing is asked of the other one."""
    keys = [key("sk-a", "a", models=(LARGE,)), key("sk-b", "b", models=("smart", LARGE)), key("sk-c", "c", team="ml")]
    denied = entry("allow", 1, name="no-minis", match={"team": "ml"}, deny_models=("*-mini",))
    settings = {"keys": keys, "registry": {"allow": allow}}
    options: dict[str, Any] = {"until_certified": "small", "outside": [denied], "settings": settings}
    async with cascading(serve, models, answers_for=[LARGE, "smart"], **options) as plane:
        for secret, model in (("sk-a", LARGE), ("sk-b", "smart"), ("sk-c", LARGE)):
            answer = await plane.chat(f"authorization: Bearer {secret}", model=model)
            assert answer.status == 200
            assert plane.journal("ended")[-1]["decisions"][0]["numbers"]["reason"] == "model_not_allowed"
        await plane.quiet()
    assert models.models_asked() == [LARGE] * 3


async def test_what_is_allowed_may_change(serve: Serve, models: Models) -> None:
    """A reload that changes an `allow` further out holds at once, though the cascade itself stays as it was."""
    settings = {"registry": {"allow": allow}}
    outer = entry("allow", 1, models=["*"])
    async with cascading(serve, models, until_certified="small", outside=[outer], settings=settings) as plane:
        before, own = layer(plane), plane.plane.state.chain.built[-1].entry
        denied = entry("allow", 1, models=["*"], deny_models=("*-mini",))
        await plane.plane.reconfigure(plane.remake([denied, own]), [], None)
        assert (await plane.chat(model=LARGE)).status == 200
        assert layer(plane) is before
        assert plane.journal("ended")[-1]["decisions"][0]["numbers"]["reason"] == "model_not_allowed"


async def test_others_pass(serve: Serve, models: Models) -> None:
    """Other models and endpoints, and answers that are stored upstream, are left alone."""
    async with cascading(serve, models, until_certified="small") as plane:
        assert (await plane.chat(model="gpt-4.1")).header(b"x-weir-cascade") is None
        assert (await plane.chat(model=LARGE, store=True)).header(b"x-weir-cascade") is None
        assert (await plane.post("/v1/completions", {"model": LARGE, "prompt": "Hi"})).status
        assert (await plane.post("/v1/responses", {"model": LARGE, "input": "Hi", "previous_response_id": "r"})).status
    assert models.models_asked() == ["gpt-4.1", LARGE, LARGE, LARGE]


LONG = " ".join(f"word{number}" for number in range(200))


async def test_prefix(serve: Serve, models: Models) -> None:
    """The beginning of a stream is looked at; then it goes on as it comes, whole and without what wasn't asked for."""
    models.says.update({SMALL: LONG, LARGE: LONG})
    async with cascading(serve, models, until_certified="small", prefix_tokens=8) as plane:
        answer = await plane.chat(model=LARGE, stream=True)
        ended = plane.journal("ended")
        await plane.quiet()
        (evidence,) = layer(plane).classes
    assert text(answer) == LONG
    assert answer.body.count(b"[DONE]") == 1
    assert b'"logprob"' not in answer.body
    assert (answer.header(b"x-weir-cascade") or b"").startswith(b"small; gathering")
    assert ended[0]["saved_nanodollars"] > 0
    assert (evidence.name, evidence.judged) == ("prefix", 1)


async def test_prefix_refuses(serve: Serve, models: Models) -> None:
    """A beginning that refuses is given up: the client reads the large model's stream, and nothing else."""
    models.says.update({SMALL: "I'm sorry, but I can't help with that. " + LONG, LARGE: LONG})
    async with cascading(serve, models, until_certified="small", shadow_rate="0%", prefix_tokens=8) as plane:
        answer = await plane.chat(model=LARGE, stream=True)
    assert text(answer) == LONG
    assert (answer.header(b"x-weir-cascade") or b"").startswith(b"large")


async def test_prefix_by_time(serve: Serve, models: Models) -> None:
    """A beginning that takes too long is decided by what has come: the client reads it before the rest is there."""
    models.says.update({SMALL: LONG, LARGE: LONG})
    pause = models.pauses[SMALL] = asyncio.Event()
    options = {"until_certified": "small", "shadow_rate": "0%", "prefix_time": "1ms"}
    async with cascading(serve, models, **options) as plane, await plane.connect() as client:
        await client.send(post("/v1/chat/completions", chat(True, model=LARGE)))
        seen = await client.read_until(b"word0")
        pause.set()
        seen += await client.read_until(b"[DONE]")
    assert b"x-weir-cascade: small; gathering" in seen
    assert b"word199" in seen


async def test_shadows_at_their_pace(serve: Serve, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the background, too, what had come in time is what the score is made of; compared is all of it."""
    models.says.update({SMALL: LONG, LARGE: LONG})
    pause, until = models.pauses.setdefault(SMALL, asyncio.Event()), Held.until

    async def watched(held: Held, enough: Callable[[], bool], within_s: float | None = None) -> bool:
        try:
            return await until(held, enough, within_s)
        finally:
            pause.set()

    monkeypatch.setattr(Held, "until", watched)
    async with cascading(serve, models, prefix_time="1ms") as plane:
        await plane.chat(model=LARGE, stream=True)
        await plane.quiet()
        (evidence,) = layer(plane).classes
    ((packed, loss, _),) = evidence.examples
    assert explained(unpacked(packed))["answer_length"] == pytest.approx(math.log1p(len("word0")))
    assert loss == 0.0


async def test_streaming_by_request(serve: Serve, models: Models) -> None:
    """A request may say how its stream is held back; what it asks for decides otherwise."""
    async with cascading(serve, models) as plane:
        ways: list[tuple[list[str], dict[str, Any]]] = [
            (["x-weir-cascade-streaming: route"], {}),
            (["x-weir-cascade-streaming: buffer"], {}),
            ([], {"response_format": {"type": "json_object"}}),
            ([], {}),
        ]
        for lines, fields in ways:
            await plane.chat(*lines, model=LARGE, stream=True, **fields)
            await plane.quiet()
        assert sorted(each.name for each in layer(plane).classes) == ["prefix", "route", "whole"]
    assert all("x-weir" not in str(orjson.dumps(request)) for request in models.asked)


async def test_observe(serve: Serve, models: Models) -> None:
    """Observed, the client gets what it asked for, and pairs are gathered all the same."""
    async with cascading(serve, models, mode="observe") as plane:
        asked = await certify(plane)
        answer = await plane.chat(model=LARGE)
        await plane.quiet()
        (evidence,) = layer(plane).classes
        report = evidence.report()
    assert answer.header(b"x-weir-cascade") is None
    assert (answer.header(b"x-weir-model") or b"").startswith(LARGE.encode())
    assert models.models_asked().count(LARGE) == asked + 1
    assert (report["status"], report["requests"]) == ("certified", 0)


LADDERS = {False: ("gpt-4o-mini", "gpt-4o"), True: ("claude-3-5-haiku", "claude-sonnet-4-5")}


@pytest.mark.parametrize("streaming", ["buffer", "prefix"])
@pytest.mark.parametrize("kind", [kind for kind in (*UNARY, *STREAMED) if kind.name != "embeddings"], ids=str)
async def test_dialects(serve: Serve, simulator: Simulator, kind: Kind, streaming: str) -> None:
    """What the client gets is the small model's answer, as it is, and both answers are understood."""
    small, large = LADDERS[kind.anthropic]
    options: dict[str, Any] = {"rungs": [small, large], "max_quality_loss": "2 points", "judge": {"equality": "exact"}}
    options |= {"shadow_rate": "100%", "until_certified": "small", "streaming": streaming}
    policies = [entry("cascade", **options)]
    async with serve(policies=policies, registry={"cascade": cascade}) as plane:
        answer = await plane.post(kind.path, {**kind.fields, "model": large})
        await plane.quiet()
        client = plane.journal("ended")[0]
        asked = [record["model"] for record in plane.journal("reserved")]
        (evidence,) = layer(plane).classes
        plain = await plane.post(kind.path, {**kind.fields, "model": small})
    assert (answer.status, answer.header(b"x-weir-cascade") is not None) == (200, True)
    assert asked == [small, large]
    assert evidence.judged == 1
    assert client["saved_nanodollars"] > 0
    assert answer.header(b"content-type") == plain.header(b"content-type")
    assert len(events(answer)) == len(events(plain))
    assert kind.done in answer.body
