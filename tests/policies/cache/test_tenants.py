"""A fuzzer over tenants, keys and end users: nobody is ever answered with what another one was told."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.plane.running import entry, key
from tests.policies.cache.scripted import chat, scripted
from tests.policies.cache.test_exact import hit

GROUPS = [("acme", "search", ""), ("acme", "search", "docs"), ("acme", "", ""), ("", "search", ""), ("", "", "")]
ODD = ["", "a", "b", "user", "key", "tenant", "null", "a/b", "-", "wk-0", '"a"', "河", "a" * 200]


@pytest.mark.parametrize("share", ["user", "key", "tenant"])
async def test_no_hit_crosses(serve: Serve, share: str) -> None:
    """600 requests of 20 keys in 5 kinds of groups, two workers, few questions and odd names: each hit is one's own."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    keys = [
        key(f"wk-{number}", f"key-{number}", org=org, team=team, project=project)
        for number, (org, team, project) in enumerate(GROUPS * 4)
    ]
    tenants = [group if any(group) else (f"alone-{number}",) for number, group in enumerate(GROUPS * 4)]
    policies = [entry("cache", exact={"sampled": True, "share": share, "tags": ["who"]})]
    store = MemoryStore()
    who_was_told: dict[str, Any] = {}
    hits = 0
    async with (
        scripted() as upstream,
        serve(url=upstream.url, policies=policies, keys=keys, store=store) as one,
        serve(url=upstream.url, policies=policies, keys=keys, store=store) as two,
    ):
        for turn in range(600):
            number, user = rng.randrange(len(keys)), rng.choice(ODD)
            scope = {
                "tenant": tenants[number],
                "key": (tenants[number], number),
                "user": (tenants[number], number, user),
            }[share]
            words = f"turn {turn}"
            upstream.says = chat("stop", content=words)
            named: dict[str, Any] = {"user": user} if user else {}
            plane = rng.choice((one, two))
            answer = await plane.post(
                "/v1/chat/completions",
                {
                    "model": rng.choice(("m", "n")),
                    "messages": [{"role": "user", "content": rng.choice(("x", "y"))}],
                    **named,
                    "stream": False,
                },
                f"authorization: Bearer wk-{number}",
                f"x-weir-tags: tenant={rng.choice(ODD[1:7])}, who=a",
            )
            assert answer.status == 200
            said = orjson.loads(answer.body)["choices"][0]["message"]["content"]
            if hit(answer) == "hit":
                hits += 1
                assert who_was_told[said] == scope, f"turn {turn}"
            else:
                assert said == words
                who_was_told[said] = scope
            await plane.quiet()
    assert hits > 20, "a fuzzer that never hits shows nothing"
