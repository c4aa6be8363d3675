"""A whole answer and its stream are two forms of one thing: each is made of the other, and back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import Verdict, stream_reader
from proxy.dialects.gathering import gathered
from proxy.dialects.unrolling import pieces, unrolled

Json = dict[str, Any]
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=200)
filled = texts.filter(bool)


def lines(events: list[tuple[str | None, Json]]) -> list[bytes]:
    return [orjson.dumps(told) for _, told in events]


@st.composite
def tokens(draw: st.DrawFn) -> tuple[str, Json]:
    """A text and its logprobs."""
    cut = draw(st.lists(filled, min_size=1, max_size=6))
    told = [{"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": []} for token in cut]
    return "".join(cut), {"content": told, "refusal": None}


calls = st.fixed_dictionaries(
    {
        "id": st.from_regex(r"call_[a-z0-9]{4}", fullmatch=True),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.sampled_from(["get", "put"]), "arguments": texts}),
    }
)


@st.composite
def choices(draw: st.DrawFn, index: int) -> Json:
    message: Json = {"role": "assistant"}
    logprobs = None
    message["content"] = draw(st.none() | texts)
    if draw(st.booleans()):
        message["content"], logprobs = draw(tokens())
    message["refusal"] = draw(st.none() | texts)
    if draw(st.booleans()):
        message["tool_calls"] = draw(st.lists(calls, min_size=1, max_size=3))
    if draw(st.booleans()):
        message["reasoning_content"] = draw(filled)
        message["annotations"] = [{"type": "url_citation", "url_citation": {"url": "https://example.org"}}]
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"])),
    }


@st.composite
def completions(draw: st.DrawFn) -> Json:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o",
        "choices": [draw(choices(index)) for index in range(draw(st.integers(1, 3)))],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        "service_tier": "default",
        "system_fingerprint": "fp",
    }


@given(completions())
def test_chat(answer: Json) -> None:
    """Choices, tool calls, logprobs, refusals, reasoning and usage survive both ways."""
    events = unrolled("chat", answer, include_usage=True)
    assert events is not None
    assert gathered("chat", [*lines(events), b"[DONE]"]) == answer
    reader = stream_reader("chat")
    verdicts = [reader.event(line) for line in lines(events)]
    assert verdicts == [Verdict.PASS] * (len(verdicts) - 1) + [Verdict.USAGE]
    assert all(told["usage"] is None for _, told in events[:-1])


@given(completions())
def test_chat_without_usage(answer: Json) -> None:
    """A client that didn't ask for the usage chunk gets none, nor a `usage` field."""
    events = unrolled("chat", answer)
    assert events is not None
    assert all("usage" not in told for _, told in events)
    assert all(told["choices"] for _, told in events)


