"""What an answer says that came whole, or so far that it can be judged by its beginning. Pure."""

from __future__ import annotations

from proxy.dialects import Reading, read_unary
from proxy.faults import Fault, maybe_billed


def no_answer(body: bytes, kind: bytes, stream_asked: bool) -> Fault | None:
    """Why a body, or the beginning of one, can't be what was asked for; `kind` is its media type."""
    if not body or kind == b"text/html":
        what = "is empty" if not body else "is a page of HTML"
        return maybe_billed(502, "upstream_not_an_answer", f"The upstream answered 200, but its body {what}.")
    if stream_asked and is_json(body, kind):
        return maybe_billed(502, "upstream_not_a_stream", "A stream was asked for, but the upstream sent none.")
    return None


def is_json(body: bytes, kind: bytes) -> bool:
    """Whether it is JSON, as it says itself or as it looks."""
    return kind == b"application/json" or b"json" in kind or body.lstrip()[:1] == b"{"


def read(dialect: str, body: bytes, kind: bytes) -> Reading | Fault:
    """What it tells of itself: nothing, if it is speech, an image, or text, which pass as they are."""
    if not is_json(body, kind):
        return Reading()
    try:
        return read_unary(dialect, body)
    except ValueError:
        return maybe_billed(502, "upstream_truncated", "The upstream's answer is not valid JSON.")
