"""OpenAI's SDK in the same process: what its objects hold is the same from the cache, but for ids and times."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry
from tests.policies.cache.test_exact import SAMPLED

OWN = {"id", "created", "created_at", "completed_at", "sequence_number"}
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
ASKS: list[dict[str, Any]] = [
    {"input": "How high is the river?"},
    {"input": "What is the weather in Oslo?", "tools": [TOOL], "tool_choice": "required"},
    {"input": "what is 17*23?", "model": "o4-mini", "reasoning": {"effort": "low"}},
    {"input": [{"role": "user", "content": "Hi"}], "text": {"format": {"type": "json_object"}}},
]


def told(answer: Any) -> Any:
    """All that an object of the SDK says, but for what each answer has of its own."""
    fields = answer.model_dump()
    return {name: value for name, value in fields.items() if name not in OWN}


@pytest.fixture
async def plane(serve: Serve) -> AsyncIterator[Plane]:
    async with serve(policies=[entry("cache", **SAMPLED)]) as running:
        yield running


@pytest.fixture
async def client(plane: Plane) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=plane.url, api_key="sk-x", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("ask", ASKS, ids=["text", "tool", "reasoning", "json"])
async def test_responses(plane: Plane, client: AsyncOpenAI, simulator: Simulator, ask: dict[str, Any]) -> None:
    """Whole, and streamed by the SDK's own accumulator, which checks the order of events."""
    ask = {"model": "gpt-4o-mini", "store": False, **ask}
    first = await client.responses.create(**ask)
    await plane.quiet()
    second = await client.responses.create(**ask)
    assert told(second) == told(first)
    assert (second.id != first.id, second.id.split("_")[0]) == (True, "resp")
    assert second._request_id
    async with client.responses.stream(**ask) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == first.output_text
    assert [item.type for item in final.output] == [item.type for item in first.output]
    assert final.usage == first.usage
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert simulator.state.requests == 1


async def test_a_streamed_response_first(plane: Plane, client: AsyncOpenAI, simulator: Simulator) -> None:
    """What was streamed by the provider is whole for who asks for that."""
    ask: dict[str, Any] = {"model": "gpt-4o-mini", "store": False, "input": "How high is the river?"}
    async with client.responses.stream(**ask) as stream:
        async for _ in stream:
            pass
        first = await stream.get_final_response()
    await plane.quiet()
    second = await client.responses.create(**ask)
    assert second.output_text == first.output_text
    assert second.usage == first.usage
    assert simulator.state.requests == 1


async def test_embeddings(plane: Plane, client: AsyncOpenAI, simulator: Simulator) -> None:
    """As the SDK asks for them by default, in base64."""
    answers = []
    for _ in range(2):
        answers.append(await client.embeddings.create(model="text-embedding-3-small", input=["the river", "the weir"]))
        await plane.quiet()
    assert told(answers[0]) == told(answers[1])
    assert simulator.state.requests == 1


async def test_the_raw_answer(plane: Plane, client: AsyncOpenAI) -> None:
    """Applications that look at headers find a request id and the content type; what is ours begins with x-weir."""
    ask: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
    seen = []
    for _ in range(2):
        raw = await client.chat.completions.with_raw_response.create(**ask)
        seen.append(raw)
        await plane.quiet()
    first, second = seen
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.request_id and first.request_id and second.request_id != first.request_id
    new = {name for name in second.headers if name not in first.headers}
    assert {name for name in new if not name.startswith("x-weir-")} <= {"age", "date"}
