"""What bodies mean: usage, errors and the ends of streams, dialect by dialect.

Rules: pure functions over bytes, no I/O. A dialect is a name (`chat`, `responses`, `anthropic`, …) that an endpoint
carries. What isn't understood is passed on, never rebuilt.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import orjson

from proxy.dialects import anthropic, openai, responses
from proxy.dialects.reading import Reading, StreamReader, Verdict
from proxy.dialects.tools import with_calls
from proxy.dialects.usage import Usage

_UNARY: Final[dict[str, Callable[[bytes], Reading]]] = {
    "chat": openai.read_answer,
    "embeddings": openai.read_answer,
    "images": openai.read_answer,
    "audio": openai.read_answer,
    "responses": responses.read,
    "anthropic": anthropic.read,
}
_TYPE: Final = re.compile(rb'"type"\s*:\s*"([A-Za-z0-9_.]{1,100})"')
_USAGES, _CLOSINGS = 8, 32  # how many are tried, from the end: whoever sends more means no usage
_STREAMS: Final[dict[str, Callable[[], StreamReader]]] = {
    "chat": openai.ChatStream,
    "embeddings": openai.ChatStream,
    "images": openai.TypedStream,
    "audio": openai.TypedStream,
    "responses": responses.ResponsesStream,
    "anthropic": anthropic.MessagesStream,
}


def read_unary(dialect: str, body: bytes) -> Reading:
    """What a whole answer says. Raises ValueError if it isn't a JSON object."""
    return _UNARY[dialect](body)


def stream_reader(dialect: str) -> StreamReader:
    """A reader for one stream."""
    return _STREAMS[dialect]()


def read_tail(dialect: str, tail: bytes) -> Reading:
    """What the end of an answer that was too large to hold says about usage: the last `"usage"` object in it."""
    at = tail.rfind(b'"usage"')
    reading = Reading()
    for _ in range(_USAGES):
        opening = tail.find(b"{", at)
        closing = tail.find(b"}", opening)
        for _ in range(_CLOSINGS):
            if at < 0 or not 0 <= opening < closing:
                break
            try:
                given = orjson.loads(tail[opening : closing + 1])
            except ValueError:
                closing = tail.find(b"}", closing + 1)
                continue
            reading.usage = anthropic.usage_of(given) if dialect == "anthropic" else openai.usage_of(given)
            return reading
        at = tail.rfind(b'"usage"', 0, max(at, 0))
    return reading


def read_large(dialect: str, reading: Reading, head: bytes, tail: bytes) -> Verdict:
    """What an event of a stream is that is too large to look into, by its beginning and its end.

    The last event of a response holds all of the response, that of an image the image.
    """
    named = _TYPE.search(head)
    kind = named[1].decode("latin-1") if named else ""
    if dialect == "responses":
        ends = kind in responses.ENDS
    else:
        ends = dialect in ("images", "audio") and openai.is_end(kind)
    if not ends:
        return Verdict.PASS
    usage = read_tail(dialect, tail).usage
    reading.usage = (with_calls(usage, reading.calls) if reading.calls is not None else usage) or reading.usage
    return Verdict.END


__all__ = ["Reading", "StreamReader", "Usage", "Verdict", "read_large", "read_tail", "read_unary", "stream_reader"]
