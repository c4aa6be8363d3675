"""`mode: observe`: what a policy would have done is written down, and the client can't tell that it was there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from proxy.errors import WeirError
from proxy.exchange import Attempt, Forward, Request
from proxy.response import Outcome, Response
from proxy.simulator import Simulator
from proxy.wire.sse import Event
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry
from tests.wire.raw import chat, post


class Options(BaseModel):
    """None."""


def module(policy: Any) -> Any:
    return SimpleNamespace(Config=Options, build=lambda config, services: policy)


def decisions(plane: Plane) -> list[tuple[str, dict[str, Any]]]:
    return [(d["action"], d["numbers"]) for d in plane.ended()["decisions"]]


def observing(serve: Serve, policy: Any) -> Any:
    return serve(policies=[entry("watched", mode="observe")], registry={"watched": module(policy)})


async def answers_itself(request: Request, forward: Forward) -> Response:
    return Response(200, [(b"content-type", b"application/json")], b'{"from": "the cache"}')


async def refuses(request: Request, forward: Forward) -> Response:
    raise WeirError(429, "Too many.", code="too_many")


async def uses_another_model(request: Request, forward: Forward) -> Response:
    return await forward(request.using(model="gpt-4o"))


async def rewrites(request: Request, forward: Forward) -> Response:
    return await forward(request.using(fields={"temperature": 0}))


async def escalates(request: Request, forward: Forward) -> Response:
    first = await forward(request)
    if b"never said" not in await first.read():
        return await forward(request.using(model="gpt-4o"))
    return first


async def edits(request: Request, forward: Forward) -> Response:
    response = await forward(request)
    response.edit(lambda event: None)
    response.headers.append((b"x-edited", b"yes"))
    return response


async def replaces_the_answer(request: Request, forward: Forward) -> Response:
    response = await forward(request)
    await response.aclose()
    return Response(200, [], b"something else")


async def crashes(request: Request, forward: Forward) -> Response:
    await forward(request)
    raise RuntimeError("a bug")


async def swallows(request: Request, forward: Forward) -> Response:
    try:
        await forward(request)
        return await forward(request)
    except Exception:
        return Response(200, [], b"recovered")


WOULD: dict[Callable[..., Any], list[str]] = {
    answers_itself: ["would_answer"],
    refuses: ["would_refuse"],
    uses_another_model: ["would_use_model"],
    rewrites: ["would_rewrite"],
    escalates: ["would_forward_again"],
    edits: [],
    replaces_the_answer: ["would_answer"],
    crashes: ["observe_failed"],
    swallows: ["would_forward_again", "would_answer"],
}


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("policy", WOULD, ids=lambda policy: policy.__name__)
async def test_changes_nothing(serve: Serve, simulator: Simulator, policy: Any, stream: bool) -> None:
    """The client's answer is that to its own request, by one call of the upstream; what would have been is noted."""
    async with observing(serve, policy) as plane:
        answer = await plane.chat(stream=stream)
        await plane.quiet()
        assert answer.status == 200
        assert b"gpt-4o-mini" in answer.body
        assert answer.header(b"x-edited") is None
        if stream:
            assert b"data: [DONE]" in answer.body
        noted = [action for action, _ in decisions(plane)]
    # What a policy decides after a stream's end isn't known in time.
    assert noted == (WOULD[policy] if not (stream and policy is escalates) else [])
    assert len(simulator.requests) == 1
    assert simulator.requests[0].body is not None


async def test_numbers(serve: Serve) -> None:
    """What is noted says which status, which model, with the policy's place in its file."""
    async with observing(serve, refuses) as plane:
        await plane.chat()
        (decision,) = plane.ended()["decisions"]
    assert decision == {
        "policy": "watched",
        "source": "policies.yaml:1",
        "action": "would_refuse",
        "numbers": {"status": 429, "code": "too_many"},
    }


