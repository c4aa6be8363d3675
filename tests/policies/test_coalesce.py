"""Identical requests that overlap, on the wire: one call, everybody's whole answer, everybody's share."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest

from policies import coalesce
from proxy.exchange import Forward, Request, Response
from proxy.simulator import Simulator
from proxy.state.memory import MemoryStore
from tests.patience import PATIENCE_S
from tests.plane.conftest import Serve
from tests.plane.patterns import module
from tests.plane.questions import ALL, Kind, events
from tests.plane.running import Plane, entry, key
from tests.wire.raw import Answer, Raw, chat, post

SAMPLED = entry("coalesce", sampled=True)
SLOW = "x-sim-ttft-ms: 60"


def said(answer: Answer) -> list[bytes]:
    """All that an answer tells."""
    return events(answer) or [answer.body]


async def together(plane: Plane, simulator: Simulator, *asks: bytes) -> list[Answer]:
    """The answers to requests that are all there before the first of them is answered, in their order."""
    with simulator.still():
        asking = [asyncio.create_task(plane.send(asked)) for asked in asks]
        await until(lambda: plane.metrics.gauges.exchanges == len(asks))
    return await asyncio.gather(*asking)


def chats(count: int, *lines: str, **fields: Any) -> list[bytes]:
    """So many requests for one slow answer."""
    return [post("/v1/chat/completions", chat(**fields), SLOW, *lines)] * count


def own_ends(plane: Plane) -> list[dict[str, Any]]:
    return [record for record in plane.journal("ended") if record["kind"] == "client"]


@pytest.mark.parametrize("kind", ALL, ids=str)
async def test_one_call_for_all(serve: Serve, simulator: Simulator, kind: Kind) -> None:
    """Every understood endpoint, streamed and not: one call, equal answers, shares that add up to the invoice."""
    fields = {**kind.fields, **({"store": False} if "responses" in kind.name else {})}
    async with serve(policies=[SAMPLED]) as plane:
        answers = await together(plane, simulator, *[post(kind.path, orjson.dumps(fields), SLOW)] * 7)
        await plane.quiet()
        assert {answer.status for answer in answers} == {200}
        assert len({tuple(said(answer)) for answer in answers}) == 1
        assert all(answer.whole for answer in answers)
        assert not kind.streamed or all(kind.done in answer.body for answer in answers)
        assert simulator.state.requests == 1
        cost, ends = plane.settled()["nanodollars"], own_ends(plane)
        assert cost > 0
        assert sum(ended["nanodollars"] for ended in ends) == cost
        shares = sorted(ended["nanodollars"] for ended in ends)
        assert shares[-1] - shares[0] <= 1
        assert sum(ended["saved_nanodollars"] for ended in ends) == 6 * cost
        assert {saving["policy"] for ended in ends for saving in ended["savings"]} == {"coalesce"}
        followers = [answer for answer in answers if answer.header(b"x-weir-coalesced")]
        assert len(followers) == 6
        told = [answer.header(b"x-weir-cost") or answer.body.rpartition(b"cost=")[2].strip() for answer in answers]
        assert sum(round(float(one.split()[0]) * 1e9) for one in told) == cost


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_thousand(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """1,000 at once are one call, and 1,000 whole answers."""
    gate = asyncio.Event()

    async def waits(request: Request, forward: Forward) -> Response:
        await gate.wait()
        return await forward(request)

    registry = {"coalesce": coalesce, "gate": module(waits)}
    async with serve(policies=[SAMPLED, entry("gate")], registry=registry) as plane:
        asked = post("/v1/chat/completions", chat(stream))
        asking = [asyncio.create_task(plane.send(asked)) for _ in range(1000)]
        await until(lambda: plane.metrics.gauges.exchanges == 1000)
        gate.set()
        answers = await asyncio.gather(*asking)
        assert simulator.state.requests == 1
        assert {answer.status for answer in answers} == {200}
        assert all(answer.whole for answer in answers)
        assert len({tuple(said(answer)) for answer in answers}) == 1
        assert said(answers[0])[-1] == b"[DONE]" or not stream


async def test_a_late_follower(serve: Serve, simulator: Simulator) -> None:
    """Who joins in mid-stream is given at once what there is, and then what follows."""
    async with serve(policies=[SAMPLED]) as plane, await plane.connect() as first, await plane.connect() as second:
        asked = post("/v1/chat/completions", chat(True), "x-sim-fault: stall:3:0.2")
        with simulator.still():
            await first.send(asked)
            begun = await first.read_until(b"\r\n\r\n")
            while begun.count(b"data:") < 3:
                begun += await first.read()
            await second.send(asked)
            prefix = b""
            while prefix.count(b"data:") < 3:
                prefix += await second.read()
            assert b"[DONE]" not in prefix
        rest = b""
        while b"0\r\n\r\n" not in rest:
            rest += await second.read()
        assert b"[DONE]" in rest
        while b"[DONE]" not in begun:
            begun += await first.read()
    assert simulator.state.requests == 1


@pytest.mark.parametrize("deadline", [(), ("x-weir-deadline: 60s",)], ids=["inline", "detached"])
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_leader_leaves(serve: Serve, simulator: Simulator, stream: bool, deadline: tuple[str, ...]) -> None:
    """The first one's client leaves: nothing changes for the others, and they pay for all of it."""
    async with serve(policies=[SAMPLED]) as plane:
        fault = "x-sim-fault: stall:3:0.3" if stream else "x-sim-ttft-ms: 300"
        asked = post("/v1/chat/completions", chat(stream), fault, *deadline)
        with simulator.still():
            async with await plane.connect() as leader:
                await leader.send(asked)
                if stream:
                    await leader.read_until(b"data:")
                else:
                    await until(lambda: simulator.state.requests == 1)
                others = [asyncio.create_task(plane.send(asked)) for _ in range(3)]
                await until(lambda: plane.metrics.gauges.exchanges == 4)
            await until(lambda: len(plane.connections) == 3)
        answers = await asyncio.gather(*others)
        await plane.quiet()
        assert simulator.state.requests == 1
        assert all(answer.whole and answer.status == 200 for answer in answers)
        assert len({tuple(said(answer)) for answer in answers}) == 1
        settled = plane.settled()
        assert settled["outcome"] == "complete"
        ends = own_ends(plane)
        assert [ended["outcome"] for ended in ends].count("aborted") == 1
        assert sum(ended["nanodollars"] for ended in ends) == settled["nanodollars"]
        assert next(ended["nanodollars"] for ended in ends if ended["outcome"] == "aborted") == 0


