"""Streams, event by event: what passes, what is usage, what ends, and what they add up to."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import StreamReader, Verdict, stream_reader

CHUNK = {"id": "c", "object": "chat.completion.chunk", "model": "gpt-4o-mini-2024-07-18"}
USED = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def play(dialect: str, *events: object) -> tuple[StreamReader, list[Verdict]]:
    """A reader after these events, and its verdicts."""
    reader = stream_reader(dialect)
    return reader, [reader.event(e if isinstance(e, bytes) else orjson.dumps(e)) for e in events]


def delta(text: str = "a", **more: object) -> dict[str, object]:
    """A chunk with content."""
    return {**CHUNK, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}


# --- chat


def test_a_chat_stream_from_start_to_end() -> None:
    """Content passes, the chunk with usage alone is recognised, `[DONE]` ends."""
    last = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "service_tier": "flex"}
    reader, verdicts = play("chat", delta(usage=None), last, {**CHUNK, "choices": [], "usage": USED}, b"[DONE]")
    assert verdicts == [Verdict.PASS, Verdict.PASS, Verdict.USAGE, Verdict.END]
    reading = reader.reading
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (7, 3)
    assert (reading.model, reading.service_tier, reading.finish_reason) == ("gpt-4o-mini-2024-07-18", "flex", "stop")


def test_usage_beside_choices_is_read_and_passes() -> None:
    """Some servers put usage into a chunk with content: it counts, and the chunk isn't taken out."""
    reader, verdicts = play("chat", delta(usage=USED))
    assert verdicts == [Verdict.PASS]
    assert reader.reading.usage is not None
    assert reader.reading.usage.input_tokens == 7


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6))
def test_usage_told_again_counts_once(outputs: list[int]) -> None:
    """Usage in every chunk is a running total: the last one is the usage, they aren't added up."""
    events = [delta(usage={"prompt_tokens": 7, "completion_tokens": n}) for n in outputs]
    reader, _ = play("chat", *events)
    assert reader.reading.usage is not None
    assert reader.reading.usage.counts() == {"input_tokens": 7, "output_tokens": outputs[-1]}


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1, "completion_tokens": -1}])
def test_usage_that_says_nothing_forgets_nothing(usage: object) -> None:
    """Null, empty or absurd usage after a good one leaves the good one."""
    reader, _ = play("chat", delta(usage=USED), delta(usage=usage))
    assert reader.reading.usage is not None
    assert reader.reading.usage.output_tokens == 3


