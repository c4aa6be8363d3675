"""OpenAI's Responses API: the answer, and the stream that ends in its own last event. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from proxy.dialects.openai import read_answer, usage_of
from proxy.dialects.reading import UNREADABLE, Reading, Verdict, as_error, whole

ENDS: Final = frozenset(("response.completed", "response.incomplete", "response.failed", "response.cancelled"))


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Event).decode


def read(body: bytes) -> Reading:
    """A unary answer, or a stored response."""
    reading = read_answer(body)
    if reading.error is not None and reading.usage is not None:
        reading.error = (
            None  # a failed response is an object with an `error` field, told with status 200: it passes as it is
        )
    return reading


class ResponsesStream:
    """The event stream of one response."""

    __slots__ = ("reading",)

    def __init__(self) -> None:
        self.reading = Reading()

    def event(self, data: bytes) -> Verdict:
        """One event. A failed response is the API's own end of the stream and passes; a bare error isn't."""
        if data == b"[DONE]":
            return Verdict.END
        try:
            told = _decode(data)
        except msgspec.ValidationError:
            return Verdict.PASS if data.lstrip()[:1] == b"{" else Verdict.MALFORMED
        except UNREADABLE:
            return Verdict.MALFORMED
        if told.type in ENDS:
            self._response(whole(data).get("response"))
            return Verdict.END
        if told.type == "error" or told.error is not None:
            told_whole = whole(data)
            self.reading.error = as_error(told_whole.get("error") or told_whole)
            return Verdict.ERROR
        if told.type == "response.created":
            self._response(whole(data).get("response"))
        return Verdict.PASS

    def _response(self, response: Any) -> None:
        if not isinstance(response, dict):
            return
        reading = self.reading
        for name in ("model", "service_tier"):
            if isinstance(value := response.get(name), str):
                setattr(reading, name, value)
        if isinstance(value := response.get("id"), str):
            reading.response_id = value
        reading.finish_reason = str(response.get("status") or "") or None
        usage = usage_of(response.get("usage"))
        if usage is not None:
            reading.usage = usage
