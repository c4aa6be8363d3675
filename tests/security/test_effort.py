"""Input made to be slow to read: a megabyte of it takes no longer than a megabyte of anything else.

Each of these would take minutes where effort grows with the square of the input's length; a test that takes long fails.
"""

from __future__ import annotations

import pytest

from policies.cache.semantic import equality
from proxy import failures
from proxy.body import scan
from proxy.dialects import read_tail, stream_reader
from proxy.errors import WeirError
from proxy.form import find
from proxy.wire.sse import Splitter

MIB = 1 << 20
pytestmark = pytest.mark.timeout(60)

LINES = {
    "one long line": b"content-disposition:form-data;" * 200_000,
    "many lines": b"content-disposition:form-data;\r\n" * 200_000,
    "spaces": b"content-disposition" + b" " * 4 * MIB,
    "names": b'content-disposition:form-data;name="' + b'name="' * 500_000,
}


@pytest.mark.parametrize("head", LINES)
def test_fields_of_a_form(head: str) -> None:
    """A part's head is looked through once, and only its beginning."""
    assert find(b"--b\r\n" + LINES[head] + b"\r\n\r\nx\r\n--b", b"--b") is None


def test_a_form_of_many_parts() -> None:
    """Nobody needs so many fields before `model`: refused, not guessed."""
    part = b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n'
    with pytest.raises(WeirError) as refused:
        find(part * 50_000 + b"--b", b"--b")
    assert (refused.value.status, refused.value.param) == (400, "model")


def test_usage_at_the_end_of_an_answer() -> None:
    """Beginnings of usage that never end well are given up."""
    for piece in (b'"usage"{x', b'"usage":{', b'"usage":{"a":{'):
        assert read_tail("chat", piece * 5000 + b"}" * 20_000).usage is None
    whole = b'"usage":{"prompt_tokens":3,"completion_tokens":4,"a":{"b":{}}}}'
    found = read_tail("chat", b'"usage"{x' * 6 + whole).usage
    assert found is not None
    assert (found.input_tokens, found.output_tokens) == (3, 4)


@pytest.mark.parametrize("text", ["\n" * MIB, " \n" * MIB, "1" * MIB, "1." * MIB, "- " * MIB, "a'" * MIB])
def test_answers_that_are_compared(text: str) -> None:
    """Whatever a model was made to repeat."""
    assert isinstance(equality.normal(text), str)


@pytest.mark.parametrize(
    "words", ["retry in " * 100_000, "try again in " + "1 " * 100_000, "exceeded your current quota " * 50_000]
)
def test_words_of_an_error(words: str) -> None:
    """What an upstream says of a failure is looked through for when to come back."""
    told_s = failures.told([(b"retry-after", words.encode())], {"message": words}, 0.0)
    assert told_s is None or told_s >= 0
    waited_s = failures.duration_s(words)
    assert waited_s is None or waited_s >= 0


@pytest.mark.parametrize(
    "body",
    [
        b"[" * MIB,
        b'{"a":' * MIB,
        b'{"a":"' + b"\\" * 2 * MIB,
        b'{"model"' * 200_000,
        b'{"a":"' + b"\\u0041" * MIB + b'"}',
    ],
)
def test_bodies(body: bytes) -> None:
    """Refused or read."""
    try:
        assert scan(body).get("a") is not None
    except WeirError as error:
        assert error.status == 400


@pytest.mark.parametrize("stream", [b"\r" * MIB, b"\n\r" * MIB, b"data:" * MIB, b": \n" * MIB, b"data: x\r" * 200_000])
def test_events(stream: bytes) -> None:
    """In reads of a kilobyte."""
    splitter = Splitter(event_bytes=64 * MIB)
    whole = b"".join(event.raw for at in range(0, len(stream), 1024) for event in splitter.feed(stream[at : at + 1024]))
    assert len(whole) + len(splitter.rest()) == len(stream)


@pytest.mark.parametrize("dialect", ["chat", "responses", "anthropic", "audio"])
def test_one_large_event(dialect: str) -> None:
    """Of nested and of repeated fields."""
    for event in (b'{"type":' * 100_000, b'{"choices":[' + b"{}," * 200_000 + b"{}]}", b'{"usage":{' * 50_000):
        assert stream_reader(dialect).event(event) is not None
