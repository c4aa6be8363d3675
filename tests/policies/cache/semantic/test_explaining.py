"""`weir cache explain`: what is told of a question, from what the workers wrote."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from policies.cache.operating import operate
from proxy.cli.cache_explain import lines
from proxy.errors import WeirError
from proxy.exchange import Identity
from proxy.metrics import Snapshot
from proxy.operating import Operating
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.policies.cache.semantic.test_tier import EXACT, answer, policy, questions, taught
from tests.policies.cache.semantic.upstream import scripted


def arguments(text: str, tenant: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **fields}
    return {
        "policy": "cache",
        "options": {"exact": EXACT, "semantic": {"max_error": 0.05}},
        "identity": msgspec.to_builtins(Identity(tenant)),
        "path": "/v1/chat/completions",
        "headers": [],
        "body": json.dumps(body),
    }


async def test_explains(serve: Serve) -> None:
    """Neighbours, score, features and decision of a taught tenant; nothing of it for another."""
    store = MemoryStore()
    here = Operating(store, Snapshot())
    async with scripted(answer) as provider, serve(url=provider.url, policies=[policy()], store=store) as plane:
        sent = await taught(plane, 500)
        ended = plane.journal("ended")
        tenant, sample = ended[0]["tenant"], sent[0]
        assert sample.status == 200
        await plane.plane.state.chain.built[0].policy._semantic.knowledge.save()
    told = [dict(await operate("explain", arguments(text, tenant), here)) for text in questions(20, 31)]
    assert {"serves"} <= {one["decision"] for one in told}
    served = next(one for one in told if one["decision"] == "serves")
    assert served["status"] == "certified"
    assert served["score"] >= served["threshold"]
    assert len(served["neighbours"]) == 10
    assert served["features"]["best"]["value"] > 0.5
    assert any("serves" in line for line in lines(served))
    other = dict(await operate("explain", arguments("How do I reset my password?", "somebody else"), here))
    assert (other["decision"], other["entries"], other["status"]) == ("asks upstream", 0, "gathering")
    passed = dict(await operate("explain", arguments("Hello", tenant, n=2), here))
    assert passed == {"decision": "passes", "why": "choices"}


async def test_refuses_what_is_no_request() -> None:
    """Arguments that aren't what is expected are a 400, and without a Store there is nothing to explain."""
    here = Operating(MemoryStore(), Snapshot())
    for wrong in (
        {},
        {**arguments("a", "t"), "options": {"semantic": {"max_error": 9}}},
        {**arguments("a", "t"), "path": "/v2"},
    ):
        with pytest.raises(WeirError) as raised:
            await operate("explain", wrong, here)
        assert raised.value.status == 400
    with pytest.raises(WeirError):
        await operate("explain", arguments("a", "t"), Operating(None, Snapshot()))