async def test_guards_are_harmless(serve: Serve) -> None:
    """A guard that refuses, waits or lowers the cap does none of it, and is still told what the attempt cost."""
    settled: list[int | None] = []

    async def refuse(attempt: Attempt) -> None:
        raise WeirError(402, "No money left.", code="budget_exceeded")

    async def wait(attempt: Attempt) -> None:
        await asyncio.Event().wait()

    async def lower(attempt: Attempt) -> Any:
        attempt.output_cap = 1
        return lambda attempt: settled.append(attempt.nanodollars)

    async def guarded(request: Request, forward: Forward) -> Response:
        for guard in (refuse, wait, lower):
            request.exchange.guard(guard)
        return await forward(request)

    async with observing(serve, guarded) as plane:
        answer = await plane.chat(max_tokens=50)
        await plane.quiet()
        assert answer.json["usage"]["completion_tokens"] > 1
        noted = [action for action, _ in decisions(plane)]
        cost = plane.settled()["nanodollars"]
        assert plane.journal("reserved")[0]["estimate"]["output_cap"] == 50
    assert noted == ["would_refuse", "would_wait", "would_cap"]
    assert settled == [cost]


async def test_upstream_failure_is_not_the_policys(serve: Serve, simulator: Simulator) -> None:
    """A refusal by the upstream passes through an observed policy once, and isn't held to be the policy's."""

    async def passes(request: Request, forward: Forward) -> Response:
        return await forward(request)

    async with observing(serve, passes) as plane:
        answer = await plane.chat(fault="error-500")
        assert answer.status == 502
        assert plane.ended()["decisions"] == []
    assert len(simulator.requests) == 1


async def test_streams_are_not_held_up(serve: Serve, simulator: Simulator) -> None:
    """A policy that reads a stream to its end does so beside the client, which gets each event as it comes."""
    seen: list[bytes] = []

    async def reads(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        seen.append(await response.read())
        return response

    async with observing(serve, reads) as plane, await plane.connect() as client:
        await client.send(post("/v1/chat/completions", chat(True), "x-sim-fault: stall:3"))
        await client.read_until(b"data: ")
        assert seen == []
        await client.read_until(b"data: ")
        client.close()
        await plane.quiet()
        assert (await plane.chat(stream=True)).status == 200
        await plane.quiet()
    (whole,) = seen
    assert whole.endswith(b"data: [DONE]\n\n")


async def test_taps_see_everything(serve: Serve) -> None:
    """An observed policy's taps see every event and the outcome."""
    seen: list[Event | Outcome] = []

    async def taps(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        response.tap(seen.append)
        return response

    async with observing(serve, taps) as plane:
        answer = await plane.chat(stream=True)
    raw = b"".join(event.raw for event in seen if isinstance(event, Event))
    assert answer.body.startswith(raw)
    assert raw.endswith(b"[DONE]\n\n")
    assert seen[-1] is Outcome.COMPLETE


async def test_a_late_reader(serve: Serve) -> None:
    """A policy that wants to read a stream after it went by is ended, not kept waiting for ever."""
    later = asyncio.Event()

    async def late(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        await later.wait()
        await response.read()
        return response

    async with observing(serve, late) as plane:
        answer = await plane.chat(stream=True)
        assert b"data: [DONE]" in answer.body, "the client has its whole answer meanwhile"
        later.set()
        await plane.quiet()


async def test_the_client_leaves(serve: Serve, simulator: Simulator) -> None:
    """A client that leaves ends the observed policy and the upstream's work."""
    cancelled = asyncio.Event()

    async def hangs(request: Request, forward: Forward) -> Response:
        try:
            return await forward(request)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with observing(serve, hangs) as plane:
        client = await plane.connect()
        await client.send(post("/v1/chat/completions", chat(), "x-sim-fault: no-headers"))
        await simulator.until(lambda state: state.active == 1)
        client.close()
        await simulator.until(lambda state: state.cancelled == 1)
        await plane.quiet()
        assert cancelled.is_set()
        assert plane.ended()["outcome"] == "aborted"
