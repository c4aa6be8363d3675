"""Anthropic's messages: usage whose input excludes cached tokens, and a stream whose usage is cumulative. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import orjson

from proxy.dialects.reading import UNREADABLE, Reading, Verdict, as_error, whole
from proxy.dialects.usage import Counts, Usage

_ANYWHERE: Final = ("", "global", "not_available")  # what `inference_geo` says where it isn't one region


def usage_of(given: Any) -> Usage | None:
    """A usage object. `input_tokens` excludes what was read from or written to the cache: here they are added."""
    if not isinstance(given, dict) or not given:
        return None
    read = Counts(given)
    cached = read.count("cache_read_input_tokens")
    long = read.detail("cache_creation", "ephemeral_1h_input_tokens")
    written = read.count("cache_creation_input_tokens")
    tools = given.get("server_tool_use")
    usage = Usage(
        input_tokens=read.count("input_tokens") + cached + written,
        output_tokens=read.count("output_tokens"),
        cached_tokens=cached,
        cache_write_tokens=max(0, written - long),
        cache_write_1h_tokens=min(long, written),
        searches=Counts(tools).count("web_search_requests") if isinstance(tools, dict) else 0,
        given=given,
        clamped=read.clamped,
    )
    if (
        usage.clamped or not read.has("input_tokens", "output_tokens")
    ) and not usage.input_tokens + usage.output_tokens:
        return None  # nothing in it can be believed, or read: the proxy's own estimate is better than 0
    return usage


def read(body: bytes) -> Reading:
    """A unary answer. Raises ValueError if it isn't a JSON object."""
    told = orjson.loads(body)
    if not isinstance(told, dict):
        raise ValueError("not a JSON object")
    reading = Reading(usage=usage_of(told.get("usage")))
    if isinstance(model := told.get("model"), str):
        reading.model = model
    reading.service_tier = _tier(told.get("usage"))
    reading.finish_reason = told.get("stop_reason") if isinstance(told.get("stop_reason"), str) else None
    if told.get("type") == "error" or told.get("error") is not None:
        reading.error = as_error(told.get("error") or told)
    return reading


def _tier(usage: Any) -> str | None:
    """The service tier; fast mode is told apart from it, and priced as a tier. `standard@us`: in one region only."""
    if not isinstance(usage, dict):
        return None
    tier = "fast" if usage.get("speed") == "fast" else usage.get("service_tier")
    if isinstance(region := usage.get("inference_geo"), str) and region not in _ANYWHERE:
        tier = f"{tier if isinstance(tier, str) else 'standard'}@{region}"
    return tier if isinstance(tier, str) else None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Event).decode


class MessagesStream:
    """The event stream of one message. `message_start` tells the input, each `message_delta` the totals so far."""

    __slots__ = ("_given", "reading")

    def __init__(self) -> None:
        self.reading = Reading()
        self._given: dict[str, Any] = {}

    def event(self, data: bytes) -> Verdict:
        """One event."""
        try:
            told = _decode(data)
        except msgspec.ValidationError:
            return Verdict.PASS if data.lstrip()[:1] == b"{" else Verdict.MALFORMED
        except UNREADABLE:
            return Verdict.MALFORMED
        kind = told.type
        if kind == "content_block_delta":
            return Verdict.PASS
        if kind == "message_start":
            self._started(whole(data).get("message"))
        elif kind == "message_delta":
            told_whole = whole(data)
            delta = told_whole.get("delta")
            if isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str):
                self.reading.finish_reason = delta["stop_reason"]
            self._cumulative(told_whole.get("usage"))
        elif kind == "message_stop":
            return Verdict.END
        elif kind == "error" or told.error is not None:
            told_whole = whole(data)
            self.reading.error = as_error(told_whole.get("error") or told_whole)
            return Verdict.ERROR
        return Verdict.PASS

    def _started(self, message: Any) -> None:
        if not isinstance(message, dict):
            return
        if isinstance(model := message.get("model"), str):
            self.reading.model = model
        self.reading.service_tier = _tier(message.get("usage"))
        self._cumulative(message.get("usage"))

    def _cumulative(self, usage: Any) -> None:
        if isinstance(usage, dict):
            # Each field is a total so far: the last one told counts; what isn't told again stays.
            self._given = {**self._given, **{name: value for name, value in usage.items() if value is not None}}
            self.reading.usage = usage_of(self._given)
