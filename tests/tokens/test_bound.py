"""Proven maxima."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.tokens import Estimator
from proxy.tokens.exact import pieces_of
from proxy.tokens.process import Encodings
from tests.tokens.conftest import body, chat

IMAGE = {"type": "image_url", "image_url": {"url": "https://pictures.example/" + "a" * 5000}}


def bound(model: str, endpoint: str = "chat.completions", **fields: Any) -> int | None:
    return Estimator().bound(model, endpoint, body(model=model, **fields))


def test_a_byte_is_a_token_at_most() -> None:
    """The bound of a chat is its text's bytes, its JSON's and a few more."""
    request = chat("x" * 1000)
    found = Estimator().bound("gpt-4o", "chat.completions", request)
    assert found is not None
    assert 1000 < found <= len(request) + 16


@settings(max_examples=60, deadline=None)
@given(contents=st.lists(st.text(max_size=80), min_size=1, max_size=5))
def test_no_request_exceeds_it(contents: list[str]) -> None:
    """Whatever is written, tiktoken counts less than the bound, in both vocabularies."""
    request = chat(*contents)
    pieces = pieces_of("chat.completions", request)
    assert pieces is not None
    for model in ("gpt-4", "gpt-4o"):
        most = Estimator().bound(model, "chat.completions", request)
        # The most that any vocabulary of bytes can make of it: each byte alone.
        worst = sum(len(piece.encode()) for piece in pieces[0]) + pieces[1]
        assert most is not None
        assert worst <= most


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=300))
def test_no_text_exceeds_it(text: str) -> None:
    """The premise itself: a token is at least one byte."""
    assert _counted(text) <= len(text.encode())


_encodings: list[Encodings] = []


@pytest.fixture(autouse=True)
def _ranks(request: pytest.FixtureRequest) -> None:
    if request.node.name.startswith("test_no_text") and not _encodings:
        _encodings.append(Encodings(request.getfixturevalue("cache")))


def _counted(text: str) -> int:
    count = _encodings[0].count("o200k_base", [text])
    assert count is not None
    return count


def test_escapes_count_as_what_they_mean() -> None:
    """Six bytes that spell one character of three are bounded by three."""
    from proxy.body import scan

    escaped = scan(b'{"messages":[{"role":"user","content":"' + b"\\u6c34" * 500 + b'"}]}')
    found = Estimator().bound("gpt-4o", "chat.completions", escaped)
    assert found is not None
    assert 1500 <= found < 1700


def test_normalisation_may_lengthen() -> None:
    """One character that a normalising tokenizer reads as 18 is bounded so; for OpenAI's it is its three bytes."""
    ours, theirs = bound("gpt-4o", messages="ﷺ" * 100), bound("claude-sonnet-4-5", messages="ﷺ" * 100)
    assert ours is not None
    assert theirs is not None
    assert ours < 400
    assert theirs > 3000


def test_images_have_their_providers_maximum() -> None:
    """The address is no text, each image is its most; where no maximum is known there is no bound."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "?"}, IMAGE, IMAGE]}]
    found = bound("gpt-4o", messages=messages)
    assert found is not None
    assert 2 * 1445 < found < 2 * 1445 + 250
    assert bound("llava-7b", messages=messages) is None


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("responses", {"input": "x", "tools": [{"type": "web_search"}]}),
        ("responses", {"input": "x", "previous_response_id": "resp_1"}),
        ("chat.completions", {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}),
        ("chat.completions", {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}),
    ],
)
def test_what_has_no_bound(endpoint: str, fields: dict[str, Any]) -> None:
    """Built-in tools, stored responses, files and sound can't be bounded by looking at the body."""
    assert bound("gpt-4o", endpoint, **fields) is None


def test_models_that_search_by_themselves() -> None:
    """A model that reads the web unasked has no bound either."""
    assert bound("gpt-4o-search-preview", messages=[{"role": "user", "content": "x"}]) is None


def test_tools_cost_a_prompt_of_their_own() -> None:
    """What a template says about tools is allowed for, beside their definitions."""
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    plain, equipped = bound("gpt-4o", messages=[]), bound("gpt-4o", messages=[], tools=tools)
    assert plain is not None
    assert equipped is not None
    assert equipped - plain > 1024
