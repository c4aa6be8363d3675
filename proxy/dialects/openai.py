"""OpenAI's chat completions, completions, embeddings, images and audio: usage in an answer and in a stream. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
import orjson

from proxy.dialects.reading import UNREADABLE, Reading, Verdict, as_error
from proxy.dialects.usage import Counts, Usage

_DONE: Final = b"[DONE]"
_PASS: Final = Verdict.PASS  # looked up once: a member of an enumeration costs as much as a call


def usage_of(given: Any) -> Usage | None:
    """A usage object of the OpenAI API, old names (`prompt_tokens`) or new (`input_tokens`)."""
    if not isinstance(given, dict) or not given:
        return None
    try:
        return _plain(msgspec.convert(given, _Plain), given) or _usage_loosely(given)
    except msgspec.ValidationError:
        return _usage_loosely(given)


def _plain(told: _Plain, given: dict[str, Any] | msgspec.Raw) -> Usage | None:
    """Usage of text tokens with sane counts; None where there is more to it."""
    total_in, total_out = told.prompt_tokens or told.input_tokens, told.completion_tokens or told.output_tokens
    if not total_in or told.total_tokens > total_in + total_out:
        return None
    if told.input_token_details is not None or told.output_token_details is not None:
        return None  # a transcript's: rare, and rarely of text alone
    if told.num_search_queries or told.citation_tokens or told.server_side_tool_usage_details is not None:
        return None  # the provider's own tools were used
    of_in, of_out = told.prompt_tokens_details or told.input_tokens_details, told.completion_tokens_details
    cached = written = reasoning = 0
    if of_in is not None:
        if of_in.audio_tokens or of_in.image_tokens or of_in.cache_write_tokens_details is not None:
            return None
        cached, written = of_in.cached_tokens or 0, of_in.cache_write_tokens or 0
    if of_out is None:
        of_out = told.output_tokens_details
    if of_out is not None:
        if of_out.audio_tokens or of_out.image_tokens:
            return None
        reasoning = of_out.reasoning_tokens or 0
    if cached + written > total_in or reasoning > total_out:
        return None
    return Usage(
        total_in, total_out, cached_tokens=cached, cache_write_tokens=written, reasoning_tokens=reasoning, given=given
    )


Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: Count | None = 0
    cache_write_tokens: Count | None = 0
    reasoning_tokens: Count | None = 0
    audio_tokens: Count | None = 0
    image_tokens: Count | None = 0
    cache_write_tokens_details: msgspec.Raw | None = None


class _Plain(msgspec.Struct, gc=False):
    """The form that nearly all usage has: text tokens, sane counts. Anything else is read by `_usage_loosely`."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0
    total_tokens: Count = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    input_token_details: _Details | None = None
    output_token_details: _Details | None = None
    num_search_queries: Count | None = 0
    citation_tokens: Count | None = 0
    server_side_tool_usage_details: msgspec.Raw | None = None


_decode_plain: Final = msgspec.json.Decoder(_Plain).decode
# The API's own spellings: chat, responses and images, transcripts.
_INNER: Final = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OUTER: Final = ("completion_tokens_details", "output_tokens_details", "output_token_details")
_INPUTS: Final = ("prompt_tokens", "input_tokens")
_COUNTED: Final = (*_INPUTS, "completion_tokens", "output_tokens", "seconds")


