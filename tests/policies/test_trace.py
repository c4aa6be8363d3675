"""`trace`: what upstreams are told, and what is noted."""

from __future__ import annotations

import pytest

from policies import trace
from policies.trace import Config, begun
from proxy.simulator import Simulator
from proxy.tracing.parent import Parent, parent_in, span_of, trace_of
from tests.plane.conftest import Serve
from tests.plane.running import entry

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
THEIRS = f"traceparent: 00-{TRACE}-{SPAN}-01"


def told(simulator: Simulator) -> Parent | None:
    """The parent that the upstream was told last."""
    return parent_in([(name.lower(), value) for name, value in simulator.requests[-1].headers])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_trace_goes_on(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """The upstream gets the client's trace with the exchange as parent; the journal has what a span needs."""
    async with serve(policies=[entry("trace", 1)], registry={"trace": trace}) as plane:
        answer = await plane.chat(THEIRS, "tracestate: v=1", stream=stream)
        assert answer.status == 200
        await plane.quiet()
        ended = plane.ended()
    assert told(simulator) == Parent(TRACE, span_of(ended["exchange"]), True)
    (noted,) = ended["decisions"]
    assert (noted["action"], noted["numbers"]) == ("traced", {"trace": TRACE, "parent": SPAN})


async def test_a_trace_begins(serve: Serve, simulator: Simulator) -> None:
    """With `trust: false` a request's own trace counts for nothing."""
    async with serve(policies=[entry("trace", 1, trust=False)], registry={"trace": trace}) as plane:
        await plane.chat(THEIRS)
        ended = plane.ended()
    mine = trace_of(ended["exchange"])
    assert told(simulator) == Parent(mine, span_of(ended["exchange"]), True)
    assert ended["decisions"][0]["numbers"] == {"trace": mine, "parent": None}


async def test_nothing_is_told(serve: Serve, simulator: Simulator) -> None:
    """`propagate: false` keeps traces from providers, the client's as well."""
    async with serve(policies=[entry("trace", 1, propagate=False)], registry={"trace": trace}) as plane:
        await plane.chat(THEIRS)
    assert b"traceparent" not in {name.lower() for name, _ in simulator.requests[-1].headers}


def test_who_decides_on_sampling() -> None:
    """The client where it has a trace, either way; else the share."""
    config = Config.model_validate({"sample": "0%"})
    assert begun(config, "x", Parent(TRACE, SPAN, True)) == (TRACE, True)
    assert begun(Config(), "x", Parent(TRACE, SPAN, False)) == (TRACE, False)
    assert begun(config, "x", None) == (trace_of("x"), False)
    assert begun(Config(), "x", None) == (trace_of("x"), True)