@given(texts, st.sampled_from(["stop", "length"]))
def test_completions(text: str, reason: str) -> None:
    """The old completions stream `text`."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    answer = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    events = unrolled("chat", {**answer, "usage": usage}, include_usage=True)
    assert events is not None
    assert gathered("chat", [*lines(events), b"[DONE]"]) == {**answer, "usage": usage}


@given(texts)
def test_pieces(text: str) -> None:
    """Pieces are short, and joined they are the text."""
    assert "".join(pieces(text)) == text
    assert all(0 < len(piece) <= 48 for piece in pieces(text[: 48 * 32]))
    assert len(pieces(text * 100)) <= 64
    assert "".join(pieces(text * 100)) == text * 100


OUTPUT: list[Json] = [
    {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Thinking it over. " * 9}]},
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [
            {
                "type": "output_text",
                "text": "Low walls " * 20,
                "annotations": [{"type": "url_citation"}],
                "logprobs": [],
            },
            {"type": "refusal", "refusal": "No."},
        ],
    },
    {
        "id": "fc_1",
        "type": "function_call",
        "name": "get",
        "call_id": "c",
        "arguments": '{"a":1}',
        "status": "completed",
    },
    {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search"}},
]


def test_responses() -> None:
    """Numbered events that end in the whole response; what is added piece by piece is what is done at the end."""
    answer = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "output": OUTPUT,
        "usage": {"input_tokens": 1},
    }
    events = unrolled("responses", answer)
    assert events is not None
    assert gathered("responses", lines(events)) == answer
    assert [told["sequence_number"] for _, told in events] == list(range(len(events)))
    assert all(name == told["type"] for name, told in events)
    said: dict[str, str] = {}
    for name, told in events:
        assert name is not None
        if name.endswith(".delta"):
            said[name] = said.get(name, "") + told["delta"]
    assert said == {
        "response.reasoning_summary_text.delta": "Thinking it over. " * 9,
        "response.output_text.delta": "Low walls " * 20,
        "response.refusal.delta": "No.",
        "response.function_call_arguments.delta": '{"a":1}',
    }
    reader = stream_reader("responses")
    assert [reader.event(line) for line in lines(events)][-1] == Verdict.END


BLOCKS: list[Json] = [
    {"type": "thinking", "thinking": "Hm. " * 30, "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "x"},
    {"type": "text", "text": "Low walls " * 20, "citations": [{"type": "char_location", "cited_text": "a"}]},
    {"type": "text", "text": "", "citations": None},
    {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"a": [1, {"b": "é"}]}},
]


def test_messages() -> None:
    """Anthropic's blocks: text, thinking with its signature, citations, tool use."""
    usage = {"input_tokens": 3, "output_tokens": 9, "cache_read_input_tokens": 1}
    answer: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": BLOCKS}
    answer |= {"stop_reason": "end_turn", "stop_sequence": None, "usage": usage}
    events = unrolled("anthropic", answer)
    assert events is not None
    assert gathered("anthropic", lines(events)) == answer
    reader = stream_reader("anthropic")
    assert [reader.event(line) for line in lines(events)][-1] == Verdict.END
    assert reader.reading.usage is not None
    assert (reader.reading.usage.input_tokens, reader.reading.usage.output_tokens) == (4, 9)


@pytest.mark.parametrize(
    ("dialect", "events"),
    [
        ("chat", []),
        ("chat", [b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}']),  # no [DONE]
        ("chat", [b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}', b"[DONE]"]),
        ("chat", [b'{"error":{"message":"no"}}', b"[DONE]"]),
        ("responses", [b'{"type":"response.created","response":{}}']),
        ("responses", [b'{"type":"response.failed","response":{}}']),
        ("anthropic", [b'{"type":"message_start","message":{}}', b'{"type":"message_stop"}']),
        ("images", [b'{"type":"image_generation.completed"}']),
    ],
)
def test_not_whole(dialect: str, events: list[bytes]) -> None:
    """What is cut short, failed or not understood is no answer to keep."""
    assert gathered(dialect, events) is None


def test_a_provider_that_repeats_itself() -> None:
    """Role, name and id on every chunk aren't doubled; arguments in pieces are joined, call by call."""
    pieces_of = [
        {"role": "assistant", "tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "get"}}]},
        {"role": "assistant", "tool_calls": [{"index": 0, "id": "a", "function": {"name": "get", "arguments": "{"}}]},
        {"role": "assistant", "tool_calls": [{"index": 1, "id": "b", "function": {"name": "put", "arguments": "[]"}}]},
        {"tool_calls": [{"index": 0, "id": "", "function": {"arguments": "}"}}]},
    ]
    events = [{"choices": [{"index": 0, "delta": piece, "finish_reason": None}]} for piece in pieces_of]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    answer = gathered("chat", [*map(orjson.dumps, events), b"[DONE]"])
    assert answer is not None
    message = answer["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "get", "arguments": "{}"}},
        {"id": "b", "function": {"name": "put", "arguments": "[]"}},
    ]