def _usage_loosely(given: dict[str, Any]) -> Usage | None:
    """Usage of any form: every kind of token, and counts that are absurd or of other types, flagged."""
    read = Counts(given)
    inner = next((name for name in _INNER if given.get(name) is not None), _INNER[0])
    outer = next((name for name in _OUTER if given.get(name) is not None), _OUTER[0])
    cached = Counts(given[inner]) if isinstance(given.get(inner), dict) else Counts({})
    total_in = read.count("prompt_tokens", "input_tokens")
    total_out = read.count("completion_tokens", "output_tokens")
    # Thinking that some leave out of the completion (xAI, Gemini) is in the total, and billed as output.
    total_out = max(total_out, read.count("total_tokens") - total_in) if read.has(*_INPUTS) else total_out
    searched = _searched(read)
    total_out += searched["citation_tokens"] + searched["reasoning_tokens"]
    # Parts that don't fit into the whole are cut, the cheaper ones first: a price is bounded by the whole.
    room_in, room_media, room_out = _Room(total_in), _Room(total_in), _Room(total_out)
    citations = room_out.take(searched["citation_tokens"])
    reasoning = room_out.take(searched["reasoning_tokens"] or read.detail(outer, "reasoning_tokens"))
    long = cached.detail("cache_write_tokens_details", "ttl_12h_tokens")
    written = room_in.take(max(long, read.detail(inner, "cache_write_tokens")))
    read_before = room_in.take(read.detail(inner, "cached_tokens"))
    audio = room_media.take(read.detail(inner, "audio_tokens"))
    image = room_media.take(read.detail(inner, "image_tokens"))
    room_cached = _Room(read_before)
    usage = Usage(
        input_tokens=total_in,
        output_tokens=total_out,
        cached_tokens=read_before,
        cache_write_tokens=max(0, written - long),
        cache_write_12h_tokens=min(written, long),
        reasoning_tokens=reasoning,
        input_audio_tokens=audio,
        output_audio_tokens=room_out.take(read.detail(outer, "audio_tokens")),
        cached_audio_tokens=min(audio, room_cached.take(cached.detail("cached_tokens_details", "audio_tokens"))),
        input_image_tokens=image,
        cached_image_tokens=min(image, room_cached.take(cached.detail("cached_tokens_details", "image_tokens"))),
        output_image_tokens=room_out.take(read.detail(outer, "image_tokens")),
        citation_tokens=citations,
        audio_ms=read.thousandths("seconds"),
        searches=searched["searches"],
        given=given,
        clamped=read.clamped or cached.clamped,
    )
    if (usage.clamped or not read.has(*_COUNTED)) and not (total_in or total_out or usage.audio_ms):
        return None  # nothing in it can be believed, or read: the proxy's own estimate is better than 0
    return usage


class _Room:
    """What is left of a whole for its parts."""

    __slots__ = ("_left",)

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, wanted: int) -> int:
        """As much of this as fits."""
        taken = min(wanted, self._left)
        self._left -= taken
        return taken


def _searched(read: Counts) -> dict[str, int]:
    """What providers that search by themselves tell: Perplexity beside the totals, xAI by the kind of tool."""
    told = dict.fromkeys(("citation_tokens", "reasoning_tokens", "searches"), 0)
    if read.has("num_search_queries", "citation_tokens"):
        told["searches"] = read.count("num_search_queries")
        told["citation_tokens"], told["reasoning_tokens"] = (
            read.count("citation_tokens"),
            read.count("reasoning_tokens"),
        )
    for kind in ("web_search_calls", "x_search_calls"):
        told["searches"] += read.detail("server_side_tool_usage_details", kind)
    return told


def read_answer(body: bytes) -> Reading:
    """A unary answer. Raises ValueError if it isn't a JSON object."""
    try:
        told = _answer(body)
    except msgspec.ValidationError:
        return _read_loosely(body)
    except RecursionError:
        raise ValueError("nested too deep") from None
    return reading_of(told)


def reading_of(told: Answer) -> Reading:
    """What an answer says that has the API's own form."""
    reading = Reading(model=told.model, service_tier=told.service_tier, response_id=told.id)
    if told.choices:
        reading.finish_reason = told.choices[0].finish_reason
    if len(told.usage) > 4:  # more than null
        reading.usage = _usage_of_text(told.usage)
    if told.error is not None:
        reading.error = as_error(told.error)
    return reading


