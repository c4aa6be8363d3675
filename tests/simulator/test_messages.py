"""Anthropic's messages: blocks, cumulative usage, caching, thinking and tools."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.simulator import Simulator

from .wire import Answer, ask, request

ASK = [{"role": "user", "content": "what is 6*7?"}]
WEATHER = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


async def sent(simulator: Simulator, *, path: str = "/v1/messages", fault: str = "", **fields: Any) -> Answer:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 900, "messages": ASK, **fields}
    return await ask(simulator, request(orjson.dumps(body), path=path, fault=fault, x_api_key="sk-ant-test"))


def told(answer: Answer) -> list[Any]:
    return [orjson.loads(event) for event in answer.events]


async def test_streamed_and_unary_say_the_same(simulator: Simulator) -> None:
    """The deltas make the text; the last message_delta has the whole usage."""
    unary, events = (await sent(simulator)).json, told(await sent(simulator, stream=True))
    text = "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")
    assert text == unary["content"][0]["text"]
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "content_block_start", "ping"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0]["message"]["usage"]["input_tokens"] == unary["usage"]["input_tokens"]
    assert events[0]["message"]["usage"]["output_tokens"] == 1
    assert (
        events[-2]["usage"]["output_tokens"] == unary["usage"]["output_tokens"] == simulator.invoice().total.output / 2
    )


async def test_caching_is_told_apart(simulator: Simulator) -> None:
    """What cache_control marks is written once, then read; input_tokens leaves it out, the invoice has it in."""
    system = [{"type": "text", "text": "river " * 2000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    first, second = [(await sent(simulator, system=system)).json["usage"] for _ in range(2)]
    written = first["cache_creation_input_tokens"]
    assert (first["cache_read_input_tokens"], second["cache_read_input_tokens"]) == (0, written)
    assert first["cache_creation"]["ephemeral_1h_input_tokens"] == written > 1024
    assert first["input_tokens"] == second["input_tokens"] < 100
    total = simulator.invoice().total
    assert (total.input, total.cached, total.cache_write) == (2 * (written + first["input_tokens"]), written, written)


async def test_thinking_and_tools(simulator: Simulator) -> None:
    """Thinking has a block of its own and is billed; a tool call's JSON comes in pieces."""
    thought = (await sent(simulator, thinking={"type": "enabled", "budget_tokens": 1024})).json
    assert [block["type"] for block in thought["content"]] == ["thinking", "text"]
    assert simulator.invoice().total.reasoning > 0
    question = [{"role": "user", "content": "how is the weather?"}]
    events = told(await sent(simulator, stream=True, tools=[WEATHER], messages=question))
    partial = "".join(e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta")
    assert "city" in orjson.loads(partial)
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_counting_is_free_and_right(simulator: Simulator) -> None:
    """count_tokens tells what the message is billed for, and is not on the invoice."""
    counted = (await sent(simulator, path="/v1/messages/count_tokens")).json["input_tokens"]
    assert simulator.invoice().rows == []
    assert (await sent(simulator)).json["usage"]["input_tokens"] == counted


async def test_wrong_requests(simulator: Simulator) -> None:
    """Errors have Anthropic's form."""
    for fields in ({"max_tokens": None}, {"messages": [{"role": "system", "content": "x"}]}, {"messages": []}):
        answer = await sent(simulator, **fields)
        assert answer.status == 400
        assert answer.json["error"]["type"] == "invalid_request_error"


async def test_usage_faults(simulator: Simulator) -> None:
    """Absent and repeated usage, in this dialect's events."""
    assert all("usage" not in e for e in told(await sent(simulator, stream=True, fault="no-usage")))
    repeated = told(await sent(simulator, stream=True, fault="repeated-usage"))
    assert [e["type"] for e in repeated].count("message_delta") == 2
