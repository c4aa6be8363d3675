"""What the provider's own tools did: searches, file searches, containers, as answers and streams tell them."""

from __future__ import annotations

import orjson
import pytest

from proxy.dialects import Usage, read_large, read_unary, stream_reader

SEARCH = {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}}
OPENED = {"type": "web_search_call", "action": {"type": "open_page", "url": "https://example.com"}}
FOUND = {"type": "web_search_call", "action": {"type": "find_in_page", "pattern": "y"}}
FILES = {"type": "file_search_call", "queries": ["x"], "results": None}
TEXT = {"type": "message", "content": [{"type": "output_text", "text": "a web_search_call is only a word here"}]}
USED = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}


def code(container: str) -> dict[str, str]:
    """Code that ran in a container."""
    return {"type": "code_interpreter_call", "container_id": container, "code": "1"}


def answer(*items: dict[str, object], **more: object) -> dict[str, object]:
    """A whole response."""
    return {"id": "resp_1", "status": "completed", "model": "gpt-5", "output": list(items), "usage": USED, **more}


def used(body: dict[str, object]) -> Usage:
    """What is read of a whole response."""
    usage = read_unary("responses", orjson.dumps(body)).usage
    assert usage is not None
    return usage


def streamed(*events: dict[str, object]) -> Usage:
    """What is read of a stream."""
    reader = stream_reader("responses")
    for event in events:
        reader.event(orjson.dumps(event))
    assert reader.reading.usage is not None
    return reader.reading.usage


def done(item: dict[str, object]) -> dict[str, object]:
    """The event that says that an item is complete."""
    return {"type": "response.output_item.done", "item": item}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([TEXT], (0, 0, 0)),
        ([SEARCH, SEARCH, TEXT], (2, 0, 0)),
        ([SEARCH, OPENED, FOUND], (1, 0, 0)),  # to open a page, or to look into it, is free
        ([{"type": "web_search_call", "status": "completed"}], (1, 0, 0)),  # as Azure tells it
        ([FILES, FILES, FILES], (0, 3, 0)),
        ([code("a"), code("b"), code("a")], (0, 0, 2)),  # a container once, however often code ran in it
        ([{"type": "code_interpreter_call"}, {"type": "code_interpreter_call"}], (0, 0, 1)),
        ([SEARCH, FILES, code("a"), TEXT], (1, 1, 1)),
    ],
)
def test_calls_are_counted(items: list[dict[str, object]], expected: tuple[int, int, int]) -> None:
    """Whole or streamed, with the items in the events, in the last one, or in both: the same counts."""
    ended = {"type": "response.completed", "response": answer(*items)}
    bare = {"type": "response.completed", "response": answer()}
    for usage in (
        used(answer(*items)),
        streamed(ended),
        streamed(*map(done, items), bare),
        streamed(*map(done, items), ended),
    ):
        assert (usage.searches, usage.file_searches, usage.code_sessions) == expected
        assert (usage.input_tokens, usage.output_tokens, usage.clamped) == (100, 10, False)


def test_they_are_in_the_counts() -> None:
    """The journal's counts name them, beside the tokens."""
    assert used(answer(SEARCH, FILES, code("a"))).counts() == {
        "input_tokens": 100,
        "output_tokens": 10,
        "searches": 1,
        "file_searches": 1,
        "code_sessions": 1,
    }


def test_the_preview_of_a_tool() -> None:
    """Searches by the tool's preview are told apart: they may cost more."""
    for name, preview in (("web_search_preview", 2), ("web_search_preview_2025_03_11", 2), ("web_search", 0)):
        body = answer(SEARCH, SEARCH, tools=[{"type": "function", "name": "f"}, {"type": name}])
        for usage in (used(body), streamed(done(SEARCH), {"type": "response.completed", "response": body})):
            assert (usage.searches, usage.preview_searches) == (2, preview)


