"""`route` on the wire: where requests go, what they are told, what is claimed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI

from policies import allow, fallback, route
from policies.route.layer import Route
from proxy.simulator import Simulator
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry, key
from tests.wire.raw import chat, post

ASKED, MINI, LONG = "gpt-4o", "gpt-4o-mini", "gpt-4.1"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
GERMAN = [{"role": "user", "content": "Wie kann ich mein Passwort zurücksetzen?"}]


@asynccontextmanager
async def routing(
    serve: Serve, before: tuple[Any, ...] = (), settings: Any = None, **options: Any
) -> AsyncIterator[Plane]:
    """A data plane with this policy, behind those before it."""
    policies = [*before, entry("route", 3, **options)]
    registry = {"route": route, "allow": allow, "fallback": fallback}
    async with serve(policies=policies, registry=registry, **(settings or {})) as plane:
        yield plane


def layer(plane: Plane) -> Route:
    found = plane.plane.state.chain.built[-1].policy
    assert isinstance(found, Route)
    return found


def models_asked(plane: Plane) -> list[str]:
    return [record["model"] for record in plane.journal("reserved")]


async def test_by_rule(serve: Serve) -> None:
    """The first rule that holds decides; a request that meets none goes where it was asked to."""
    rules = [
        {"match": {"language": "de"}, "to": MINI},
        {"match": {"tokens": "> 1k"}, "to": LONG},
        {"match": {"tag": "tier=free", "tools": False}, "to": "gpt-4.1-nano"},
        {"match": {"model": "o4*"}, "unless": {"stream": True}, "to": "gpt-4.1-mini"},
    ]
    async with routing(serve, rules=rules) as plane:
        german = await plane.chat(model=ASKED, messages=GERMAN)
        await plane.chat(model=ASKED, messages=[{"role": "user", "content": "How many words? " * 400}])
        await plane.chat("x-weir-tags: tier=free", model=ASKED)
        await plane.chat("x-weir-tags: tier=free", model=ASKED, tools=[TOOL])
        await plane.chat(model="o4-mini")
        await plane.chat(model="o4-mini", stream=True)
        assert models_asked(plane) == [MINI, LONG, "gpt-4.1-nano", ASKED, "gpt-4.1-mini", "o4-mini"]
        first, *_, passed = plane.journal("ended")
    assert (german.header(b"x-weir-model") or b"").startswith(MINI.encode())
    assert german.header(b"x-weir-route") == b"gpt-4o-mini; rule=1; order"
    assert german.header(b"x-weir-policies") == b"route=routed"
    decision = first["decisions"][0]
    assert (decision["action"], decision["source"]) == ("routed", "policies.yaml:3")
    assert decision["numbers"]["asked"] == ASKED
    assert passed["decisions"] == []


async def test_what_it_saved(serve: Serve) -> None:
    """The counterfactual is the asked model with the same tokens; a dearer model is a saving below nothing."""
    async with routing(serve, rules=[{"match": {"model": ASKED}, "to": MINI}, {"to": ASKED}]) as plane:
        cheaper = await plane.chat(model=ASKED)
        dearer = await plane.chat(model=MINI)
        (less, more) = [record["savings"][0] for record in plane.journal("ended")]
        paid = [record["nanodollars"] for record in plane.journal("settled")]
        tokens = [record["tokens"] for record in plane.journal("settled")]
    assert (less["policy"], less["model"], less["known"]) == ("route", ASKED, "modelled")
    assert less["tokens"] == tokens[0]
    # gpt-4o costs 2.50 and 10.00 dollars a million tokens, gpt-4o-mini 0.15 and 0.60.
    assert less["nanodollars"] == tokens[0]["input_tokens"] * 2500 + tokens[0]["output_tokens"] * 10_000 - paid[0]
    assert more["nanodollars"] == tokens[1]["input_tokens"] * 150 + tokens[1]["output_tokens"] * 600 - paid[1]
    assert float(cheaper.header(b"x-weir-saved") or 0) == less["nanodollars"] / 1e9 > 0
    assert float(dearer.header(b"x-weir-saved") or 0) == more["nanodollars"] / 1e9 < 0


async def test_only_models_that_the_client_may_use(serve: Serve) -> None:
    """Neither the key's list nor an `allow` further out or further in is got round."""
    keys = [key("wk-few", models=(ASKED, "gpt-4.1*"))]
    outer = entry("allow", 1, deny_models=["gpt-4.1-nano"])
    options = {"to": [MINI, "gpt-4.1-nano", LONG], "prefer": "cost"}
    async with routing(serve, (outer,), {"keys": keys}, **options) as plane:
        answer = await plane.send(post("/v1/chat/completions", chat(model=ASKED), "authorization: Bearer wk-few"))
        assert (answer.status, models_asked(plane)) == (200, [LONG])
        passed = plane.ended()["decisions"][0]["numbers"]["passed_over"]
    assert passed == {MINI: "model_not_allowed", "gpt-4.1-nano": "model_not_allowed"}


