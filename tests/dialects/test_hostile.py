"""What no upstream should send and some do: it must neither raise, nor cost nothing, nor cost the earth."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects import Verdict, read_unary, stream_reader

DIALECTS = ["chat", "embeddings", "images", "audio", "responses", "anthropic"]
STREAMS = ["chat", "responses", "anthropic", "audio"]
DEEP = b'{"type":"x","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def usage(dialect: str, text: str):
    """The usage that an answer with this usage object is read to have."""
    return read_unary(dialect, b'{"usage":%b}' % text.encode()).usage


@pytest.mark.parametrize("dialect", STREAMS)
def test_an_event_nested_without_end_is_malformed(dialect: str) -> None:
    """Decoding recurses; an upstream that nests 100,000 deep gets a verdict, not an exception."""
    assert stream_reader(dialect).event(DEEP) is Verdict.MALFORMED


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_nested_without_end_is_no_answer(dialect: str) -> None:
    """The same for a whole answer: the one exception that callers expect."""
    with pytest.raises(ValueError, match=r"."):
        read_unary(dialect, DEEP)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"7", b"<html>", b'{"usage":', b'"text"'])
def test_what_is_no_object_is_no_answer(dialect: str, body: bytes) -> None:
    """HTML, lists and cut JSON raise ValueError, whatever the dialect."""
    with pytest.raises(ValueError, match=r"."):
        read_unary(dialect, body)


@pytest.mark.parametrize("dialect", STREAMS)
@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"7", b"<html>", b'{"choices":[', b"\xff\xfe", b'{"a":1}{'])
def test_what_is_no_object_is_malformed(dialect: str, data: bytes) -> None:
    """The same in a stream is a verdict."""
    assert stream_reader(dialect).event(data) is Verdict.MALFORMED


@pytest.mark.parametrize("dialect", STREAMS)
@given(data=st.binary(max_size=60) | st.text(alphabet='{}[]":,0123eE.-+typeusagrochi\\u', max_size=60).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise(dialect: str, data: bytes) -> None:
    """Whatever an event holds, reading it gives a verdict."""
    assert stream_reader(dialect).event(data) in Verdict


def test_a_last_event_that_cant_be_read_whole_is_still_the_last() -> None:
    """A number beyond every double in `response.completed` loses its usage, not the end of the stream."""
    reader = stream_reader("responses")
    assert reader.event(b'{"type":"response.completed","response":{"x":1e999}}') is Verdict.END
    assert reader.reading.usage is None


@pytest.mark.parametrize("data", [b"[DONE]", b"[DONE] ", b"\t[DONE]"])
def test_done_with_spaces_is_done(data: bytes) -> None:
    """Some servers put a space after `[DONE]`."""
    assert stream_reader("chat").event(data) is Verdict.END


@pytest.mark.parametrize(
    "count", ["-1", "-9223372036854775808", str(2**53), str(2**63), str(2**64), "1.5", '"7"', "true"]
)
@pytest.mark.parametrize(
    ("dialect", "in_", "out"), [("chat", "prompt", "completion"), ("anthropic", "input", "output")]
)
def test_an_absurd_count_is_nought_and_flagged(dialect: str, in_: str, out: str, count: str) -> None:
    """The count that can't be meant isn't believed; the one beside it is, and the whole is marked as estimated."""
    read = usage(dialect, f'{{"{in_}_tokens":{count},"{out}_tokens":5}}')
    assert read is not None
    assert (read.input_tokens, read.output_tokens, read.clamped) == (0, 5, True)


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("chat", '{"prompt_tokens":-1,"completion_tokens":-1}'),
        ("anthropic", '{"input_tokens":-1,"output_tokens":-1}'),
        ("responses", '{"input_tokens":1.5,"output_tokens":"many"}'),
    ],
)
def test_usage_of_absurd_counts_alone_is_none(dialect: str, text: str) -> None:
    """Where nothing can be believed there is no usage, so the proxy's own estimate is charged instead of 0."""
    assert usage(dialect, text) is None


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("text", ["null", "{}", '{"total_tokens":57}', '{"tokens":{"in":3}}', '"much"', "[1]", "7"])
def test_usage_in_unknown_words_is_none(dialect: str, text: str) -> None:
    """A usage object without a count that is understood is not a usage of 0 tokens, which would cost nothing."""
    assert usage(dialect, text) is None


def test_usage_of_nought_is_believed() -> None:
    """Counts that are told to be 0 are 0."""
    read = usage("chat", '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}')
    assert read is not None
    assert (read.input_tokens, read.output_tokens, read.clamped) == (0, 0, False)


@pytest.mark.parametrize("largest", [2**53 - 1])
def test_the_largest_count_is_believed(largest: int) -> None:
    """2^53 - 1 is the largest whole number that every JSON reader agrees on."""
    read = usage("chat", f'{{"prompt_tokens":{largest},"completion_tokens":1}}')
    assert read is not None
    assert (read.input_tokens, read.clamped) == (largest, False)


def test_parts_never_exceed_their_total() -> None:
    """Cached and written tokens together, and audio, fit into the input, reasoning into the output: the rest is cut."""
    read = usage(
        "chat",
        '{"prompt_tokens":10,"completion_tokens":5,'
        '"prompt_tokens_details":{"cached_tokens":99,"cache_write_tokens":98,"audio_tokens":97},'
        '"completion_tokens_details":{"reasoning_tokens":96}}',
    )
    assert read is not None
    assert (read.cached_tokens, read.cache_write_tokens, read.input_audio_tokens) == (0, 10, 10)
    assert read.reasoning_tokens == 5


@pytest.mark.parametrize("reasoning", ["", ',"completion_tokens_details":{"reasoning_tokens":100}'])
def test_thinking_left_out_of_the_completion_is_output(reasoning: str) -> None:
    """xAI counts reasoning beside the completion and Gemini only in the total; both bill it as output."""
    read = usage("chat", f'{{"prompt_tokens":10,"completion_tokens":5,"total_tokens":115{reasoning}}}')
    assert read is not None
    assert read.output_tokens == 105
    assert read.reasoning_tokens == (100 if reasoning else 0)


def test_a_total_below_its_parts_changes_nothing() -> None:
    """A total that is too small takes nothing away."""
    read = usage("chat", '{"prompt_tokens":10,"completion_tokens":5,"total_tokens":3}')
    assert read is not None
    assert (read.input_tokens, read.output_tokens) == (10, 5)


@pytest.mark.parametrize(
    ("seconds", "ms"), [("12", 12_000), ("0.25", 250), ("-3", None), ('"9"', None), ("1e300", None)]
)
def test_audio_is_measured_by_its_duration(seconds: str, ms: int | None) -> None:
    """Transcription models without tokens tell seconds; an absurd duration is no usage."""
    read = usage("audio", f'{{"type":"duration","seconds":{seconds}}}')
    assert (read.audio_ms if read is not None else None) == ms


def test_a_bare_error_ends_an_anthropic_stream_too() -> None:
    """An error object without `type: error`, as gateways in between write it, is an error."""
    reader = stream_reader("anthropic")
    assert reader.event(b'{"error":{"message":"overloaded"}}') is Verdict.ERROR
    assert reader.reading.error == {"message": "overloaded"}