def _usage_of_text(text: msgspec.Raw) -> Usage | None:
    """A usage object that wasn't parsed yet: as it nearly always is, it need never become a dictionary."""
    try:
        return _plain(_decode_plain(text), text) or usage_of(orjson.loads(bytes(text)))
    except msgspec.ValidationError:
        return usage_of(orjson.loads(bytes(text)))


def _read_loosely(body: bytes) -> Reading:
    """An answer with fields of other types than the API's: what can be read of it."""
    told = orjson.loads(body)
    if not isinstance(told, dict):
        raise ValueError("not a JSON object")
    reading = Reading(usage=usage_of(told.get("usage")))
    for name in ("model", "service_tier"):
        if isinstance(value := told.get(name), str):
            setattr(reading, name, value)
    if told.get("error") is not None:
        reading.error = as_error(told["error"])
    return reading


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class Answer(msgspec.Struct, gc=False):
    """An answer as far as it moves money."""

    id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"")
    error: Any = None


_answer: Final = msgspec.json.Decoder(Answer).decode


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    model: str | None = None
    service_tier: str | None = None


_chunk: Final = msgspec.json.Decoder(_Chunk).decode


class ChatStream:
    """A stream of chat completion or completion chunks, ended by `[DONE]`."""

    __slots__ = ("reading",)

    def __init__(self) -> None:
        self.reading = Reading()

    def event(self, data: bytes) -> Verdict:
        """One chunk."""
        if data == _DONE:
            return Verdict.END
        try:
            chunk = _chunk(data)
        except msgspec.ValidationError:
            return self._loosely(data)
        except UNREADABLE:
            return Verdict.MALFORMED
        reading = self.reading
        if reading.model is None:
            reading.model = chunk.model
        if chunk.service_tier is not None:
            reading.service_tier = chunk.service_tier
        choices = chunk.choices
        if choices and choices[0].finish_reason is not None:
            reading.finish_reason = choices[0].finish_reason
        if chunk.error is not None:
            reading.error = as_error(chunk.error)
            return Verdict.ERROR
        if chunk.usage is not None:
            return self._usage(chunk.usage, bool(choices))
        return _PASS

    def _usage(self, given: Any, has_choices: bool) -> Verdict:
        usage = usage_of(given)
        if usage is not None:
            self.reading.usage = usage  # told again, the last counts, once
        return Verdict.PASS if has_choices else Verdict.USAGE

    def _loosely(self, data: bytes) -> Verdict:
        """A chunk with fields of other types than the API's."""
        try:
            told = orjson.loads(data)
        except ValueError:
            return Verdict.END if data.strip() == _DONE else Verdict.MALFORMED
        if not isinstance(told, dict):
            return Verdict.MALFORMED
        if told.get("error") is not None:
            self.reading.error = as_error(told["error"])
            return Verdict.ERROR
        if told.get("usage") is not None:
            return self._usage(told["usage"], bool(told.get("choices")))
        return Verdict.PASS


def is_end(kind: str) -> bool:
    """Whether an event of this type is the last of its stream: `transcript.text.done`, `image_edit.completed`, …"""
    return kind.endswith((".done", ".completed")) and "partial" not in kind


class TypedStream:
    """A stream of events with a `type`, the last of which carries usage: audio transcripts, speech, images."""

    __slots__ = ("reading",)

    def __init__(self) -> None:
        self.reading = Reading()

    def event(self, data: bytes) -> Verdict:
        """One event."""
        if data == _DONE:
            return Verdict.END
        try:
            told = orjson.loads(data)
        except ValueError:
            return Verdict.MALFORMED
        if not isinstance(told, dict):
            return Verdict.MALFORMED
        kind = str(told.get("type", ""))
        if told.get("error") is not None or kind == "error":
            self.reading.error = as_error(told.get("error") or told)
            return Verdict.ERROR
        usage = usage_of(told.get("usage"))
        if usage is not None:
            self.reading.usage = usage
        return Verdict.END if is_end(kind) else Verdict.PASS
