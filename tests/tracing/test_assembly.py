"""Spans from the journal's records."""

from __future__ import annotations

from typing import Any

from proxy.tracing.assembly import Assembly
from proxy.tracing.parent import span_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def reserved(exchange: str, attempt: int = 1) -> dict[str, Any]:
    return {
        "event": "reserved", "at": 1_000, "exchange": exchange, "attempt": attempt, "endpoint": "chat.completions",
        "model": "gpt-4o", "upstream": "openai", "deployment": "openai/gpt-4o", "estimate": {"output_cap": 50},
    }  # fmt: skip


def settled(exchange: str, attempt: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "event": "settled", "at": 9_000, "exchange": exchange, "attempt": attempt, "status": 200, "outcome": "complete",
        "served": "gpt-4o-2024-08-06", "tokens": {"input_tokens": 12, "output_tokens": 7}, "nanodollars": 5_000_000,
        "known": "observed", "ttft_ns": 2_000_000_000, "total_ns": 7_000, "error": None, **fields,
    }  # fmt: skip


def ended(exchange: str, traced: bool = True, **fields: Any) -> dict[str, Any]:
    noted = {"policy": "trace", "source": "", "action": "traced", "numbers": {"trace": TRACE, "parent": "ab" * 8}}
    return {
        "event": "ended", "at": 10_000, "exchange": exchange, "kind": "client", "parent": None, "status": 200,
        "outcome": "complete", "endpoint": "chat.completions", "asked": "gpt-4o", "attempts": 1, "total_ns": 9_500,
        "nanodollars": 5_000_000, "saved_nanodollars": 0, "team": "search", "tags": {"run": "7"},
        "decisions": [noted] if traced else [], **fields,
    }  # fmt: skip


def test_an_exchange_and_its_attempt() -> None:
    """Two spans, one in the other, with the names, times and attributes of the conventions."""
    whole, call = Assembly().take([reserved("a"), settled("a"), ended("a")])
    assert (whole.trace, whole.parent, whole.id, whole.kind) == (TRACE, "ab" * 8, span_of("a"), "server")
    assert (whole.start_ns, whole.end_ns, whole.name, whole.error) == (500, 10_000, "chat gpt-4o", "")
    assert whole.attributes["weir.team"] == "search" and whole.attributes["weir.tag.run"] == "7"
    assert (call.trace, call.parent, call.id, call.kind) == (TRACE, span_of("a"), span_of("a", 1), "client")
    assert (call.start_ns, call.end_ns) == (2_000, 9_000)
    assert {name: value for name, value in call.attributes.items() if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 7,
    }
    assert (call.attributes["weir.cost_usd"], call.attributes["weir.time_to_first_token_s"]) == (0.005, 2.0)


def test_what_no_decision_names_is_not_told() -> None:
    """An exchange that isn't traced leaves nothing, neither spans nor memory."""
    assembly = Assembly()
    assert assembly.take([reserved("a"), settled("a"), ended("a", traced=False)]) == []
    assert not assembly._reserved and not assembly._waiting and not assembly._traces


def test_failures() -> None:
    """A call that failed and a request that got a 5xx are errors; a 429 is the client's own matter."""
    bad = settled("a", status=None, error="connect_timeout", served=None)
    whole, call = Assembly().take([reserved("a"), bad, ended("a", status=502)])
    assert (whole.error, call.error, call.attributes["error.type"]) == ("502", "connect_timeout", "connect_timeout")
    (refused,) = Assembly().take([ended("b", status=429)])
    assert refused.error == ""


def test_work_for_an_exchange_is_beneath_it() -> None:
    """A judge belongs to the trace of what it judges; a call that outlives its exchange is still told."""
    assembly = Assembly()
    assembly.take([reserved("a"), ended("a")])
    judge, _ = assembly.take([reserved("j"), settled("j"), ended("j", traced=False, kind="judge", parent="a")])
    assert (judge.trace, judge.parent, judge.kind) == (TRACE, span_of("a"), "internal")
    (late,) = assembly.take([settled("a", outcome="aborted")])
    assert late.attributes["gen_ai.request.model"] == "gpt-4o" and late.parent == span_of("a")


def test_what_never_ends_is_forgotten() -> None:
    """However many exchanges of dead workers stay open, so many wait and no more."""
    assembly = Assembly(most=3)
    for number in range(10):
        assembly.take([reserved(str(number)), reserved(str(number), 2), settled(str(number)), {"event": "odd"}])
    assert len(assembly._reserved) == len(assembly._waiting) == 3
    assert len(assembly.take([ended("9")])) == 2
