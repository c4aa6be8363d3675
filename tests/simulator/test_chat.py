"""Chat completions on the wire: unary and streamed, and what the fields of a request change."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.simulator import Simulator, tokens

from .wire import QUESTION, Answer, ask, chat, request

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("get_weather", "get_forecast")
]
USAGE = {"stream_options": {"include_usage": True}}


async def sent(simulator: Simulator, stream: bool = False, **fields: Any) -> Answer:
    return await ask(simulator, request(chat(stream=stream, **fields)))


def chunks(answer: Answer) -> list[Any]:
    assert answer.events[-1] == b"[DONE]"
    return [orjson.loads(event) for event in answer.events[:-1]]


async def test_streamed_and_unary_say_the_same(simulator: Simulator) -> None:
    """Equal requests have equal content, usage and finish reason however they are asked for."""
    unary, streamed = (await sent(simulator)).json, chunks(await sent(simulator, True, **USAGE))
    assert (
        "".join(c["choices"][0]["delta"].get("content") or "" for c in streamed[:-1])
        == unary["choices"][0]["message"]["content"]
    )
    assert streamed[-1]["choices"] == []
    assert streamed[-1]["usage"] == unary["usage"]
    assert streamed[-2]["choices"][0]["finish_reason"] == unary["choices"][0]["finish_reason"] == "stop"


async def test_usage_is_exact(simulator: Simulator) -> None:
    """Tokens can be counted again from the texts, and the invoice says the same."""
    answer = (await sent(simulator)).json
    prompt = tokens.PRIMING + tokens.MESSAGE_OVERHEAD + tokens.count(QUESTION[0]["content"])
    made = tokens.count(answer["choices"][0]["message"]["content"])
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (prompt, made)
    total = simulator.invoice().total
    assert (total.requests, total.input, total.output) == (1, prompt, made)


async def test_ids_differ_and_content_does_not(simulator: Simulator) -> None:
    """Two equal requests get two ids and one content."""
    first, second = (await sent(simulator)).json, (await sent(simulator)).json
    assert first["id"] != second["id"]
    assert first["choices"] == second["choices"]


async def test_no_usage_unless_asked(simulator: Simulator) -> None:
    """Without stream_options no chunk has a `usage` member; with it, all but one have null."""
    assert all("usage" not in chunk for chunk in chunks(await sent(simulator, True)))
    assert [c["usage"] for c in chunks(await sent(simulator, True, **USAGE))][:-1].count(None) > 3


async def test_several_choices(simulator: Simulator) -> None:
    """n choices differ, each with its index, streamed as well; usage is their sum."""
    unary = (await sent(simulator, n=3)).json
    contents = [choice["message"]["content"] for choice in unary["choices"]]
    told = ["", "", ""]
    for chunk in chunks(await sent(simulator, True, n=3)):
        for choice in chunk["choices"]:
            told[choice["index"]] += choice["delta"].get("content") or ""
    assert len(set(contents)) == 3
    assert told == contents
    assert unary["usage"]["completion_tokens"] == sum(map(tokens.count, contents))


async def test_max_tokens_cuts(simulator: Simulator) -> None:
    """The cap is kept exactly, and finish_reason says so."""
    for field in ("max_tokens", "max_completion_tokens"):
        answer = (await sent(simulator, **{field: 3})).json
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3


async def test_length_by_header(simulator: Simulator) -> None:
    """x-sim-tokens chooses the length, x-sim-chunks the number of content chunks."""
    answer = await ask(simulator, request(chat(stream=True, **USAGE), x_sim_tokens="100", x_sim_chunks="7"))
    told = [c for c in chunks(answer) if c["choices"] and c["choices"][0]["delta"].get("content")]
    assert (len(told), chunks(answer)[-1]["usage"]["completion_tokens"]) == (7, 100)


async def test_parallel_tool_calls_stream_by_index(simulator: Simulator) -> None:
    """Each call opens with id and name, its arguments follow under its index, and are JSON."""
    fields = {"tools": TOOLS, "messages": [{"role": "user", "content": "weather and forecast"}]}
    made: dict[int, dict[str, str]] = {}
    last = None
    for chunk in chunks(await sent(simulator, True, **fields)):
        choice = chunk["choices"][0]
        last = choice["finish_reason"] or last
        for call in choice["delta"].get("tool_calls", []):
            entry = made.setdefault(
                call["index"], {"id": call.get("id"), "name": call["function"].get("name"), "arguments": ""}
            )
            entry["arguments"] += call["function"]["arguments"]
    unary = (await sent(simulator, **fields)).json["choices"][0]["message"]["tool_calls"]
    assert [(made[at]["id"], made[at]["name"], made[at]["arguments"]) for at in sorted(made)] == [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in unary
    ]
    assert all("city" in orjson.loads(call["function"]["arguments"]) for call in unary)
    assert last == "tool_calls"


async def test_json_modes(simulator: Simulator) -> None:
    """json_object answers an object; json_schema one that has the schema's members."""
    plain = (await sent(simulator, response_format={"type": "json_object"})).json
    assert isinstance(orjson.loads(plain["choices"][0]["message"]["content"]), dict)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    fitted = (await sent(simulator, response_format=wanted)).json
    assert list(orjson.loads(fitted["choices"][0]["message"]["content"])) == ["n"]


