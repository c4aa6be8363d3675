"""Whole answers, dialect by dialect: usage, model, tier, error."""

from __future__ import annotations

import msgspec
import orjson
import pytest

from proxy.dialects import Reading, Usage, read_tail, read_unary


def read(dialect: str, **answer: object) -> Reading:
    """What is read of an answer with these fields."""
    return read_unary(dialect, orjson.dumps(answer))


def counts(reading: Reading) -> dict[str, int]:
    """Its counts, where it has usage."""
    assert reading.usage is not None
    return reading.usage.counts()


def test_chat_counts_every_part() -> None:
    """Cached, written, audio and reasoning tokens are parts of totals that include them."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10, "audio_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 5, "rejected_prediction_tokens": 3},
    }
    reading = read("chat", usage=usage)
    assert counts(reading) == {
        "input_tokens": 100,
        "output_tokens": 50,
        "cached_tokens": 40,
        "cache_write_tokens": 10,
        "reasoning_tokens": 30,
        "input_audio_tokens": 20,
        "output_audio_tokens": 5,
    }
    assert reading.usage is not None
    assert orjson.loads(msgspec.json.encode(reading.usage.given)) == usage


def test_an_answer_says_who_it_is() -> None:
    """The served model and tier, which set the price, are the answer's, not the request's."""
    reading = read(
        "chat",
        id="chatcmpl-1",
        model="gpt-4o-mini-2024-07-18",
        service_tier="flex",
        choices=[{"index": 0, "finish_reason": "length"}, {"index": 1, "finish_reason": "stop"}],
    )
    assert (reading.response_id, reading.model, reading.service_tier) == (
        "chatcmpl-1",
        "gpt-4o-mini-2024-07-18",
        "flex",
    )
    assert reading.finish_reason == "length"
    assert reading.usage is None


def test_fields_of_other_types_lose_nothing_else() -> None:
    """An id that is a number and choices that are an object don't cost the usage beside them."""
    reading = read("chat", id=7, choices={}, model="m", usage={"prompt_tokens": 3, "completion_tokens": 4})
    assert reading.model == "m"
    assert counts(reading) == {"input_tokens": 3, "output_tokens": 4}


@pytest.mark.parametrize(
    ("error", "read_as"), [({"message": "no", "code": 1}, {"message": "no", "code": 1}), ("no", {"message": "no"})]
)
@pytest.mark.parametrize("dialect", ["chat", "embeddings", "anthropic"])
def test_an_error_is_an_object_with_a_message(dialect: str, error: object, read_as: dict[str, object]) -> None:
    """Whether it comes as an object or as text."""
    assert read(dialect, error=error).error == read_as


def test_embeddings_have_no_output() -> None:
    """Their total equals their input."""
    assert counts(read("embeddings", data=[], usage={"prompt_tokens": 9, "total_tokens": 9})) == {
        "input_tokens": 9,
        "output_tokens": 0,
    }


def test_images_count_image_tokens() -> None:
    """Image tokens in and out are parts of input and output."""
    usage = {
        "input_tokens": 300,
        "output_tokens": 1056,
        "total_tokens": 1356,
        "input_tokens_details": {"text_tokens": 100, "image_tokens": 200},
        "output_tokens_details": {"image_tokens": 1056, "text_tokens": 0},
    }
    assert counts(read("images", usage=usage)) == {
        "input_tokens": 300,
        "output_tokens": 1056,
        "input_image_tokens": 200,
        "output_image_tokens": 1056,
    }


def test_transcripts_in_tokens_count_audio() -> None:
    """A transcription model that counts tokens tells how many were audio."""
    usage = {
        "type": "tokens",
        "input_tokens": 14,
        "output_tokens": 45,
        "total_tokens": 59,
        "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
    }
    reading = counts(read("audio", text="…", usage=usage))
    assert (reading["input_tokens"], reading["output_tokens"]) == (14, 45)
    assert reading["input_audio_tokens"] == 14


