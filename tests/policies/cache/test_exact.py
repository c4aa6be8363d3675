"""The exact tier on the wire: what hits, what doesn't, and that a client can't tell a hit from an answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from openai import AsyncOpenAI

from policies import cache
from policies.cache.tiers import Eviction, evict
from proxy.chain import Services
from proxy.simulator import Simulator
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.plane.questions import ALL, STREAMED, WORDS, Kind, events
from tests.plane.running import Plane, entry, key
from tests.wire.raw import Answer

SAMPLED: dict[str, Any] = {"exact": {"sampled": True}}


class Wall:
    """Unix time that stands still."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def timed(wall: Wall) -> Any:
    """The policy, with a clock of ours."""

    def build(config: cache.Config, services: Services) -> cache.CachePolicy:
        return cache.CachePolicy(config, services, wall)

    return SimpleNamespace(Config=cache.Config, build=build, STORE=True)


def asked(kind: Kind, **fields: Any) -> dict[str, Any]:
    return {**kind.fields, **({"store": False} if "responses" in kind.name else {}), **fields}


def hit(answer: Answer) -> str:
    return (answer.header(b"x-weir-cache") or b"-").decode()


@pytest.mark.parametrize("kind", ALL, ids=str)
async def test_the_second_is_a_hit(serve: Serve, simulator: Simulator, kind: Kind) -> None:
    """Every understood endpoint, streamed and not: one upstream call, the same words, another id, a saving."""
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        first = await plane.post(kind.path, asked(kind))
        await plane.quiet()
        second = await plane.post(kind.path, asked(kind))
        assert (first.status, second.status) == (200, 200)
        assert (hit(first), hit(second)) == ("miss", "hit")
        assert simulator.state.requests == 1
        assert said(kind, second) == said(kind, first)
        if kind.name != "embeddings":
            assert identifier(kind, second) != identifier(kind, first)
        cost = plane.journal("settled")[0]["nanodollars"]
        ended = plane.journal("ended")[1]
        assert cost > 0
        assert (ended["attempts"], ended["nanodollars"], ended["saved_nanodollars"]) == (0, 0, cost)
        assert ended["savings"][0]["policy"] == "cache"
        assert second.header(b"x-weir-saved") == b"%d.%09d" % divmod(cost, 10**9)


def said(kind: Kind, answer: Answer) -> Any:
    """All that an answer tells, but for its id and time of making."""
    told = [orjson.loads(event) for event in events(answer) if event != b"[DONE]"] if kind.streamed else [answer.json]
    if kind.name == "chat-stream":
        return "".join(c["delta"].get("content") or "" for piece in told for c in piece["choices"])
    if kind.name == "messages-stream":
        return "".join(piece["delta"].get("text", "") for piece in told if piece["type"] == "content_block_delta")
    last = told[-1].get("response", told[-1])
    return {name: value for name, value in last.items() if name not in ("id", "created", "created_at")}


def identifier(kind: Kind, answer: Answer) -> str:
    if not kind.streamed:
        return str(answer.json["id"])
    first = orjson.loads(events(answer)[0])
    return str((first.get("response") or first.get("message") or first)["id"])


@pytest.mark.parametrize("kind", STREAMED, ids=str)
async def test_one_answer_in_either_form(serve: Serve, simulator: Simulator, kind: Kind) -> None:
    """What was streamed is given whole, and what came whole is given as a stream, by the same words."""
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        streamed = await plane.post(kind.path, asked(kind))
        await plane.quiet()
        whole = await plane.post(kind.path, asked(kind, stream=False))
        again = await plane.post(kind.path, asked(kind))
        assert (hit(whole), hit(again)) == ("hit", "hit")
        assert simulator.state.requests == 1
        unary = await plane.post(kind.path, asked(kind, stream=False), "cache-control: no-cache")
        assert hit(unary) == "miss"
        same = [
            {k: v for k, v in told.json.items() if k not in ("id", "created", "created_at")} for told in (whole, unary)
        ]
        assert set(same[0]) == set(same[1])
        assert said(kind, again) == said(kind, streamed)
        assert whole.json["usage"] == unary.json["usage"]


