"""How OpenAI's models are shown a request, and what that counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from proxy.tokens import Estimator
from proxy.tokens.exact import pieces_of, rendered
from proxy.tokens.process import Encodings
from tests.tokens.conftest import body, chat

CHAT = "chat.completions"
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a place.",
    "parameters": {
        "type": "object",
        "required": ["city"],
        "properties": {
            "city": {"type": "string", "description": "Its name."},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "array", "items": {"type": "integer"}},
            "at": {"type": "object", "properties": {"lat": {"type": "number"}}},
            "note": {"type": ["string", "null"]},
            "or": {"anyOf": [{"type": "boolean"}, {"type": "integer"}]},
        },
    },
}
NAMESPACE = """namespace functions {

// The weather of a place.
type get_weather = (_: {
// Its name.
city: string,
unit?: "celsius" | "fahrenheit",
days?: number[],
at?: {
  lat?: number,
},
note?: string | null,
or?: boolean | number,
}) => any;

type ping = () => any;

} // namespace functions"""


class Local:
    """A counter in this process."""

    def __init__(self, cache: Path) -> None:
        self._encodings = Encodings(cache)

    async def count(self, encoding: str, pieces: list[str]) -> int | None:
        return self._encodings.count(encoding, pieces)


async def test_the_shortest_chat(cache: Path) -> None:
    """`hi` from a user is 8 tokens: 3 for the message, role, content, and 3 at the end."""
    estimator = Estimator(Local(cache))
    for model in ("gpt-4o", "gpt-4"):
        counting = estimator.exact(model, CHAT, chat("hi"))
        assert counting is not None
        assert await counting == 8


async def test_names_cost_one_more(cache: Path) -> None:
    """A name is its tokens and one."""
    messages = [{"role": "user", "content": "hi", "name": "ann"}]
    counting = Estimator(Local(cache)).exact("gpt-4o", CHAT, body(messages=messages))
    assert counting is not None
    assert await counting == 8 + 1 + 1


async def test_embeddings_are_their_text(cache: Path) -> None:
    """Embeddings have no frame; tokens that are given as such count as they are."""
    estimator = Estimator(Local(cache))
    for given, count in (("hi", 1), (["hi", "hi"], 2), ([5, 6, 7], 3), ([[5], [6, 7]], 3)):
        counting = estimator.exact("text-embedding-3-small", "embeddings", body(input=given))
        assert counting is not None
        assert await counting == count


def test_tools_as_types() -> None:
    """Functions are shown as the types of a namespace: optional ones, enumerations, arrays, objects, choices."""
    assert rendered([WEATHER, {"name": "ping"}]) == NAMESPACE


def test_tools_share_a_system_messages_frame() -> None:
    """Tools cost 9 beside their text; less where a system message is there already."""
    tools = [{"type": "function", "function": WEATHER}]
    alone = pieces_of(CHAT, body(messages=[{"role": "user", "content": "x"}], tools=tools))
    beside = pieces_of(CHAT, body(messages=[{"role": "system", "content": "x"}], tools=tools))
    assert alone is not None
    assert beside is not None
    assert (alone[1], beside[1]) == (3 + 3 + 9, 3 + 3 + 9 - 3)
    assert alone[0][-1].startswith("namespace functions {")


def test_responses_are_framed_like_chat() -> None:
    """A text, or items that are messages, with instructions as a system message before them."""
    assert pieces_of("responses", body(input="hi")) == (["user", "hi"], 6)
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    assert pieces_of("responses", body(input=items, instructions="be kind")) == (["system", "be kind", "user", "hi"], 9)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
        (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}),
        (CHAT, {"messages": "hi"}),
        (CHAT, {"messages": [], "response_format": {"type": "json_schema"}}),
        (CHAT, {"messages": [], "tools": [{"type": "custom", "custom": {}}]}),
        ("responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}),
        ("responses", {"input": "x", "previous_response_id": "resp_1"}),
        ("embeddings", {"input": [None]}),
        ("messages", {"messages": [{"role": "user", "content": "hi"}]}),
    ],
)
def test_what_isnt_known_isnt_guessed(endpoint: str, fields: dict[str, Any]) -> None:
    """Framing that nobody has measured has no exact count."""
    assert pieces_of(endpoint, body(**fields)) is None


def test_models_of_others() -> None:
    """Without a counter, or for a model whose tokenizer isn't OpenAI's, there is nothing to wait for."""
    assert Estimator().exact("gpt-4o", CHAT, chat("hi")) is None
    assert Estimator(Local(Path("."))).exact("claude-sonnet-4-5", CHAT, chat("hi")) is None


async def test_without_ranks(tmp_path: Path) -> None:
    """A cache without files, or with a wrong one, counts nothing, and fetches nothing."""
    from proxy.tokens import ranks

    (tmp_path / ranks.ALL[0].file_name).write_bytes(b"not the ranks")
    counting = Estimator(Local(tmp_path)).exact("gpt-4o", CHAT, chat("hi"))
    assert counting is not None
    assert await counting is None
    assert os.listdir(tmp_path) == [ranks.ALL[0].file_name]
