"""The semantic tier on the wire: when it answers, what a client sees, what it never does."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from policies.cache.tiers import Eviction, evict
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry, key
from tests.policies.cache.semantic.upstream import Scripted, scripted
from tests.policies.test_coalesce import until
from tests.wire.raw import Answer

TOPICS = {
    "reset my password": "Open the settings, choose security, and press reset.",
    "close my account": "Write to the support desk; closing takes three days.",
    "find my invoice": "Invoices lie under billing, sorted by month.",
    "change the delivery address": "Edit the address before the parcel leaves us.",
    "talk to a person": "Call the hotline between nine and five.",
    "upgrade the plan": "Choose another plan in the subscription page.",
}
FRAMES = (
    "How do I {}?",
    "how can I {}",
    "I want to {}",
    "please help me to {}",
    "What must I do to {}?",
    "can you {} for me",
    "I need to {} today",
    "is there a way to {}?",
    "tell me how to {}",
    "hello, I would like to {}",
)
EXACT: dict[str, Any] = {"sampled": True}


def answer(text: str) -> str:
    """The same for all ways of asking for a topic."""
    return next((said for topic, said in TOPICS.items() if topic in text), f"I don't know about: {text}")


def policy(**semantic: Any) -> Any:
    return entry("cache", exact=EXACT, semantic={"max_error": 0.05, **semantic})


def questions(count: int, seed: int = 1) -> list[str]:
    """A shuffled stream of topics, each asked in many ways and with some words more."""
    drawn = random.Random(seed)
    extra = ("", " now", " again", " thanks", " quickly", " on my phone", " this week", " in the app")
    return [drawn.choice(FRAMES).format(drawn.choice(list(TOPICS))) + drawn.choice(extra) for _ in range(count)]


def how(answered: Answer) -> str:
    return (answered.header(b"x-weir-cache") or b"-").decode()


async def ask(plane: Plane, text: str, *lines: str, **fields: Any) -> Answer:
    answered = await plane.chat(*lines, messages=[{"role": "user", "content": text}], **fields)
    await plane.quiet()
    return answered


async def taught(plane: Plane, count: int = 600, *lines: str, **fields: Any) -> list[Answer]:
    """Asks a stream of questions."""
    return [await ask(plane, text, *lines, **fields) for text in questions(count)]


@pytest.fixture
async def provider() -> Any:
    async with scripted(answer) as running:
        yield running


async def test_serves_once_certified(serve: Serve, provider: Scripted) -> None:
    """A cold cache serves nothing by meaning; a taught one does, rightly, with its headers and a saving."""
    async with serve(url=provider.url, policies=[policy()]) as plane:
        seen = [(text, await ask(plane, text)) for text in questions(700)]
        kinds = [how(answered) for _, answered in seen]
        assert "semantic" not in kinds[:60]
        hits = [(text, answered) for text, answered in seen if how(answered) == "semantic"]
        assert len(hits) > 30
        assert all(answered.json["choices"][0]["message"]["content"] == answer(text) for text, answered in hits)
        _, last = hits[-1]
        assert 0 < float(last.header(b"x-weir-cache-similarity") or 0) <= 1.001
        assert len(last.header(b"x-weir-cache-entry") or b"") == 32
        assert last.header(b"age") is not None
        ended = [told for told in plane.journal("ended") if any(d["action"] == "semantic" for d in told["decisions"])]
        assert len(ended) == len(hits)
        numbers = next(d["numbers"] for d in ended[-1]["decisions"] if d["action"] == "semantic")
        assert numbers["score"] >= numbers["threshold"]


async def test_audits_are_exchanges_of_their_own(serve: Serve, provider: Scripted) -> None:
    """Hits are audited: nearly all of the first, by detached exchanges that name the policy and carry a tag."""
    async with serve(url=provider.url, policies=[policy()]) as plane:
        kinds = [how(answered) for answered in await taught(plane)]
        audits = [told for told in plane.journal("ended") if told["kind"] == "audit"]
        assert 0.5 * kinds.count("semantic") <= len(audits) <= kinds.count("semantic")
        assert {told["started_by"] for told in audits} == {"cache"}
        assert {told["tags"]["weir"] for told in audits} == {"audit"}
        assert len(provider.asked) == kinds.count("miss") + len(audits)


async def test_streams(serve: Serve, provider: Scripted) -> None:
    """A hit is streamed where a stream is asked for."""
    async with serve(url=provider.url, policies=[policy()]) as plane:
        await taught(plane)
        seen = [await plane.chat(messages=[{"role": "user", "content": t}], stream=True) for t in questions(30, 7)]
        hits = [told for told in seen if how(told) == "semantic"]
        assert hits
        assert all(told.body.endswith(b"data: [DONE]\n\n") or b"[DONE]" in told.body for told in hits)


async def test_partitions_are_hard(serve: Serve, provider: Scripted) -> None:
    """Another history, system prompt, model, format, tool, end user or key: never an answer from there."""
    keys = [key("wk-a", "a"), key("wk-b", "b")]
    async with serve(url=provider.url, policies=[policy()], keys=keys) as plane:
        auth = "authorization: Bearer wk-a"
        kinds = [how(told) for told in await taught(plane, 600, auth)]
        assert kinds.count("semantic") > 20
        system, earlier = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}
        reply = {"role": "assistant", "content": "Hello!"}
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        for text in questions(4, 3):  # fewer than a partition needs
            turn = {"role": "user", "content": text}
            others: list[tuple[str, dict[str, Any]]] = [
                (auth, {"messages": [system, turn]}),
                (auth, {"messages": [earlier, reply, turn]}),
                (auth, {"messages": [turn], "model": "gpt-4o"}),
                (auth, {"messages": [turn], "response_format": {"type": "json_object"}}),
                (auth, {"messages": [turn], "tools": [tool]}),
                (auth, {"messages": [turn], "user": "somebody"}),
                (auth, {"messages": [turn], "temperature": 0.3}),
                (auth, {"messages": [turn], "max_tokens": 7}),
                ("authorization: Bearer wk-b", {"messages": [turn]}),
            ]
            for who, fields in others:
                assert how(await plane.chat(who, **fields)) != "semantic", fields
            await plane.quiet()


async def test_what_passes_by(serve: Serve, provider: Scripted) -> None:
    """Images, turns of tools, several choices and long texts aren't compared; the decision says why."""
    picture = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tools = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
        {"role": "user", "content": "And?"},
    ]
    hello = [{"role": "user", "content": "Hello"}]
    cases: list[tuple[str, dict[str, Any]]] = [
        ("form", {"messages": [{"role": "user", "content": picture}]}),
        ("tools", {"messages": tools}),
        ("choices", {"messages": hello, "n": 2}),
        ("long", {"messages": [{"role": "user", "content": "word " * 500}]}),
        ("form", {"messages": [*hello, {"role": "assistant", "content": "Hel"}]}),
        ("empty", {"messages": [{"role": "user", "content": " "}]}),
    ]
    async with serve(url=provider.url, policies=[policy()]) as plane:
        for why, fields in cases:
            await plane.chat(**fields)
            await plane.quiet()
            (decision,) = plane.journal("ended")[-1]["decisions"]
            assert decision["numbers"].get("semantic") == why, fields


