"""The chain as it is compiled: order, what costs nothing, and what a conversation is known by."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from proxy.body import scan
from proxy.chain import Built, Chain, compose, sticky
from proxy.config import PolicyEntry
from proxy.endpoints import Endpoint
from proxy.exchange import Exchange, Forward, Identity, Request
from proxy.response import Response
from tests.patience import PATIENCE_S


def request(body: bytes = b"{}", headers: list[tuple[bytes, bytes]] | None = None) -> Request:
    exchange = Exchange(Identity("tenant", key="key-1"))
    endpoint = Endpoint("chat.completions")
    return Request(exchange, endpoint, "POST", b"/v1/x", "/v1/x", headers or [], scan(body), "m")


def built(name: str, seen: list[str], **envelope: Any) -> Built:
    async def policy(request: Request, forward: Forward) -> Response:
        seen.append(name)
        return await forward(request)

    return Built(PolicyEntry.model_validate({"use": name, "name": name, **envelope}), policy, False)


async def end(request: Request) -> Response:
    return Response(200, [], b"end")


async def test_order() -> None:
    """The first entry is the outermost layer."""
    seen: list[str] = []
    forward = compose([built(name, seen) for name in "abc"], end, frozenset())
    assert (await forward(request())).held() == b"end"
    assert seen == ["a", "b", "c"]


def test_nothing_costs_nothing() -> None:
    """No policies: the end itself. One without conditions: its own call and no other."""
    assert compose([], end, frozenset()) is end
    item = built("a", [])
    layer = compose([item], end, frozenset())
    assert isinstance(layer, partial)
    assert layer.func is item.policy
    assert layer.keywords == {"forward": end}


@pytest.mark.parametrize(
    "envelope", [{"match": {"model": "x"}}, {"rollout": "1%"}, {"holdout": "1%"}, {"unless": {"stream": True}}]
)
def test_conditions_stand_before(envelope: dict[str, Any]) -> None:
    """One with conditions is asked about only when they hold."""
    assert not isinstance(compose([built("a", [], **envelope)], end, frozenset()), partial)


@pytest.mark.parametrize(
    ("envelope", "noted"),
    [({"holdout": "100%"}, "holdout"), ({"holdout": "0.0001%"}, "treated"), ({"rollout": "0%"}, "not_rolled_out")],
)
async def test_groups_are_noted(envelope: dict[str, Any], noted: str) -> None:
    """With a holdout, both groups are known to the ledger; without one only those are noted that nothing applied to."""
    seen: list[str] = []
    asked = request()
    await compose([built("a", seen, **envelope)], end, frozenset())(asked)
    assert [decision.action for decision in asked.exchange.decisions] == [noted]
    assert seen == (["a"] if noted == "treated" else [])


async def test_idle() -> None:
    """A chain is idle when the last exchange that uses it has left."""
    chain = Chain([], end, frozenset())
    await chain.idle()
    chain.running = 2
    waiting = asyncio.get_running_loop().create_task(chain.idle())
    for left in range(2):
        await asyncio.sleep(0)
        assert not waiting.done(), f"{2 - left} exchanges still use it"
        chain.left()
    await asyncio.wait_for(waiting, PATIENCE_S)


def test_conversations() -> None:
    """The header first, then the request's own words, then the key; never across tenants."""
    body = b'{"prompt_cache_key": "c", "user": "u"}'
    assert sticky(request(body, [(b"x-weir-conversation", b"h")])) == "tenant:h"
    assert sticky(request(body)) == "tenant:c"
    assert sticky(request(b'{"user": "u", "conversation": {"id": 1}}')) == "tenant:u"
    assert sticky(request()) == "key-1"
