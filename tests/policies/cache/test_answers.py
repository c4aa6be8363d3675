"""What is kept and given, on the wire: the odd answers, the odd requests, and the policies around."""

from __future__ import annotations

import asyncio
import base64
import gzip
import random
from typing import Any

import orjson
import pytest

from policies import budget, cache, headers
from proxy.simulator import Simulator
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry, key
from tests.policies.cache.scripted import USAGE, chat, scripted
from tests.policies.cache.test_exact import SAMPLED, hit
from tests.wire.raw import Answer, post
from tests.wire.raw import chat as chat_text

REGISTRY = {"cache": cache, "budget": budget, "headers": headers}


async def twice(plane: Plane, *lines: str, path: str = "/v1/chat/completions", **fields: Any) -> tuple[Answer, Answer]:
    """The same request, and again when all is quiet."""
    fields = {"model": "gpt-4o-mini", **fields}
    if path.endswith("completions"):
        fields.setdefault("messages", [{"role": "user", "content": "Hi"}])
    first = await plane.post(path, fields, *lines)
    await plane.quiet()
    second = await plane.post(path, fields, *lines)
    await plane.quiet()
    return first, second


SAID: list[tuple[str, Any, bool]] = [
    ("whole", chat("stop"), True),
    ("filtered", chat("content_filter"), False),
    ("refused", chat("stop", refusal="No."), False),
    ("no choice", chat(), False),
    ("no end", chat(None), False),
    ("length, with the client's cap", chat("length"), True),
    ("no usage", {k: v for k, v in chat("stop").items() if k != "usage"}, False),
    ("absurd usage", {**chat("stop"), "usage": {**USAGE, "prompt_tokens": -5}}, False),
    ("another form", {"object": "chat.completion", "choices": {"0": "Hi"}, "usage": USAGE}, False),
    ("no id", {k: v for k, v in chat("stop").items() if k not in ("id", "created")}, True),
    ("odd id", {**chat("stop"), "id": 7, "created": "now"}, True),
    ("unicode", chat("stop", content='naïve 河 " \\ \n\u2028 {"id":"chatcmpl-2"}'), True),
]


@pytest.mark.parametrize(("what", "says", "kept"), SAID, ids=[one[0] for one in SAID])
async def test_odd_answers(serve: Serve, what: str, says: Any, kept: bool) -> None:
    """Each is passed on as it is; the next one asks anew unless it was whole, and gets the same words if it was."""
    async with scripted() as upstream, serve(url=upstream.url, policies=[entry("cache", **SAMPLED)]) as plane:
        upstream.says = says
        first, second = await twice(plane, max_tokens=10)
        assert (first.status, second.status, first.json) == (200, 200, says)
        assert (hit(second), len(upstream.asked)) == (("hit", 1) if kept else ("miss", 2))
        own = ("id", "created")
        told = {name: value for name, value in second.json.items() if name not in own}
        assert told == {name: value for name, value in says.items() if name not in own}
        assert set(second.json) == set(says)


async def test_an_answer_that_cannot_be_streamed(serve: Serve) -> None:
    """One that is nested deeper than anybody writes is given whole; whoever wants a stream asks for it anew."""
    async with scripted() as upstream, serve(url=upstream.url, policies=[entry("cache", **SAMPLED)]) as plane:
        upstream.says = orjson.dumps(chat("stop"))[:-1] + b',"x":' + b"[" * 300 + b"]" * 300 + b"}"
        first, second = await twice(plane)
        assert (hit(second), second.json["x"]) == ("hit", first.json["x"])
        await plane.chat(stream=True, messages=[{"role": "user", "content": "Hi"}])
        assert len(upstream.asked) == 2


async def test_refusals_by_policy(serve: Serve) -> None:
    """A refusal is kept where the policy says so."""
    policy = entry("cache", exact={"sampled": True, "refusals": True})
    async with scripted() as upstream, serve(url=upstream.url, policies=[policy]) as plane:
        upstream.says = chat("stop", refusal="No.")
        assert [hit(answer) for answer in await twice(plane)] == ["miss", "hit"]


async def test_models_without_a_price(serve: Serve, simulator: Simulator) -> None:
    """A model of one's own is cached like any other; what that saved isn't known, and isn't 0."""
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        first, second = await twice(plane, model="house-model")
        assert (first.header(b"x-weir-cost"), hit(second)) == (b"unpriced", "hit")
        assert second.header(b"x-weir-saved") == b"unpriced"
        assert second.header(b"x-weir-cost") == b"0.000000000"
        assert plane.journal("ended")[1]["savings"] == []