async def test_what_is_allowed_may_change(serve: Serve) -> None:
    """A reload that changes an `allow` further out holds at once, though the route itself stays as it was."""
    policies = [entry("allow", 1, models=["*"]), entry("route", 2, to=[MINI, LONG])]
    async with serve(policies=policies, registry={"route": route, "allow": allow}) as plane:
        await plane.chat(model=ASKED)
        before, fewer = layer(plane), entry("allow", 1, models=["*"], deny_models=[MINI])
        await plane.plane.reconfigure(plane.remake([fewer, policies[1]]), [], None)
        await plane.chat(model=ASKED)
        assert (layer(plane) is before, models_asked(plane)) == (True, [MINI, LONG])


async def test_layers_further_in_may_refuse(serve: Serve) -> None:
    """What is refused further in is passed over, and leaves no saving; if all are, the asked model answers."""
    policies = [entry("route", 1, to=[MINI, LONG]), entry("allow", 2, deny_models=[MINI])]
    async with serve(policies=policies, registry={"route": route, "allow": allow}) as plane:
        await plane.chat(model=ASKED)
        assert models_asked(plane) == [LONG]
        decisions = [(d["policy"], d["action"]) for d in plane.ended()["decisions"]]
    assert decisions == [("route", "routed")]
    policies = [entry("route", 1, to=MINI), entry("allow", 2, deny_models=[MINI])]
    async with serve(policies=policies, registry={"route": route, "allow": allow}) as plane:
        await plane.chat(model=ASKED)
        last = plane.journal("ended")[-1]["decisions"][0]
        assert models_asked(plane)[-1] == ASKED
    assert (last["action"], last["numbers"]["passed_over"]) == ("none_fits", {MINI: "model_not_allowed"})


NEEDS: list[tuple[str, dict[str, Any]]] = [
    ("tools", {"tools": [TOOL]}),
    (
        "vision",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}]},
    ),
    ("json", {"response_format": {"type": "json_object"}}),
]


@pytest.mark.parametrize(("feature", "fields"), NEEDS, ids=[name for name, _ in NEEDS])
async def test_what_a_request_needs(serve: Serve, feature: str, fields: dict[str, Any]) -> None:
    """A model that lacks what the request needs doesn't get it; any other request it does."""
    async with routing(serve, to=[{"model": MINI, "lacks": feature}, LONG]) as plane:
        await plane.chat(model=ASKED, **fields)
        await plane.chat(model=ASKED)
        assert models_asked(plane) == [LONG, MINI]
        numbers = plane.journal("ended")[0]["decisions"][0]["numbers"]
    assert numbers["passed_over"] == {MINI: f"lacks_{feature}"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"to": [{"model": MINI, "context": "1k"}, LONG]}, "context"),
        ({"to": [MINI, LONG], "min_context": "500k"}, "min_context"),
        ({"to": ["o4-mini", MINI], "max_usd": 0.0007}, "max_usd"),
        ({"to": ["nobody-knows", MINI], "max_usd": 1}, "unpriced"),
    ],
)
async def test_constraints(serve: Serve, options: dict[str, Any], why: str) -> None:
    """Room, price: what doesn't fit is passed over, and `weir why` says for which reason."""
    async with routing(serve, **options) as plane:
        await plane.chat(model=ASKED, max_tokens=1200)
        numbers = plane.ended()["decisions"][0]["numbers"]
    first, second = [each if isinstance(each, str) else each["model"] for each in options["to"]]
    assert numbers["passed_over"] == {first: why}
    assert numbers["model"] == second