async def test_cache_control(serve: Serve, provider: Scripted) -> None:
    """`no-cache` asks anew, `no-store` keeps nothing, `only-if-cached` may be answered by meaning."""
    async with serve(url=provider.url, policies=[policy()]) as plane:
        await taught(plane)
        fresh = [text + " friend" for text in questions(40, 5)]
        assert {how(await ask(plane, text, "cache-control: no-cache")) for text in fresh[:10]} == {"miss"}
        kinds = {(await ask(plane, text, "cache-control: only-if-cached")).status for text in fresh[10:]}
        assert 200 in kinds


async def test_evicting_a_tenant_forgets_its_vectors(serve: Serve, provider: Scripted) -> None:
    """After that, nothing is answered by meaning, and nothing of it is in the Store."""
    store = MemoryStore()
    async with serve(url=provider.url, policies=[policy()], store=store, keys=[key("wk-a", "a", org="x")]) as plane:
        auth = "authorization: Bearer wk-a"
        assert "semantic" in {how(told) for told in await taught(plane, 600, auth)}
        tenant = plane.journal("ended")[0]["tenant"]
        tier = plane.plane.state.chain.built[0].policy._semantic
        await tier.knowledge.shared.flush()
        assert await store.keys("semantic/", 100)
        await ask(plane, "How deep is the river today?", auth)
        await plane.quiet()
        assert tier.knowledge.shared._waiting, "something is yet to be written"
        await evict(store, Eviction(tag=f"tenant={tenant}"))
        await until(lambda: not tier.knowledge.rooms.entries)
        await tier.knowledge.shared.flush()
        assert await store.keys("semantic/", 100) == []
        assert {how(await ask(plane, text, auth)) for text in questions(20, 9)} <= {"miss", "hit"}
        since = tier.knowledge.rooms.entries
        assert 0 < since <= 20
        async with serve(url=provider.url, policies=[policy()], store=store, keys=[key("wk-a", "a", org="x")]) as later:
            anew = later.plane.state.chain.built[0].policy._semantic
            await until(lambda: anew.knowledge.rooms.entries >= since)
            await asyncio.sleep(0.05)
            assert anew.knowledge.rooms.entries == since, "the feed brought back what was forgotten"


