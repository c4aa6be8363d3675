"""OpenAI's Responses API: the answer, and the stream that ends in its own last event. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from proxy.dialects.openai import Answer, read_answer, reading_of, usage_of
from proxy.dialects.reading import UNREADABLE, Reading, Verdict, as_error, whole
from proxy.dialects.tools import Calls, Item, Tool, ToolUsage, calls_of, with_calls

ENDS: Final = frozenset(("response.completed", "response.incomplete", "response.failed", "response.cancelled"))


_WORDS: Final = frozenset(("message", "reasoning", "function_call"))  # items that cost nothing but tokens


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    error: Any = None


class _Output(msgspec.Struct, gc=False):
    output: list[Item] | None = None
    tool_usage: ToolUsage | None = None
    tools: list[Tool] | None = None


class _Whole(Answer, gc=False):
    output: list[Item] | None = None
    tool_usage: ToolUsage | None = None
    tools: list[Tool] | None = None


class _ItemDone(msgspec.Struct, gc=False):
    item: Item | None = None


_decode: Final = msgspec.json.Decoder(_Event).decode
_whole: Final = msgspec.json.Decoder(_Whole).decode
_item: Final = msgspec.json.Decoder(_ItemDone).decode


def read(body: bytes) -> Reading:
    """A unary answer, or a stored response."""
    try:
        told = _whole(body)
    except msgspec.ValidationError:
        reading = read_answer(body)
    except RecursionError:
        raise ValueError("nested too deep") from None
    else:
        reading = reading_of(told)
        for item in told.output or ():
            if item.type not in _WORDS:
                reading.usage = with_calls(reading.usage, calls_of(told.output, told.tool_usage, told.tools))
                break
    if reading.error is not None and reading.usage is not None:
        reading.error = (
            None  # a failed response is an object with an `error` field, told with status 200: it passes as it is
        )
    return reading


class ResponsesStream:
    """The event stream of one response."""

    __slots__ = ("_calls", "reading")

    def __init__(self) -> None:
        self._calls = Calls()
        self.reading = Reading(calls=self._calls)

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
        elif told.type == "response.output_item.done" and b"_call" in data:
            self._item(data)
        return Verdict.PASS

    def _item(self, data: bytes) -> None:
        try:
            told = _item(data)
        except UNREADABLE:
            return
        if told.item is not None:
            self._calls.add(told.item)

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
            reading.usage = with_calls(usage, self._calls, _calls_of(response))


def _calls_of(response: dict[str, Any]) -> Calls:
    try:
        told = msgspec.convert(response, _Output)
    except msgspec.ValidationError:
        return Calls()
    return calls_of(told.output, told.tool_usage, told.tools)