def test_what_the_response_says_itself_counts() -> None:
    """Where it says how often it searched, its items don't count."""
    body = answer(SEARCH, SEARCH, tool_usage={"web_search": {"num_requests": 1}})
    assert used(body).searches == 1
    assert streamed(done(SEARCH), done(SEARCH), {"type": "response.completed", "response": body}).searches == 1
    assert used(answer(SEARCH, tool_usage={"web_search": None})).searches == 1


def test_images_made_on_the_way_make_an_estimate() -> None:
    """What they cost isn't told: the cost of the response is marked as estimated."""
    assert used(answer({"type": "image_generation_call", "result": "…"})).clamped


@pytest.mark.parametrize(
    "odd",
    [
        {"output": "web_search_call"},
        {"output": [{"type": 5}, "web_search_call"]},
        {"output": [{"type": "web_search_call", "action": "search"}], "tools": "all"},
        {"output": None, "tool_usage": []},
    ],
)
def test_items_of_another_form(odd: dict[str, object]) -> None:
    """Odd items cost their counts, never the usage or the answer."""
    assert used({**answer(), **odd}).input_tokens == 100
    assert streamed({"type": "response.completed", "response": {**answer(), **odd}}).input_tokens == 100


def test_an_end_too_large_to_look_into() -> None:
    """The calls of the events before it count."""
    reader = stream_reader("responses")
    reader.event(orjson.dumps(done(SEARCH)))
    tail = b'"}],"usage":{"input_tokens":7,"output_tokens":2}}}'
    read_large("responses", reader.reading, b'data: {"type":"response.completed","response":{', tail)
    assert reader.reading.usage is not None
    assert (reader.reading.usage.input_tokens, reader.reading.usage.searches) == (7, 1)


def test_anthropic_searches() -> None:
    """Claude's own tools are told in its usage."""
    usage = {"input_tokens": 1, "output_tokens": 2, "server_tool_use": {"web_search_requests": 3}}
    read = read_unary("anthropic", orjson.dumps({"type": "message", "usage": usage})).usage
    assert read is not None
    assert read.searches == 3


def test_providers_that_search_by_themselves() -> None:
    """Perplexity tells queries, citations and reasoning beside the totals; xAI each kind of tool."""
    told = {
        "prompt_tokens": 33,
        "completion_tokens": 7163,
        "total_tokens": 7196,
        "citation_tokens": 20016,
        "num_search_queries": 35,
        "reasoning_tokens": 73994,
    }
    read = read_unary("chat", orjson.dumps({"usage": told})).usage
    assert read is not None
    assert read.counts() == {
        "input_tokens": 33,
        "output_tokens": 7163 + 20016 + 73994,
        "reasoning_tokens": 73994,
        "citation_tokens": 20016,
        "searches": 35,
    }
    told = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "server_side_tool_usage_details": {"web_search_calls": 2, "x_search_calls": 1, "code_interpreter_calls": 0},
    }
    read = read_unary("chat", orjson.dumps({"usage": told})).usage
    assert read is not None
    assert (read.searches, read.output_tokens) == (3, 5)


@pytest.mark.parametrize(
    "names", [("prompt_tokens", "prompt_tokens_details"), ("input_tokens", "input_tokens_details")]
)
def test_writes_to_a_cache_of_twelve_hours(names: tuple[str, str]) -> None:
    """OpenAI splits what was written to its cache by how long it stays."""
    total, details = names
    told = {
        total: 12_011,
        "completion_tokens": 77,
        details: {
            "cached_tokens": 3001,
            "cache_write_tokens": 3004,
            "cache_write_tokens_details": {"ttl_30m_tokens": 2003, "ttl_12h_tokens": 1001},
        },
    }
    read = read_unary("chat", orjson.dumps({"usage": told})).usage
    assert read is not None
    assert (read.cached_tokens, read.cache_write_tokens, read.cache_write_12h_tokens) == (3001, 2003, 1001)
