"""What is made of a body that came whole."""

from __future__ import annotations

import pytest

from proxy import whole
from proxy.dialects import Reading
from proxy.faults import Fault

ANSWER = b'{"id":"x","usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'
JSON = b"application/json"


@pytest.mark.parametrize(
    ("body", "kind", "stream_asked", "code"),
    [
        (b"", JSON, False, "upstream_not_an_answer"),
        (b"<html>", b"text/html", False, "upstream_not_an_answer"),
        (ANSWER, JSON, True, "upstream_not_a_stream"),
        (ANSWER, b"text/plain", True, "upstream_not_a_stream"),
        (ANSWER, JSON, False, None),
        (b"\x00mp3", b"audio/mpeg", True, None),
    ],
)
def test_what_can_not_be_an_answer(body: bytes, kind: bytes, stream_asked: bool, code: str | None) -> None:
    """Nothing, a page, or a whole body where a stream was asked for; sound is what it is."""
    fault = whole.no_answer(body, kind, stream_asked)
    assert (None if fault is None else fault.error.code) == code


def test_an_answer_tells_its_usage() -> None:
    """Whether it says that it is JSON or not; what isn't JSON tells nothing."""
    for kind in (JSON, b""):
        reading = whole.read("chat", ANSWER, kind)
        assert isinstance(reading, Reading) and reading.usage is not None and reading.usage.input_tokens == 3
    assert whole.read("audio", b"\x00mp3", b"audio/mpeg") == Reading()


def test_broken_json_may_have_been_billed() -> None:
    """Half an answer was worked out all the same."""
    fault = whole.read("chat", ANSWER[:-1], JSON)
    assert isinstance(fault, Fault) and fault.billed and fault.error.code == "upstream_truncated"
