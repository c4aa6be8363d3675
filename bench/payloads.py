"""The bodies that are sent and answered, fixed to the byte, so that every run measures the same work.

A stream's chunks carry an `id` of constant width: the upstream's monotonic clock at the start of the stream, in
nanoseconds. So a client knows when chunk i was due, and the whole stream follows from the id: it is checked to the
byte.
"""

from __future__ import annotations

import base64
import random
import re
import zlib
from functools import lru_cache

import orjson

MODEL = "gpt-4o-mini"
REQUEST_BYTES, ANSWER_BYTES = 1_360, 741
PROMPT_BYTES, IMAGE_BYTES = 400 * 1024, 5 * 1024 * 1024
PATH = "/v1/chat/completions"
ID_DIGITS = 20
ID = b"@" * ID_DIGITS  # stands for the id in templates

_TEXT = """the river runs below a low wall that measures what it lets pass while the engineer reads "Q = 1.84 b h"
and notes the level\tat noon — naïve gauges drift, café chairs don't; a path such as C:\\weir\\log is escaped too"""
_WORDS = _TEXT.split(" ")


def _prose(size: int, seed: int) -> str:
    """English-like text with quotes, newlines, tabs, backslashes and non-ASCII letters, at least `size` characters
    long.
    """
    rng = random.Random(seed)
    text = ""
    while len(text) < size:
        text += " ".join(rng.choices(_WORDS, k=2_000)) + "\n"
    return text[:size]


def _fitted(wanted: int, make: str) -> bytes:
    """A chat request whose JSON is exactly `wanted` bytes, its last message filled with `make`'s text."""
    body = orjson.dumps(_chat([{"role": "user", "content": ""}]))
    text = make
    while len(orjson.dumps(text)) - 2 > wanted - len(body):
        text = text[: -max(1, (len(orjson.dumps(text)) - 2 - (wanted - len(body))) // 4)]
    text += "." * (wanted - len(body) - (len(orjson.dumps(text)) - 2))
    return orjson.dumps(_chat([{"role": "user", "content": text}]))


def _chat(extra: list[dict[str, object]]) -> dict[str, object]:
    system = {
        "role": "system",
        "content": "You are the assistant of a support desk. Answer briefly, and cite the article.",
    }
    return {"model": MODEL, "messages": [system, *extra], "temperature": 0.2, "max_tokens": 256}


@lru_cache(maxsize=1)
def unary_request() -> bytes:
    """The chat request of 1.36 KB."""
    return _fitted(REQUEST_BYTES, _prose(REQUEST_BYTES, seed=1))


@lru_cache(maxsize=1)
def unary_answer() -> bytes:
    """A chat completion of 741 bytes; without quotes or backslashes inside strings, so that an nginx file can hold
    it.
    """
    return answer_with_fingerprint("fp_bench")


def answer_with_fingerprint(fingerprint: str) -> bytes:
    """The answer of 741 bytes with a `system_fingerprint`, by which an upstream tells what it received."""

    def answer(content: str) -> bytes:
        return orjson.dumps(
            {
                "id": "chatcmpl-BenchBenchBenchBenchBench0",
                "object": "chat.completion",
                "created": 1790000000,
                "model": f"{MODEL}-2024-07-18",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": content, "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {
                    "prompt_tokens": 303,
                    "completion_tokens": 58,
                    "total_tokens": 361,
                    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
                },
                "service_tier": "default",
                "system_fingerprint": fingerprint,
            }
        )

    text = "a low wall across a river raises the level a little and lets the rest of it pass over " * 4
    return answer(text[: ANSWER_BYTES - len(answer(""))])


@lru_cache(maxsize=1)
def prompt_request() -> bytes:
    """A prompt of 400 KB: one long message of text with escapes."""
    return _fitted(PROMPT_BYTES, _prose(PROMPT_BYTES, seed=2))


@lru_cache(maxsize=1)
def image_request() -> bytes:
    """A vision request of 5 MB: a base64 data URL."""
    pixels = random.Random(3).randbytes(IMAGE_BYTES * 3 // 4 - 600)
    url = "data:image/png;base64," + base64.b64encode(pixels).decode()
    parts: list[dict[str, object]] = [
        {"type": "text", "text": "What is the level on the gauge?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
    ]
    return orjson.dumps(_chat([{"role": "user", "content": parts}]))


def body_fingerprint(body: bytes) -> str:
    """What the upstream answers as `system_fingerprint` for a large body that arrived whole."""
    return f"fp_{zlib.crc32(body):08x}"


# --- streams ---


def stream_request(chunks: int, gap_ms: int) -> bytes:
    """A streamed chat request, without include_usage; its metadata tells the upstream how to answer."""
    asked = _chat([{"role": "user", "content": _prose(900, seed=4)}])
    return orjson.dumps({**asked, "stream": True, "metadata": {"chunks": str(chunks), "gap_ms": str(gap_ms)}})


_PLAN = re.compile(rb'"chunks": ?"(\d+)", ?"gap_ms": ?"(\d+)"')
_INCLUDE_USAGE = re.compile(rb'"include_usage": ?true')


def stream_plan(body: bytes) -> tuple[int, int, bool] | None:
    """(chunks, gap_ms, include_usage) of a streamed request; None for a unary one."""
    found = _PLAN.search(body)
    if found is None:
        return None
    return int(found[1]), int(found[2]), _INCLUDE_USAGE.search(body) is not None


@lru_cache(maxsize=8)
def events(chunks: int, usage: bool) -> list[bytes]:
    """The events of a stream, with ID for the id. Where usage was asked for, every chunk has `usage: null`, as
    OpenAI sends it.
    """
    words = _prose(8 * chunks, seed=5).split(" ")
    return [
        *(
            _event({"content": words[index % len(words)] + " "}, usage, "stop" if index == chunks - 1 else None)
            for index in range(chunks)
        ),
        *([_usage_event()] if usage else []),
        b"data: [DONE]\n\n",
    ]


def expected_streams(chunks: int, stream_id: bytes) -> tuple[bytes, bytes]:
    """All bytes that a client may see that did not ask for usage: without `usage: null` in the chunks, and with it."""
    plain = b"".join(events(chunks, usage=False))
    with_null = b"".join(event for event in events(chunks, usage=True) if b'"choices":[]' not in event)
    return plain.replace(ID, stream_id), with_null.replace(ID, stream_id)


def _head() -> dict[str, object]:
    return {
        "id": "chatcmpl-" + ID.decode(),
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": f"{MODEL}-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_bench",
    }


def _event(delta: dict[str, str], usage: bool, finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {**_head(), "choices": [choice], **({"usage": None} if usage else {})}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _usage_event() -> bytes:
    usage = {"prompt_tokens": 240, "completion_tokens": 200, "total_tokens": 440}
    return b"data: " + orjson.dumps({**_head(), "choices": [], "usage": usage}) + b"\n\n"