@pytest.mark.parametrize("deadline", [(), ("x-weir-deadline: 60s",)], ids=["inline", "detached"])
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_last_one_ends_the_call(
    serve: Serve, simulator: Simulator, stream: bool, deadline: tuple[str, ...]
) -> None:
    """Once all have left the upstream is cancelled, and what was used is settled."""
    async with serve(policies=[SAMPLED]) as plane:
        fault = "x-sim-fault: stall:3" if stream else "x-sim-fault: no-headers"
        asked = post("/v1/chat/completions", chat(stream), fault, *deadline)
        clients = [await plane.connect() for _ in range(3)]
        for client in clients:
            await client.send(asked)
        await until(lambda: simulator.state.requests == 1 and plane.metrics.gauges.exchanges == 3)
        if stream:
            await clients[2].read_until(b"data:")
        for number, client in enumerate(clients):
            assert plane.journal("settled") == []
            client.close()
            await until(lambda left=2 - number: len(plane.connections) == left)  # type: ignore[misc]
        await plane.quiet()
        assert plane.settled()["outcome"] == "aborted"
        assert {ended["outcome"] for ended in own_ends(plane)} == {"aborted"}
        await until(lambda: plane.reused() == 0)


async def test_own_deadlines(serve: Serve, simulator: Simulator) -> None:
    """A follower's deadline is its own, and so is the leader's: who has time gets the answer."""
    async with serve(policies=[SAMPLED]) as plane:
        for stream in (False, True):
            asked = chat(stream)
            fault = "x-sim-fault: stall:3:0.01" if stream else "x-sim-ttft-ms: 10"
            lines = ("x-weir-deadline: 400ms", "x-weir-deadline: 60s", "", "x-weir-deadline: 500ms")
            asks = [post("/v1/chat/completions", asked, fault, *filter(None, [line])) for line in lines]
            before = simulator.state.requests
            with simulator.still():
                asking = [asyncio.create_task(plane.send(one)) for one in asks]
                await asyncio.gather(asking[0], asking[3])
            answers = await asyncio.gather(*asking)
            await plane.quiet()
            assert simulator.state.requests == before + 1
            ends = [b"deadline_exceeded" in answer.body for answer in answers]
            assert ends == [True, False, False, True]
            assert [said(answer)[-1] == b"[DONE]" for answer in answers[1:3]] == [stream, stream]