async def test_an_sdk_cannot_tell(serve: Serve, simulator: Simulator) -> None:
    """OpenAI's SDK reads a hit as it reads an answer: choices, tool calls, logprobs, usage."""
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
    asks: list[dict[str, Any]] = [
        {"n": 2, "logprobs": True, "top_logprobs": 2},
        {"tools": [tool], "tool_choice": "required"},
        {},
    ]
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        client = AsyncOpenAI(base_url=plane.url, api_key="sk-x", max_retries=0)
        for fields in asks:
            fields |= {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What of the river?"}]}
            first = await client.chat.completions.create(**fields)
            await plane.quiet()
            second = await client.chat.completions.create(**fields)
            assert second.choices == first.choices
            assert second.usage == first.usage
            assert second.id != first.id
            async with client.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
                final = await stream.get_final_completion()
            assert [choice.finish_reason for choice in final.choices] == [c.finish_reason for c in first.choices]
            assert [choice.logprobs for choice in final.choices] == [c.logprobs for c in first.choices]
            assert [choice.message.content for choice in final.choices] == [c.message.content for c in first.choices]
            assert [calls(choice) for choice in final.choices] == [calls(choice) for choice in first.choices]
            assert final.usage == first.usage
        assert simulator.state.requests == len(asks)
        await client.close()


def calls(choice: Any) -> list[tuple[str, str, str]]:
    return [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]


async def test_never_across_tenants_or_users(serve: Serve, simulator: Simulator) -> None:
    """Another key, another end user, another tenant: each asks for itself; sharing is what the policy says."""
    keys = [key("wk-a", "a", team="x"), key("wk-b", "b", team="x"), key("wk-c", "c", team="y")]

    async def asks(plane: Plane) -> list[str]:
        seen = []
        for who, user in (("wk-a", "u1"), ("wk-a", "u2"), ("wk-b", "u1"), ("wk-c", "u1"), ("wk-a", "u1")):
            seen.append(hit(await plane.chat(f"authorization: Bearer {who}", user=user)))
            await plane.quiet()
        return seen

    expected = {
        "user": ["miss", "miss", "miss", "miss", "hit"],
        "key": ["miss", "hit", "miss", "miss", "hit"],
        "tenant": ["miss", "hit", "hit", "miss", "hit"],
    }
    for share, wanted in expected.items():
        async with serve(policies=[entry("cache", exact={"sampled": True, "share": share})], keys=keys) as plane:
            assert await asks(plane) == wanted, share


async def test_sampled_requests_ask_for_themselves(serve: Serve, simulator: Simulator) -> None:
    """Unless the policy says otherwise only temperature 0 is kept: an omitted one is 1."""
    async with serve(policies=[entry("cache")]) as plane:
        for temperature, wanted in ((None, "-"), (1, "-"), (0.2, "-"), (0, "miss"), (0, "hit"), (0.0, "hit")):
            fields: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
            assert hit(await plane.chat(**fields)) == wanted
            await plane.quiet()
        assert {d["numbers"].get("reason") for e in plane.journal("ended") for d in e["decisions"]} == {None, "sampled"}


async def test_cache_control(serve: Serve, simulator: Simulator) -> None:
    """no-store, no-cache, max-age and only-if-cached, as RFC 9111 says; not where the policy doesn't honour them."""
    wall = Wall()
    registry = {"cache": timed(wall)}
    async with serve(policies=[entry("cache", **SAMPLED)], registry=registry) as plane:

        async def ask(control: str) -> str:
            answer = await plane.chat(f"cache-control: {control}")
            await plane.quiet()
            return hit(answer) if answer.status == 200 else str(answer.status)

        assert [await ask("only-if-cached"), await ask("no-store"), await ask("only-if-cached")] == [
            "504",
            "miss",
            "504",
        ]
        assert [await ask("max-age=60"), await ask("max-age=60")] == ["miss", "hit"]
        wall.now += 61
        assert [await ask("max-age=60"), await ask("max-age=61, min-fresh=5")] == ["miss", "hit"]
        assert [await ask("no-cache"), await ask("")] == ["miss", "hit"]
    deaf = entry("cache", exact={"sampled": True, "honour_cache_control": False})
    async with serve(policies=[deaf]) as plane:
        await plane.chat("cache-control: no-store")
        await plane.quiet()
        assert hit(await plane.chat("cache-control: no-cache")) == "hit"


async def test_ages(serve: Serve, simulator: Simulator) -> None:
    """Fresh for its time; then given stale while one renewal runs; then gone."""
    wall = Wall()
    policy = entry("cache", exact={"sampled": True, "ttl": "1h", "stale_while_revalidate": "10m"})
    async with serve(policies=[policy], registry={"cache": timed(wall)}) as plane:
        seen = []
        for forward in (0, 3599, 300, 1, 4201):
            wall.now += forward
            answer = await plane.chat()
            seen.append((hit(answer), answer.header(b"age")))
            await plane.quiet()
        assert seen == [("miss", None), ("hit", b"3599"), ("stale", b"3899"), ("hit", b"1"), ("miss", None)]
        assert simulator.state.requests == 3
        renewal = [ended for ended in plane.journal("ended") if ended["kind"] == "revalidation"]
        assert [told["started_by"] for told in renewal] == ["cache"]


async def test_an_overloaded_worker_renews_nothing(serve: Serve, simulator: Simulator) -> None:
    """Stale answers are still given; asking anew waits until there is room."""
    wall = Wall()
    policy = entry("cache", exact={"sampled": True, "ttl": "1h", "stale_while_revalidate": "10m"})
    async with serve(policies=[policy], registry={"cache": timed(wall)}, overload={"exchanges": 5}) as plane:
        gate = plane.plane.gate
        await plane.chat()
        await plane.quiet()
        wall.now += 3700
        assert all(gate.enters(0) for _ in range(4))
        assert hit(await plane.chat()) == "stale"
        await plane.quiet()
        assert simulator.state.requests == 1
        gate.leave(0), gate.leave(0)
        assert hit(await plane.chat()) == "stale"
        await plane.quiet()
        assert simulator.state.requests == 2


BROKEN = (
    *("rate-limit:1", "bad-request", "error-500", "error-503", "first-event-error", "mid-error", "eof-no-done", "rst"),
    *("cut-chunk", "malformed-event", "no-last-blank", "html-200", "empty-200", "truncated-json", "wrong-length"),
    *("unknown-encoding", "no-usage", "negative-usage", "redirect", "header-crlf", "reset-after-request", "huge-usage"),
)
HARMLESS = ("crlf", "several-data-lines", "gzip", "joined", "split-every", "after-done", "set-cookie", "chunked")


@pytest.mark.parametrize("stream", [False, True])
async def test_failures_are_not_kept(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """Whatever goes wrong with an answer, the next one asks anew; however oddly a whole one is framed, it is kept."""
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        for number, fault in enumerate((*BROKEN, *HARMLESS)):
            first = await plane.chat(fault=fault, stream=stream, seed=number)
            await plane.quiet()
            ended = plane.journal("settled")[-1]
            whole = first.status == 200 and (ended["outcome"], ended["known"]) == ("complete", "observed")
            again = await plane.chat(stream=stream, seed=number)
            assert (again.status, hit(again)) == (200, "hit" if whole else "miss"), fault
            assert whole or fault not in HARMLESS
            await plane.quiet()


async def test_two_workers_share(serve: Serve, simulator: Simulator) -> None:
    """What one worker keeps another finds; what is evicted is forgotten by both; without the Store each has its own."""
    store = MemoryStore()
    policies = [entry("cache", exact={"sampled": True, "tags": ["feature"]})]
    async with serve(policies=policies, store=store) as one, serve(policies=policies, store=store) as two:
        first = await one.chat("x-weir-tags: feature=help")
        assert hit(first) == "miss"
        while not await store.keys("cache/"):  # kept after it has left
            await one.quiet()
        answer = await two.chat()
        assert hit(answer) == "hit"
        found = (answer.header(b"x-weir-cache-entry") or b"").decode()
        assert await store.keys("cache/") == [f"cache/{found}"]
        assert await evict(store, Eviction(tag="feature=help")) == 1
        assert await store.keys("cache/") == []
        for plane in (one, two):
            while hit(await plane.chat("cache-control: only-if-cached")) == "hit":
                await plane.quiet()
            assert (await plane.chat("cache-control: only-if-cached")).status == 504


async def test_stateful_requests_pass_by(serve: Serve, simulator: Simulator) -> None:
    """Stored, chained or background responses, and tools that the provider runs, are asked anew each time."""
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        base = {"model": "gpt-4o-mini", "input": "hi"}
        for fields in ({}, {"store": True}, {"store": False, "tools": [{"type": "web_search"}]}):
            for _ in range(2):
                answer = await plane.post("/v1/responses", {**base, **fields})
                assert (answer.status, hit(answer)) == (200, "-"), fields
                await plane.quiet()


async def test_repeated_requests_are_known_again(serve: Serve, simulator: Simulator) -> None:
    """A body that hit isn't read again for its key; asked by another key, model, version or user it is another."""
    keys = [key("wk-a", "a", org="x"), key("wk-b", "b", org="x"), key("wk-c", "c", org="y")]
    policy = entry("cache", exact={"sampled": True, "share": "tenant", "vary": ["x-variant"]})
    async with serve(policies=[policy], keys=keys) as plane:

        async def ask(who: str, *lines: str, path: str = "/v1/chat/completions") -> str:
            answer = await plane.post(path, {"model": "m", "messages": WORDS}, f"authorization: Bearer {who}", *lines)
            await plane.quiet()
            assert answer.status == 200
            return hit(answer)

        assert [await ask("wk-a") for _ in range(4)] == ["miss", "hit", "hit", "hit"]
        assert len(plane.plane.bodies) == 1
        assert [await ask("wk-c") for _ in range(3)] == ["miss", "hit", "hit"]
        assert [await ask("wk-b") for _ in range(2)] == ["hit", "hit"]
        for lines in (["anthropic-beta: 1"], ["x-variant: 1"], ["x-variant: 2"]):
            assert [await ask("wk-a", *lines) for _ in range(3)] == ["miss", "hit", "hit"]
        versioned = "/v1/chat/completions?api-version=2"
        assert [await ask("wk-a", path=versioned) for _ in range(3)] == ["miss", "hit", "hit"]
        assert await ask("wk-a", "cache-control: no-cache") == "miss"
        assert await ask("wk-a") == "hit"
        assert len(plane.plane.bodies) == 3


async def test_a_closed_policy_gives_its_memory_back(serve: Serve, simulator: Simulator) -> None:
    """After a reload without it no body is remembered."""
    async with serve(policies=[entry("cache", **SAMPLED)]) as plane:
        for _ in range(2):
            await plane.chat()
            await plane.quiet()
        assert len(plane.plane.bodies) == 1
        await plane.plane.reconfigure(plane.remake(policies=[]), [], None)
        await plane.quiet()
        assert len(plane.plane.bodies) == 0 and plane.plane.bodies.limit_bytes == 0