async def test_what_a_hit_says(serve: Serve, simulator: Simulator) -> None:
    """Its headers, once each: cost, saving, model, age, status, entry and a request id, as the SDKs look for it."""
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        first, second = await twice(plane)
        names = [name for name, _ in second.headers]
        assert len(names) == len(set(names))
        assert second.header(b"x-weir-cost") == b"0.000000000"
        assert second.header(b"x-weir-saved") == first.header(b"x-weir-cost")
        assert second.header(b"x-weir-model") == first.header(b"x-weir-model")
        assert second.header(b"x-request-id") == second.header(b"x-weir-exchange")
        assert second.header(b"content-type") == first.header(b"content-type")
        assert first.header(b"cache-status") == b"weir; fwd=miss"
        assert (second.header(b"cache-status") or b"").startswith(b"weir; hit; ttl=86")
        assert len(second.header(b"x-weir-cache-entry") or b"") == 32
        told = plane.journal("ended")[1]["decisions"]
        assert [(d["action"], d["numbers"]) for d in told] == [
            ("hit", {"key": (second.header(b"x-weir-cache-entry") or b"").decode()})
        ]


async def test_speech_and_moderation(serve: Serve, simulator: Simulator) -> None:
    """Answers that aren't text, or tell no usage, are kept as they came."""
    async with serve(policies=[entry("cache")]) as plane:
        for path, fields in (
            ("/v1/audio/speech", {"model": "tts-1", "input": "the river", "voice": "alloy"}),
            ("/v1/moderations", {"model": "omni-moderation-latest", "input": "the river"}),
        ):
            first, second = await twice(plane, path=path, **fields)
            assert (first.status, hit(second), second.header(b"content-type")) == (
                200,
                "hit",
                first.header(b"content-type"),
            ), path
            if path == "/v1/audio/speech":
                assert second.body == first.body


async def test_compressed_requests(serve: Serve, simulator: Simulator) -> None:
    """A request is what it says, however it was packed."""
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        await plane.chat()
        await plane.quiet()
        packed = gzip.compress(chat_text())
        answer = await plane.send(post("/v1/chat/completions", packed, "content-encoding: gzip"))
        assert hit(answer) == "hit"


async def test_other_methods(serve: Serve, simulator: Simulator) -> None:
    """Only what is POSTed is looked up: a GET or HEAD of the same path is another endpoint."""
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        await plane.chat()
        await plane.quiet()
        for method in ("GET", "HEAD"):
            answer = await plane.get("/v1/chat/completions", method=method)
            assert hit(answer) == "-"
        assert hit(await plane.get("/v1/models")) == "-"