def test_cached_audio_and_images_are_told_apart() -> None:
    """Cached tokens told by kind are read by kind, since audio and images have prices of their own."""
    details = {
        "audio_tokens": 60,
        "image_tokens": 30,
        "cached_tokens": 50,
        "cached_tokens_details": {"text_tokens": 5, "audio_tokens": 25, "image_tokens": 20},
    }
    reading = counts(read("chat", usage={"input_tokens": 100, "output_tokens": 1, "input_token_details": details}))
    assert (reading["cached_tokens"], reading["cached_audio_tokens"], reading["cached_image_tokens"]) == (50, 25, 20)


def test_a_response_is_read_by_its_new_names() -> None:
    """`input_tokens` and `output_tokens` with their details."""
    reading = read(
        "responses",
        id="resp_1",
        status="completed",
        model="gpt-5",
        service_tier="default",
        usage={
            "input_tokens": 75,
            "input_tokens_details": {"cached_tokens": 32},
            "output_tokens": 1186,
            "output_tokens_details": {"reasoning_tokens": 1024},
            "total_tokens": 1261,
        },
    )
    assert (reading.response_id, reading.model, reading.service_tier) == ("resp_1", "gpt-5", "default")
    assert counts(reading) == {
        "input_tokens": 75,
        "output_tokens": 1186,
        "cached_tokens": 32,
        "reasoning_tokens": 1024,
    }


def test_a_failed_response_that_used_tokens_is_an_answer() -> None:
    """It comes with status 200, an `error` and the usage that is billed: it passes as it is."""
    reading = read(
        "responses", status="failed", error={"code": "server_error"}, usage={"input_tokens": 5, "output_tokens": 1}
    )
    assert reading.error is None
    assert counts(reading) == {"input_tokens": 5, "output_tokens": 1}


def test_anthropic_input_is_made_whole() -> None:
    """Its `input_tokens` leave out what was read from and written to the cache; here they are in, once."""
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 2000,
        "cache_creation_input_tokens": 500,
        "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300},
        "output_tokens": 77,
        "server_tool_use": {"web_search_requests": 2},
        "service_tier": "batch",
    }
    reading = read("anthropic", id="msg_1", model="claude-sonnet-4-5-20250929", stop_reason="end_turn", usage=usage)
    assert counts(reading) == {
        "input_tokens": 2510,
        "output_tokens": 77,
        "cached_tokens": 2000,
        "cache_write_tokens": 200,
        "cache_write_1h_tokens": 300,
        "searches": 2,
    }
    assert (reading.model, reading.service_tier, reading.finish_reason) == (
        "claude-sonnet-4-5-20250929",
        "batch",
        "end_turn",
    )


def test_an_anthropic_error_is_told_by_its_type() -> None:
    """`{"type": "error", "error": {…}}`."""
    error = {"type": "overloaded_error", "message": "Overloaded"}
    assert read("anthropic", type="error", error=error).error == error


@pytest.mark.parametrize("cut", [0, 1, 50, 5_000])
def test_the_tail_of_a_large_answer_tells_its_usage(cut: int) -> None:
    """Where the beginning couldn't be held, the last usage object counts, whatever stands before it."""
    answer = orjson.dumps(
        {
            "data": ["x" * 10_000, '{"usage": {"prompt_tokens": 1}}'],
            "usage": {"prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens": 3},
        }
    )
    reading = read_tail("chat", answer[cut:])
    assert counts(reading) == {"input_tokens": 8, "output_tokens": 3, "cached_tokens": 2}


@pytest.mark.parametrize("tail", [b"", b'"usage"', b'"usage":{', b'"usage":{"prompt_tokens":1', b'"usage":null}', b"}"])
def test_a_tail_without_whole_usage_tells_none(tail: bytes) -> None:
    """A usage object that is cut isn't guessed at."""
    assert read_tail("chat", tail).usage is None


def test_usage_says_only_what_was_used() -> None:
    """Counts of 0 aren't written to the journal, but input and output always are."""
    assert Usage().counts() == {"input_tokens": 0, "output_tokens": 0}