async def test_observed_latency(serve: Serve) -> None:
    """The quicker of late is preferred, what is slower than allowed isn't chosen, and answers teach."""
    async with routing(serve, to=[MINI, LONG], prefer="latency", sticky="off", max_latency="30s") as plane:
        seen, now = layer(plane)._observed, asyncio.get_running_loop().time()
        seen.of(MINI, False).latency.add(20.0, now)
        seen.of(LONG, False).latency.add(10.0, now)
        await plane.chat(model=ASKED)
        assert (models_asked(plane), seen.of(LONG, False).in_flight) == ([LONG], 0)
        assert seen.of(LONG, False).latency.estimate_s(now + 60, idle=False) < 10.0
        seen.of(LONG, False).latency.add(45.0, asyncio.get_running_loop().time())
        await plane.chat(model=ASKED)
        assert models_asked(plane) == [LONG, MINI]
        assert plane.journal("ended")[1]["decisions"][0]["numbers"]["passed_over"] == {LONG: "max_latency"}


async def test_what_cannot_be_called_is_passed_over(serve: Serve, simulator: Simulator) -> None:
    """A model whose deployments are all broken isn't chosen, as long as another one fits."""
    models = {name: {"deployments": [{"upstream": "up", "model": name}]} for name in (ASKED, MINI)}
    async with routing(serve, settings={"models": models}, to=[MINI, "asked"]) as plane:
        simulator.fault("error-503", model=MINI)
        for _ in range(30):
            await plane.chat(model=ASKED)
        numbers = plane.journal("ended")[-1]["decisions"][0]["numbers"]
    assert (numbers["model"], numbers["passed_over"]) == (ASKED, {MINI: "unavailable"})


LONG_TEXT = "Remember this list of words: " + "apple pear plum cherry grape melon lemon peach " * 260


def turns(count: int) -> list[dict[str, str]]:
    """A conversation with so many turns of the user, whose beginning is worth caching."""
    said = [{"role": "user", "content": LONG_TEXT}]
    for number in range(count - 1):
        said += [{"role": "assistant", "content": f"Answer {number}."}, {"role": "user", "content": f"And {number}?"}]
    return said


async def test_conversations_stay(serve: Serve) -> None:
    """A conversation stays where it began, though another one is quicker by now; a new one doesn't."""
    async with routing(serve, to=[MINI, LONG], prefer="latency") as plane:
        seen, loop = layer(plane)._observed, asyncio.get_running_loop()
        seen.of(MINI, False).latency.add(1.0, loop.time())
        seen.of(LONG, False).latency.add(2.0, loop.time())
        await plane.chat(model=ASKED, messages=turns(1))
        seen.of(MINI, False).latency.add(50.0, loop.time())
        stayed = await plane.chat(model=ASKED, messages=turns(2))
        await plane.chat(model=ASKED, messages=[{"role": "user", "content": "Something else"}])
        await plane.chat("x-weir-conversation: c1", model=ASKED)
        seen.of(LONG, False).latency.add(55.0, loop.time())
        await plane.chat("x-weir-conversation: c1", model=ASKED)
        assert models_asked(plane) == [MINI, MINI, LONG, LONG, LONG]
        decision = plane.journal("ended")[1]["decisions"][0]
    assert stayed.header(b"x-weir-route") == b"gpt-4o-mini; rule=1; conversation"
    assert (decision["action"], decision["numbers"]["warm_tokens"] > 1024) == ("stayed", True)