def test_an_empty_choice_list_without_usage_passes() -> None:
    """Azure's first chunk has no choices, only filter results: it isn't a chunk of usage."""
    _, verdicts = play("chat", {**CHUNK, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
    assert verdicts == [Verdict.PASS]


@pytest.mark.parametrize("error", [{"message": "boom", "code": 500}, "boom"])
@pytest.mark.parametrize("beside", [{}, delta()])
def test_an_error_in_the_stream_is_an_error(error: object, beside: dict[str, object]) -> None:
    """With or without a chunk around it, as an object or as text; it is kept."""
    reader, verdicts = play("chat", delta(), {**beside, "error": error})
    assert verdicts == [Verdict.PASS, Verdict.ERROR]
    assert reader.reading.error is not None
    assert reader.reading.error["message"] == "boom"


def test_an_error_of_null_is_none() -> None:
    """A chunk may carry `error: null`."""
    assert play("chat", delta(error=None))[1] == [Verdict.PASS]


def test_a_chunk_with_fields_of_other_types_still_tells_its_usage() -> None:
    """An odd model or finish reason doesn't make the chunk malformed, nor its usage lost."""
    odd = {"model": 5, "choices": [{"finish_reason": 1}], "usage": USED}
    reader, verdicts = play("chat", odd, {"model": {}, "choices": [], "usage": USED})
    assert verdicts == [Verdict.PASS, Verdict.USAGE]
    assert reader.reading.usage is not None


def test_a_malformed_chunk_leaves_what_was_read() -> None:
    """Half a chunk is malformed; the reading before it stands."""
    reader, verdicts = play("chat", delta(usage=USED), b'{"choices":[{"delta"')
    assert verdicts == [Verdict.PASS, Verdict.MALFORMED]
    assert reader.reading.usage is not None


# --- responses


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_a_response_ends_in_one_of_its_last_events(status: str) -> None:
    """Each of them carries usage, and the failed one too is the stream's own end, not a broken one."""
    response = {
        "id": "resp_1",
        "status": status,
        "model": "gpt-5",
        "service_tier": "priority",
        "error": {"code": "server_error"} if status == "failed" else None,
        "usage": {"input_tokens": 5, "output_tokens": 2},
    }
    reader, verdicts = play(
        "responses",
        {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "usage": None}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": f"response.{status}", "response": response},
    )
    assert verdicts == [Verdict.PASS, Verdict.PASS, Verdict.END]
    reading = reader.reading
    assert (reading.response_id, reading.model, reading.service_tier) == ("resp_1", "gpt-5", "priority")
    assert reading.finish_reason == status
    assert reading.usage is not None
    assert reading.usage.counts() == {"input_tokens": 5, "output_tokens": 2}
    assert reading.error is None


def test_a_response_without_its_last_event_has_not_ended() -> None:
    """Events that say that a part is done don't end the response."""
    done = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert play("responses", *({"type": kind} for kind in done))[1] == [Verdict.PASS] * 3


@pytest.mark.parametrize("event", [{"type": "error", "message": "boom", "code": "x"}, {"error": {"message": "boom"}}])
def test_an_error_event_of_responses_is_an_error(event: dict[str, object]) -> None:
    """As its own event, or as a bare error object."""
    reader, verdicts = play("responses", event)
    assert verdicts == [Verdict.ERROR]
    assert reader.reading.error is not None
    assert reader.reading.error["message"] == "boom"


# --- anthropic

START = {
    "type": "message_start",
    "message": {
        "model": "claude-sonnet-4-5-20250929",
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 90,
            "cache_creation_input_tokens": 0,
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}


def test_anthropic_usage_is_cumulative() -> None:
    """The input is told at the start, the output grows: the last count of each is the usage."""
    reader, verdicts = play(
        "anthropic",
        START,
        {"type": "ping"},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
        {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 5}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}},
        {"type": "message_stop"},
    )
    assert verdicts == [Verdict.PASS] * 5 + [Verdict.END]
    reading = reader.reading
    assert (reading.model, reading.service_tier, reading.finish_reason) == (
        "claude-sonnet-4-5-20250929",
        "standard",
        "end_turn",
    )
    assert reading.usage is not None
    assert reading.usage.counts() == {"input_tokens": 100, "output_tokens": 15, "cached_tokens": 90}


def test_anthropic_input_told_at_the_end_wins() -> None:
    """Later deltas may correct the input (tools that ran); null there corrects nothing."""
    reader, _ = play(
        "anthropic",
        START,
        {
            "type": "message_delta",
            "delta": {},
            "usage": {"input_tokens": 40, "cache_read_input_tokens": None, "output_tokens": 2},
        },
    )
    assert reader.reading.usage is not None
    assert reader.reading.usage.counts() == {"input_tokens": 130, "output_tokens": 2, "cached_tokens": 90}


def test_an_anthropic_error_event_is_an_error() -> None:
    """An overload in the middle of a stream comes as an event."""
    error = {"type": "overloaded_error", "message": "Overloaded"}
    reader, verdicts = play("anthropic", START, {"type": "error", "error": error})
    assert verdicts == [Verdict.PASS, Verdict.ERROR]
    assert reader.reading.error == error


# --- audio and images


@pytest.mark.parametrize(
    ("dialect", "passing", "last"),
    [
        ("audio", "transcript.text.delta", "transcript.text.done"),
        ("audio", "speech.audio.delta", "speech.audio.done"),
        ("images", "image_generation.partial_image", "image_generation.completed"),
        ("images", "image_edit.partial_image", "image_edit.completed"),
    ],
)
def test_typed_streams_end_with_usage(dialect: str, passing: str, last: str) -> None:
    """Their last event says so in its type, and carries usage."""
    usage = {"input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
    reader, verdicts = play(dialect, {"type": passing}, {"type": last, "usage": usage})
    assert verdicts == [Verdict.PASS, Verdict.END]
    assert reader.reading.usage is not None
    assert reader.reading.usage.counts() == {"input_tokens": 14, "output_tokens": 45}


@pytest.mark.parametrize("dialect", ["audio", "images"])
def test_an_error_of_a_typed_stream_is_an_error(dialect: str) -> None:
    """By its type, or by its field."""
    for event in ({"type": "error", "message": "boom"}, {"error": {"message": "boom"}}):
        reader, verdicts = play(dialect, event)
        assert verdicts == [Verdict.ERROR]
        assert reader.reading.error is not None