async def test_workers_share_and_restarts_are_warm(serve: Serve, provider: Scripted) -> None:
    """What one worker learnt another serves by, as does one that starts later."""
    store = MemoryStore()
    shared: dict[str, Any] = {"url": provider.url, "policies": [policy()], "store": store}
    async with serve(**shared) as one, serve(**shared) as two:
        await taught(one)
        first, second = (plane.plane.state.chain.built[0].policy._semantic for plane in (one, two))
        await first.knowledge.shared.flush()
        await until(lambda: second.knowledge.rooms.entries == first.knowledge.rooms.entries > 0)
        there = {how(await ask(two, text)) for text in questions(60, 11)}
        assert "semantic" in there
    async with serve(**shared) as later:
        tier = later.plane.state.chain.built[0].policy._semantic
        await until(lambda: not tier.knowledge.loading)
        before = len(provider.asked)
        there = [how(await ask(later, text)) for text in questions(40, 13)]
        assert "semantic" in there
        assert len(provider.asked) - before < 40


async def test_vectors_from_upstream(serve: Serve, provider: Scripted) -> None:
    """`embedder: upstream` asks the upstream for vectors, in exchanges of their own; a failure is a miss."""
    async with serve(url=provider.url, policies=[policy(embedder="upstream", model="embed-1")]) as plane:
        told = await taught(plane, 300)
        assert {answered.status for answered in told} == {200}
        vectors = [ended for ended in plane.journal("ended") if ended["kind"] == "embedding"]
        misses = [how(answered) for answered in told].count("hit")
        assert len(vectors) == 300 - misses
        assert {ended["started_by"] for ended in vectors} == {"cache"}


async def test_observing_serves_nothing_and_learns(serve: Serve, provider: Scripted) -> None:
    """`mode: observe` asks upstream for each, and every hit that would have been is audited by its own answer."""
    async with serve(
        url=provider.url, policies=[entry("cache", mode="observe", exact=EXACT, semantic={"max_error": 0.05})]
    ) as plane:
        kinds = {how(told) for told in await taught(plane, 500)}
        assert "semantic" not in kinds
        assert len(provider.asked) == 500
        tier = plane.plane.state.chain.built[0].policy._semantic
        (learner,) = tier.knowledge._learners.values()
        assert learner.status == "certified"
        assert learner.realised()[0] < 0.1