@pytest.mark.parametrize(("within", "model", "why"), [(1, "o4-mini", "cost"), (4, "gpt-4.1-mini", "switch")])
async def test_a_switch_pays_for_the_lost_cache(serve: Serve, within: int, model: str, why: str) -> None:
    """What is dearer but warm goes on, unless the cheaper model pays for its cold cache within the turns it is given.

    A million tokens cost 1.10 and cached 0.275 dollars at o4-mini, 0.40 and 0.10 at gpt-4.1-mini.
    """
    dear = {"match": {"tag": "turn=first"}, "to": "o4-mini"}
    options: dict[str, Any] = {
        "rules": [dear],
        "to": ["o4-mini", "gpt-4.1-mini"],
        "prefer": "cost",
        "pays_within": within,
    }
    async with routing(serve, **options) as plane:
        await plane.chat("x-weir-tags: turn=first", model=ASKED, messages=turns(1), max_completion_tokens=16)
        await plane.chat(model=ASKED, messages=turns(2), max_completion_tokens=16)
        assert models_asked(plane) == ["o4-mini", model]
        decision = plane.journal("ended")[1]["decisions"][0]
    assert decision["numbers"]["why"] == why
    if why == "switch":  # 0.30 dollars a million tokens that were warm
        assert decision["action"] == "switched"
        assert decision["numbers"]["lost_nanodollars"] == pytest.approx(300 * 2350, rel=0.2)


async def test_other_workers_know_where_a_conversation_is(serve: Serve) -> None:
    """The next turn may come to another worker: it asks the Store, once."""
    store = MemoryStore()
    settings = {"store": store, "workers": 2}
    async with routing(serve, settings=settings, to=[MINI, LONG], prefer="latency") as plane:
        await plane.chat(model=ASKED, messages=turns(1))
        await plane.quiet()
        assert models_asked(plane) == [MINI]
    async with routing(serve, settings=settings, to=[LONG, MINI], prefer="latency") as plane:
        await plane.chat(model=ASKED, messages=turns(2))
        assert models_asked(plane)[-1] == MINI


async def test_what_passes_by(serve: Serve) -> None:
    """Embeddings never change their model, nor do requests about what is kept upstream."""
    async with routing(serve, to=MINI) as plane:
        await plane.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": "a"})
        await plane.post("/v1/responses", {"model": ASKED, "input": "a", "previous_response_id": "resp_1"})
        assert models_asked(plane)[:2] == ["text-embedding-3-small", ASKED]


@pytest.mark.parametrize("stream", [False, True])
async def test_sdk(serve: Serve, stream: bool) -> None:
    """A client sees an answer of the chosen model, whole or streamed."""
    async with routing(serve, to=MINI) as plane, AsyncOpenAI(base_url=plane.url, api_key="sk-c") as client:
        messages: Any = [{"role": "user", "content": "Say something."}]
        if stream:
            served = [
                chunk.model
                async for chunk in await client.chat.completions.create(model=ASKED, messages=messages, stream=True)
            ]
        else:
            served = [(await client.chat.completions.create(model=ASKED, messages=messages)).model]
    assert {model.startswith(MINI) for model in served} == {True}


async def test_observing(serve: Serve) -> None:
    """It says where it would have sent the request, and sends it where it was asked to."""
    async with routing(serve, to=MINI, mode="observe") as plane:
        answer = await plane.chat(model=ASKED)
        await plane.quiet()
        assert models_asked(plane) == [ASKED]
        (record,) = plane.journal("ended")
    assert (record["savings"], answer.header(b"x-weir-route")) == ([], None)
    assert "would_use_model" in [decision["action"] for decision in record["decisions"]]
