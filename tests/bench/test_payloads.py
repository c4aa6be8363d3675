"""The bodies are fixed to the byte."""

from __future__ import annotations

import json

import pytest

from bench import payloads
from bench.load import streams


def test_sizes_are_those_of_the_method() -> None:
    """1,360 bytes there and 741 back; the large bodies are 400 KB, and 5 MB within a percent."""
    assert len(payloads.unary_request()) == 1_360
    assert len(payloads.unary_answer()) == 741
    assert len(payloads.prompt_request()) == 400 * 1024
    assert len(payloads.image_request()) == pytest.approx(5 * 1024 * 1024, rel=0.01)


def test_answers_of_every_fingerprint_have_one_size() -> None:
    """A CRC in the answer doesn't change its length."""
    assert len(payloads.answer_with_fingerprint(payloads.body_fingerprint(b"x" * 100))) == payloads.ANSWER_BYTES


def test_bodies_are_json_with_escapes() -> None:
    """The prompt is JSON, and full of what makes scanning a string hard."""
    text = json.loads(payloads.prompt_request())["messages"][1]["content"]
    assert {'"', "\n", "\t", "\\", "é"} <= set(text)


def test_a_plan_survives_an_injected_include_usage() -> None:
    """The upstream reads its plan from the metadata and sees whether usage was asked for."""
    asked = payloads.stream_request(200, 10)
    assert payloads.stream_plan(asked) == (200, 10, False)
    injected = asked[:-1] + b',"stream_options":{"include_usage":true}}'
    assert payloads.stream_plan(injected) == (200, 10, True)
    assert payloads.stream_plan(payloads.unary_request()) is None


STREAM_ID = b"0" * 19 + b"7"


def test_a_stream_is_right_with_and_without_null_usage() -> None:
    """A client may see `usage: null` in the chunks, never the usage chunk itself."""
    for body in payloads.expected_streams(5, STREAM_ID):
        assert streams.check(body, 5) is None
    with_usage = b"".join(payloads.events(5, usage=True)).replace(payloads.ID, STREAM_ID)
    assert streams.check(with_usage, 5) is not None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body.replace(b"data: [DONE]\n\n", b""),
        lambda body: body.replace(b"\n\n", b"\n", 1),
        lambda body: body + b"data: [DONE]\n\n",
        lambda body: body.replace(STREAM_ID, STREAM_ID[:-1] + b"8", 1),
        lambda body: b"",
    ],
    ids=["no DONE", "events merged", "DONE twice", "a chunk of another stream", "nothing"],
)
def test_a_stream_that_is_not_right_is_seen(spoil) -> None:
    """Whatever is missing, doubled or mixed up makes a stream wrong."""
    assert streams.check(spoil(payloads.expected_streams(5, STREAM_ID)[0]), 5) is not None