async def test_very_large_answers(serve: Serve) -> None:
    """Up to `max_entry` they are kept, though they were relayed in pieces."""
    policy = entry("cache", memory="64MiB", exact={"sampled": True, "max_entry": "8MiB"})
    store = MemoryStore()
    async with scripted() as upstream, serve(url=upstream.url, policies=[policy], store=store) as plane:
        for megabytes, kept in ((3, "hit"), (6, "hit"), (9, "miss")):
            noise = (
                "".join(chr(33 + (i * i * 31 + i // 7) % 90) for i in range(1 << 16)).replace('"', "").replace("\\", "")
            )
            upstream.says = chat("stop", content=noise * (megabytes * 2**20 // len(noise)))
            first, second = await twice(plane, seed=megabytes)
            assert hit(second) == kept, megabytes
            assert second.json["choices"] == first.json["choices"]
        assert plane.metrics.snapshot()["events"] == {}
        assert not [event for level, event, _ in plane.logged if level == "error"]


async def test_larger_than_the_state_takes(serve: Serve) -> None:
    """An answer that doesn't pack into 4 MiB stays in one worker's memory, which is counted and fails nothing."""
    policy = entry("cache", exact={"sampled": True, "max_entry": "8MiB"})
    store = MemoryStore()
    async with scripted() as upstream, serve(url=upstream.url, policies=[policy], store=store) as plane:
        noise = base64.b64encode(random.Random(1).randbytes(5 * 2**20)).decode()
        upstream.says = chat("stop", content=noise)
        _, second = await twice(plane)
        assert hit(second) == "hit"
        assert await store.keys("cache/") == []
        assert plane.metrics.snapshot()["events"] == {"cache_entry_too_large": 1}
        assert not [event for level, event, _ in plane.logged if level == "error"]


async def test_observing_changes_nothing(serve: Serve, simulator: Simulator) -> None:
    """`mode: observe` tells what would have hit, calls the upstream all the same, and claims no saving."""
    async with serve(policies=[entry("cache", mode="observe", **SAMPLED)]) as plane:
        first, second = await twice(plane)
        assert simulator.state.requests == 2
        assert (hit(first), hit(second)) == ("-", "-")
        told = plane.journal("ended")
        assert [[d["action"] for d in ended["decisions"]] for ended in told] == [["would_miss"], ["would_hit"]]
        assert told[1]["decisions"][0]["numbers"]["nanodollars"] == told[0]["nanodollars"]
        assert [(ended["savings"], ended["saved_nanodollars"]) for ended in told] == [([], 0)] * 2
        assert second.header(b"x-weir-saved") is None
        only = await plane.chat("cache-control: only-if-cached", seed=9)
        assert only.status == 200


async def test_bypass_and_holdout(serve: Serve, simulator: Simulator) -> None:
    """Who bypasses, is held out, or comes while the kill switch is on gets nothing from it, and leaves nothing."""
    async with serve(policies=[entry("cache", **SAMPLED)], bypass=("cache",)) as plane:
        first, second = await twice(plane, "x-weir-bypass: cache")
        assert (hit(first), hit(second)) == ("-", "-")
        assert [hit(answer) for answer in await twice(plane)] == ["miss", "hit"]
        plane.plane.bypass = True
        assert hit((await twice(plane))[1]) == "-"
        plane.plane.bypass = False
        assert hit((await twice(plane))[0]) == "hit"
    async with serve(policies=[entry("cache", holdout=1.0, **SAMPLED)]) as plane:
        assert [hit(answer) for answer in await twice(plane)] == ["-", "-"]


async def test_an_answer_that_a_budget_shortened(serve: Serve, simulator: Simulator) -> None:
    """It isn't the answer to the request: the next one asks anew, and what it gets whole is kept."""
    limit = {"limit": "0.00012 USD/rolling 1h", "shrink": True, "least_output": 16, "max_wait": "1s"}
    policies = [entry("budget", **limit), entry("cache", 2, **SAMPLED)]
    async with serve(policies=policies, registry=REGISTRY, store=MemoryStore()) as plane:
        first, second = await twice(plane, "x-sim-tokens: 300", max_tokens=400)
        assert first.json["choices"][0]["finish_reason"] == "length"
        assert first.json["usage"]["completion_tokens"] < 300
        assert hit(second) != "hit"


async def test_edits_of_other_policies(serve: Serve, simulator: Simulator) -> None:
    """Inside, what a policy sends is its own matter; outside, what it adds is added to hits too."""
    outer = entry("headers", 1, name="outer", response={"add": {"x-served-by": "outer"}})
    inner = entry(
        "headers", 3, name="inner", request={"add": {"openai-beta": "x"}}, response={"add": {"x-by": "inner"}}
    )
    policies = [outer, entry("cache", 2, **SAMPLED), inner]
    async with serve(policies=policies, registry=REGISTRY) as plane:
        first, second = await twice(plane)
        assert (hit(first), hit(second)) == ("miss", "hit")
        assert (first.header(b"x-served-by"), second.header(b"x-served-by")) == (b"outer", b"outer")
        assert (first.header(b"x-by"), second.header(b"x-by")) == (b"inner", None)
    versions = [entry("headers", 1, request={"add": {"openai-beta": "x"}}), entry("cache", 2, **SAMPLED)]
    store = MemoryStore()
    async with serve(policies=versions, registry=REGISTRY, store=store) as plane:
        assert [hit(answer) for answer in await twice(plane)] == ["miss", "hit"]
    async with serve(policies=versions[1:], registry=REGISTRY, store=store) as plane:
        assert hit((await twice(plane))[0]) == "miss"


async def test_hits_cost_no_budget(serve: Serve, simulator: Simulator) -> None:
    """A budget that is used up still lets hits through, since they cost nothing."""
    policies = [entry("budget", limit="1 requests/day"), entry("cache", 2, **SAMPLED)]
    async with serve(policies=policies, registry=REGISTRY, store=MemoryStore(), keys=[key("wk-a")]) as plane:
        bearer = "authorization: Bearer wk-a"
        first, second = await twice(plane, bearer)
        other = (await twice(plane, bearer, seed=1))[0]
        assert (first.status, hit(second), other.status) == (200, "hit", 429)


async def test_a_shorter_life_counts_at_once(serve: Serve, simulator: Simulator) -> None:
    """What the file says now, not what it said when an answer was kept."""
    store = MemoryStore()
    async with serve(policies=[entry("cache", **SAMPLED)], store=store) as plane:
        await twice(plane)
    async with serve(policies=[entry("cache", exact={"sampled": True, "ttl": "0s"})], store=store) as plane:
        assert hit((await twice(plane))[0]) == "miss"


async def test_many_at_once(serve: Serve, simulator: Simulator) -> None:
    """A hundred at a time: each gets its own words, and all but the first of each are hits."""
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        words = {seed: (await plane.chat(seed=seed)).json["choices"] for seed in range(10)}
        await plane.quiet()
        answers = await asyncio.gather(*[plane.chat(seed=number % 10) for number in range(100)])
        assert {hit(answer) for answer in answers} == {"hit"}
        assert [answer.json["choices"] for answer in answers] == [words[number % 10] for number in range(100)]
        assert len({answer.json["id"] for answer in answers}) == 100
