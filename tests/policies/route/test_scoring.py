"""The score before an answer: learnt from a cascade's pairs, told by the prompt, on the wire."""

from __future__ import annotations

import asyncio

import pytest

from policies import cascade, route
from policies.cascade.layer import Cascade
from policies.cascade.learning.features import answer_features, joined, prompt_features
from policies.cascade.shared import Pair
from policies.route.layer import Route
from policies.route.scoring import prompt_of
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.plane.running import entry

MINI, LARGE = "gpt-4o-mini", "gpt-4o"
HARD = "Prove that the equation x^2 + {0} = {0} y has {0} solutions, or show why it has not = none."
EASY = "Say hello to guest number {0}"


async def gathered(serve: Serve, store: MemoryStore, name: str, pairs: int = 120, small: str = MINI) -> None:
    """A cascade of these models gathers pairs, as it does, and keeps them: the large model is better where the prompt
    is hard."""
    options = {"rungs": [small, LARGE], "max_quality_loss": "2 points", "judge": {"equality": "exact"}}
    policies = [entry("cascade", options=options)]
    async with serve(policies=policies, registry={"cascade": cascade}, store=store) as plane:
        policy = plane.plane.state.chain.built[0].policy
        assert isinstance(policy, Cascade)
        for number in range(pairs):
            hard = number % 2 == 0
            prompt = prompt_features((HARD if hard else EASY).format(number))
            answer = None if name == "route" else answer_features("An answer.", None, "stop")
            pair = Pair(joined(prompt, answer).packed(), None, float(hard), 1, 10)
            await policy.classes.tell(policy.classes.of(name), pair)
        while policy.classes.of(name).judged < pairs:
            await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["route", "whole/search"])
async def test_it_learns_from_a_cascade(serve: Serve, name: str) -> None:
    """Hard prompts go to the large model, easy ones to the small; before anything was learnt, all to the large."""
    store = MemoryStore()
    policies = [entry("route", 1, to=[MINI, LARGE], prefer="score", escalate_at="30%", sticky="off")]
    async with serve(policies=policies, registry={"route": route}, store=store) as plane:
        policy = plane.plane.state.chain.built[0].policy
        assert isinstance(policy, Route)
        easy = [{"role": "user", "content": EASY.format(7001)}]
        first = await plane.chat(model="o4-mini", messages=easy)
        await store.put("cascade-report/other/x", b"\xc1", 60)
        await gathered(serve, store, name)
        await policy._scores.look(store)
        await plane.chat(model="o4-mini", messages=easy)
        last = await plane.chat(model="o4-mini", messages=[{"role": "user", "content": HARD.format(7002)}])
        assert [record["model"] for record in plane.journal("reserved")] == [LARGE, MINI, LARGE]
    assert first.header(b"x-weir-route") == b"gpt-4o; rule=1; no_score"
    assert last.header(b"x-weir-route") == b"gpt-4o; rule=1; score"


async def test_other_models_pairs_say_nothing(serve: Serve) -> None:
    """Neither pairs of other models nor too few of them make a score."""
    store = MemoryStore()
    policies = [entry("route", 1, to=["gpt-4.1-nano", LARGE], prefer="score")]
    async with serve(policies=policies, registry={"route": route}, store=store) as plane:
        policy = plane.plane.state.chain.built[0].policy
        assert isinstance(policy, Route)
        await gathered(serve, store, "whole")
        await gathered(serve, store, "whole/few", 10, "gpt-4.1-nano")
        await policy._scores.look(store)
        assert policy._scores._known == {}


def test_the_prompt_decides_quickly() -> None:
    """A prompt is read in bounded time, whatever its length: only its ends are looked at."""
    short, long = prompt_of("word " * 900, 1, 0, False), prompt_of("word " * 900_000, 1, 0, False)
    assert len(short.words) == len(long.words)


async def test_closing(serve: Serve) -> None:
    """With the policy, what it follows ends."""
    async with serve(
        policies=[entry("route", 1, to=[MINI, LARGE], prefer="score")], registry={"route": route}, store=MemoryStore()
    ):
        assert any(task.get_name() == "route: the score" for task in asyncio.all_tasks())
    await asyncio.sleep(0)
    assert not any(task.get_name() == "route: the score" for task in asyncio.all_tasks())