async def test_not_across_tenants_or_users(serve: Serve, simulator: Simulator) -> None:
    """Another key, another end user, another tenant: each has its own call; sharing is what the policy says."""
    keys = [key("wk-a", "a", team="x"), key("wk-b", "b", team="x"), key("wk-c", "c", team="y")]
    asks = (("wk-a", "u1"), ("wk-a", "u1"), ("wk-a", "u2"), ("wk-b", "u1"), ("wk-c", "u1"))
    for share, calls in {"user": 4, "key": 3, "tenant": 2}.items():
        before = simulator.state.requests
        async with serve(policies=[entry("coalesce", sampled=True, share=share)], keys=keys) as plane:
            asked = [one for who, user in asks for one in chats(1, f"authorization: Bearer {who}", user=user)]
            answers = await together(plane, simulator, *asked)
        assert {answer.status for answer in answers} == {200}
        assert simulator.state.requests - before == calls, share


async def test_what_differs_does_not_share(serve: Serve, simulator: Simulator) -> None:
    """Another form, parameter, option or version is another call; another order of fields, or a default, is not."""
    base: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "same"}]}
    different = [
        {},
        {"temperature": 0.5},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"service_tier": "flex"},
        {"seed": 4},
        {"max_tokens": 9},
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "same"}]},
    ]
    async with serve(policies=[SAMPLED]) as plane:
        same = [{"n": 1, **base, "temperature": 1.0}, dict(reversed(base.items()))]
        asks = [*({**base, **fields} for fields in different * 2), *same]
        await together(plane, simulator, *(post("/v1/chat/completions", orjson.dumps(ask), SLOW) for ask in asks))
        assert simulator.state.requests == len(different)


async def test_sampled_requests_opt_in(serve: Serve, simulator: Simulator) -> None:
    """Unless the policy says otherwise only temperature 0 shares."""
    async with serve(policies=[entry("coalesce")]) as plane:
        await together(plane, simulator, *chats(3))
        assert simulator.state.requests == 3
        await plane.quiet()
        await together(plane, simulator, *chats(3, temperature=0))
        assert simulator.state.requests == 4


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_failures_of_the_request_go_to_all(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """What the upstream says of the request, everybody is told; it isn't asked again."""
    async with serve(policies=[SAMPLED]) as plane:
        for number, fault in enumerate(("error-500", "error-503", "rate-limit:1", "bad-request", "mid-error", "rst")):
            before = simulator.state.requests
            asked = post("/v1/chat/completions", chat(stream, seed=number), f"x-sim-fault: no-headers:0.01, {fault}")
            answers = await together(plane, simulator, *[asked] * 4)
            await plane.quiet()
            assert simulator.state.requests == before + 1, fault
            told = {
                (answer.status, answer.body if not stream else events(answer)[-1] if events(answer) else answer.body)
                for answer in answers
            }
            assert len(told) == 1, (fault, told)
            (status, body) = told.pop()
            assert status >= 400 or b'"error"' in body or not stream or not answers[0].whole


async def test_refusals_are_of_one_key(serve: Serve, simulator: Simulator) -> None:
    """A leader that its budget refuses is told so, with its like; the next one of another key leads."""
    keys = [key("wk-a", "a", team="x"), key("wk-b", "b", team="x")]
    budget = entry("budget", per="key", limit="0.000001 USD/day", overrides={"b": "5 USD/day"}, max_wait="0s")
    policies = [budget, entry("coalesce", sampled=True, share="tenant")]
    async with serve(policies=policies, keys=keys, store=MemoryStore()) as plane:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await plane.connect()) for _ in range(5)]
            with simulator.still():
                for client, who in zip(clients, ("wk-a", "wk-a", "wk-b", "wk-b", "wk-b"), strict=True):
                    await client.send(post("/v1/chat/completions", chat(), f"authorization: Bearer {who}", SLOW))
                await until(lambda: len(own_ends(plane)) == 2 and plane.metrics.gauges.exchanges == 3)
            answers = await asyncio.gather(*(client.answer() for client in clients))
        assert [answer.status for answer in answers] == [429, 429, 200, 200, 200]
        assert simulator.state.requests == 1