async def test_logprobs(simulator: Simulator) -> None:
    """One entry a token, which spell the content, with the likeliest others."""
    choice = (await sent(simulator, logprobs=True, top_logprobs=2)).json["choices"][0]
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in entries)


async def test_reasoning_models(simulator: Simulator) -> None:
    """Reasoning is told and billed; max_tokens is refused."""
    usage = (await sent(simulator, model="o4-mini")).json["usage"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < reasoning < usage["completion_tokens"]
    assert simulator.invoice().total.reasoning == reasoning
    refused = await sent(simulator, model="o4-mini", max_tokens=9)
    assert (refused.status, refused.json["error"]["code"]) == (400, "unsupported_parameter")


async def test_long_prompts_are_cached(simulator: Simulator) -> None:
    """The second time, the common prefix of at least 1,024 tokens is cached; another key has its own cache."""
    messages = [{"role": "system", "content": "river " * 3000}, {"role": "user", "content": "why?"}]

    async def cached(key: str, question: str) -> int:
        body = chat(messages=[messages[0], {"role": "user", "content": question}])
        usage = (await ask(simulator, request(body, authorization=f"Bearer {key}"))).json["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert await cached("one", "why?") == 0
    again = await cached("one", "how?")
    assert again >= 1024
    assert again % 128 == 0
    assert await cached("two", "why?") == 0
    assert simulator.invoice().total.cached == again


async def test_service_tiers(simulator: Simulator) -> None:
    """`auto` is served as default, flex as flex, and the invoice keeps them apart."""
    served = [(await sent(simulator, service_tier=tier)).json["service_tier"] for tier in ("auto", "flex", "priority")]
    assert served == ["default", "flex", "priority"]
    assert [row.tier for row in simulator.invoice().rows] == ["default", "flex", "priority"]


async def test_images_are_counted_not_fetched(simulator: Simulator) -> None:
    """An image costs by its detail."""

    async def prompt(detail: str) -> int:
        image = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/x.png", "detail": detail}}
        messages = [{"role": "user", "content": [{"type": "text", "text": "see"}, image]}]
        return int((await sent(simulator, messages=messages)).json["usage"]["prompt_tokens"])

    assert await prompt("high") - await prompt("low") == tokens.IMAGE_HIGH - tokens.IMAGE_LOW


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, "messages"),
        ({"n": 1000}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"model": "sim-small", "messages": [{"role": "user", "content": "river " * 9000}]}, "messages"),
    ],
)
async def test_wrong_requests(simulator: Simulator, fields: dict[str, Any], param: str) -> None:
    """What a provider would refuse is refused, with the parameter named, and free."""
    answer = await sent(simulator, **fields)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert simulator.invoice().rows == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
async def test_bodies_that_are_no_object(simulator: Simulator, body: bytes) -> None:
    """They are 400 in OpenAI's form."""
    answer = await ask(simulator, request(body))
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


async def test_unknown_models_answer_under_their_name(simulator: Simulator) -> None:
    """A local model's name is as good as any; a dated one finds its family."""
    assert (await sent(simulator, model="my-llama")).json["model"] == "my-llama"
    assert (await sent(simulator, model="gpt-4o-2024-11-20")).json["model"] == "gpt-4o-2024-11-20"
    assert (await sent(simulator, model="gpt-4o")).json["model"] == "gpt-4o-2024-08-06"


async def test_azures_paths(simulator: Simulator) -> None:
    """The deployment in the path is the model."""
    path = "/openai/deployments/gpt-4o/chat/completions?api-version=2025-01-01"
    answer = await ask(simulator, request(orjson.dumps({"messages": QUESTION}), path=path, api_key="k"))
    assert answer.json["model"] == "gpt-4o-2024-08-06"
