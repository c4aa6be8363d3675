"""What of a body the model will read."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.body import WHOLE_BYTES, scan
from proxy.tokens.texts import AUDIO, FILE, IMAGE, elsewhere, texts
from tests.tokens.conftest import body, chat

PIXELS = "iVBORw0KGgoAAAANSUhEUgAA" * 20


def test_chat() -> None:
    """Contents are texts; messages and the end are framing."""
    found = texts("chat.completions", chat("one", "two", "three"))
    assert (found.pieces, found.framing) == (["one", "two", "three"], 4 * 3 + 3)


def test_parts_calls_and_names() -> None:
    """Text parts, names, calls of tools and their results are read; ids, roles and encoded bytes are not."""
    messages = [
        {
            "role": "user",
            "name": "ann",
            "content": [{"type": "text", "text": "what is"}, {"type": "text", "text": "it"}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "a weir"},
    ]
    assert texts("chat.completions", body(messages=messages)).pieces == [
        "ann",
        "what is",
        "it",
        "look",
        '{"at": 1}',
        "a weir",
    ]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXELS}"}}, IMAGE),
        ({"type": "input_audio", "input_audio": {"data": PIXELS, "format": "wav"}}, AUDIO),
        ({"type": "file", "file": {"file_data": PIXELS, "filename": "a.pdf"}}, FILE),
    ],
)
def test_media_are_not_text(part: dict[str, Any], kind: str) -> None:
    """An image's bytes are no words: it is noted as one medium."""
    found = texts(
        "chat.completions", body(messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, part]}])
    )
    assert (found.pieces, found.media) == (["?"], [kind])


def test_anthropics_messages() -> None:
    """The system prompt, blocks, results of tools and documents of text are read; images are media."""
    found = texts(
        "messages",
        body(
            system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXELS}},
                        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "once"}},
                        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}]},
                    ],
                }
            ],
        ),
    )
    assert (found.pieces, found.media) == (["once", "42", "be brief"], [IMAGE])


@pytest.mark.parametrize(
    ("given", "pieces", "framing"),
    [("hi", ["hi"], 7), ([{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}], ["hi"], 7)],
)
def test_responses(given: Any, pieces: list[str], framing: int) -> None:
    """Input as a text or as items; instructions come beside it."""
    assert texts("responses", body(input=given)).pieces == pieces
    assert texts("responses", body(input=given)).framing == framing
    assert texts("responses", body(input=given, instructions="be kind")).pieces == [*pieces, "be kind"]


@pytest.mark.parametrize(
    ("given", "pieces", "framing"),
    [
        ("a", ["a"], 0),
        (["a", "b"], ["a", "b"], 0),
        ([1, 2, 3], [], 3),
        ([[1, 2], [3]], [], 3),
        ([], [], 0),
        (None, [], 0),
    ],
)
def test_embeddings(given: Any, pieces: list[str], framing: int) -> None:
    """Texts, lists of them, and tokens that count as themselves."""
    found = texts("embeddings", body(input=given))
    assert (found.pieces, found.framing) == (pieces, framing)


@pytest.mark.parametrize("strange", [{"messages": 5}, {"messages": [None, 3]}, {"messages": [{}]}, {}])
def test_strange_bodies(strange: dict[str, Any]) -> None:
    """What no upstream would take is no reason to fail."""
    assert texts("chat.completions", body(**strange)).pieces == []


def test_large_images_are_not_parsed() -> None:
    """A body of few strings keeps its parts unparsed; the image in it is found, and so is its text."""
    question = "What is in this picture? " * 200
    raw = orjson.dumps(
        {
            "model": "gpt-4o",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": question},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PIXELS * 2000}},
                    ],
                }
            ],
        }
    )
    large = scan(raw)
    found = texts("chat.completions", large)
    assert len(raw) > WHOLE_BYTES
    assert not large.parsed
    assert found.media == [IMAGE]
    assert [sample.decode() for sample, _ in found.samples] == [question]
    assert "messages" not in large._fields


def test_large_texts_are_sampled_and_unescaped() -> None:
    """A long text spelled in escapes is sampled as the characters that it means."""
    raw = b'{"model":"m","messages":[{"role":"user","content":"' + b"\\u6c34\\u58e9" * 30_000 + b'"}]}'
    ((sample, factor),) = texts("chat.completions", scan(raw)).samples
    assert set(sample.decode("utf-8", "replace")) - set("0123456789abcdefu\\") == {"水", "壩"}
    assert factor * 8 * 1024 == pytest.approx(360_000, rel=0.01)


@pytest.mark.parametrize(
    ("endpoint", "fields", "there"),
    [
        ("chat.completions", {}, False),
        ("chat.completions", {"tools": [{"type": "function", "function": {"name": "f"}}]}, False),
        ("messages", {"tools": [{"name": "f", "input_schema": {}}]}, False),
        ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, True),
        ("responses", {"tools": [{"type": "file_search"}]}, True),
        ("responses", {"previous_response_id": "resp_1"}, True),
        ("responses", {"prompt": {"id": "pmpt_1"}}, True),
        ("completions", {"prompt": "once"}, False),
        ("chat.completions", {"web_search_options": {}}, True),
        ("messages", {"mcp_servers": [{"url": "https://mcp.example"}]}, True),
    ],
)
def test_what_stands_elsewhere(endpoint: str, fields: dict[str, Any], there: bool) -> None:
    """Stored responses, prompts and built-in tools bring text that no look at the body can bound."""
    assert elsewhere(endpoint, body(**fields)) is there