async def test_the_next_one_leads(serve: Serve, simulator: Simulator) -> None:
    """An upstream that nobody reached says nothing of the request: the next one tries, once."""
    async with serve(policies=[SAMPLED], url="http://127.0.0.1:9/v1") as plane:
        answers = await asyncio.gather(*(plane.chat() for _ in range(5)))
        await plane.quiet()
        assert {answer.error["code"] for answer in answers} == {"upstream_unreachable"}
        assert 1 <= len(plane.journal("settled")) <= 4  # two for each wave that overlapped


LONG = ("x-sim-tokens: 30000", "x-sim-ttft-ms: 100")


async def test_a_slow_reader_holds_nobody_back(serve: Serve, simulator: Simulator) -> None:
    """One client doesn't read at all: the others have their answer; it gets its own when it reads."""
    async with serve(policies=[entry("coalesce", sampled=True, keep="64 MiB")]) as plane:
        asked = post("/v1/chat/completions", chat(True), *LONG)
        async with await plane.connect(receive_buffer=4096) as slow:
            await slow.send(asked)
            await until(lambda: plane.metrics.gauges.exchanges == 1)
            quick = await asyncio.gather(*(everything(plane, asked) for _ in range(2)))
            assert all(b"[DONE]" in body for body in quick)
            late = await to_the_end(slow)
            assert payloads(late) == payloads(quick[0])
        assert simulator.state.requests == 1


async def test_who_lags_too_far_is_cut_off(serve: Serve, simulator: Simulator) -> None:
    """What is kept is bounded: who doesn't read while others do is told that it lost the rest."""
    async with serve(policies=[entry("coalesce", sampled=True, keep="64 KiB")]) as plane:
        asked = post("/v1/chat/completions", chat(True), *LONG)
        async with await plane.connect(receive_buffer=4096) as slow:
            quick = asyncio.create_task(everything(plane, asked))
            await until(lambda: plane.metrics.gauges.exchanges == 1)
            await slow.send(asked)
            assert b"[DONE]" in await quick
            late = await to_the_end(slow)
            assert b"[DONE]" not in late
            assert b'"code":"coalesce_too_slow"' in late
        assert simulator.state.requests == 1


async def everything(plane: Plane, asked: bytes) -> bytes:
    async with await plane.connect() as client:
        await client.send(asked)
        return await to_the_end(client)


async def to_the_end(client: Raw) -> bytes:
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    seen = bytearray()
    while not seen.endswith(b"\r\n0\r\n\r\n"):
        data = await client.read()
        assert data
        seen += data
    return bytes(seen)


def payloads(seen: bytes) -> bytes:
    return b"".join(re.findall(rb"data: ([^\n]*)\n", seen))


async def test_observing_changes_nothing(serve: Serve, simulator: Simulator) -> None:
    """In `mode: observe` everybody asks for itself, and it is noted who wouldn't have."""
    async with serve(policies=[entry("coalesce", sampled=True, mode="observe")]) as plane:
        for stream in (False, True):
            await together(plane, simulator, *chats(3, stream=stream))
            await plane.quiet()
        assert simulator.state.requests == 6
        actions = [decision["action"] for ended in own_ends(plane) for decision in ended["decisions"]]
        assert actions.count("would_follow") == 4


async def test_a_cached_answer_is_shared(serve: Serve, simulator: Simulator) -> None:
    """With a cache inside: one miss for all, one kept answer, and hits afterwards."""
    policies = [SAMPLED, entry("cache", exact={"sampled": True})]
    async with serve(policies=policies, store=MemoryStore()) as plane:
        first = await together(plane, simulator, *chats(3, stream=True))
        assert [answer.header(b"x-weir-cache") for answer in first] == [b"miss"] * 3
        await plane.quiet()
        again = await asyncio.gather(*map(plane.send, chats(3)))
        assert {answer.header(b"x-weir-cache") for answer in again} == {b"hit"}
        assert simulator.state.requests == 1


async def until(happened: Any, within_s: float = PATIENCE_S) -> None:
    """Waits for what the other side does."""
    async with asyncio.timeout(within_s):
        while not happened():
            await asyncio.sleep(0.002)
