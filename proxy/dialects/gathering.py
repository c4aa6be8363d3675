"""From the events of a stream to the whole answer that the same call would have had without `stream`. Pure.

Rules: what a dialect streams in pieces is joined; what it streams whole is kept; fields that aren't known pass over as
they came. None where the stream isn't a whole answer, or can't be told for sure to be one: then nobody may keep it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

Json = dict[str, Any]

_DONE: Final = b"[DONE]"
# Strings that come whole, where others come in pieces: a provider that repeats them must not double them.
_WHOLE: Final = frozenset(("role", "type", "id", "name", "finish_reason", "status", "format"))
_ENDS: Final = frozenset(("response.completed", "response.incomplete"))


def gathered(dialect: str, payloads: Iterable[bytes]) -> Json | None:
    """The answer that these `data:` payloads add up to; `dialect` as an endpoint carries it."""
    events: list[Json] = []
    closed = False
    for payload in payloads:
        if payload.strip() == _DONE:
            closed = True
            continue
        told = orjson.loads(payload)
        if not isinstance(told, dict) or ("error" in told and told["error"] is not None and dialect != "responses"):
            return None
        events.append(told)
    if not events:
        return None
    if dialect == "chat":
        return _chat(events) if closed else None
    if dialect == "responses":
        return _response(events)
    if dialect == "anthropic":
        return _message(events)
    return None


# --- OpenAI's chat completions and completions


def _chat(events: list[Json]) -> Json | None:
    whole: Json = {}
    choices: dict[int, Json] = {}
    for event in events:
        for name, value in event.items():
            if name == "choices":
                for choice in value or ():
                    _choice(choices.setdefault(choice.get("index", 0), {}), choice)
            elif name not in ("usage", "obfuscation") or value is not None:
                whole[name] = value
    whole.pop("obfuscation", None)
    if not choices or any(choice.get("finish_reason") is None for choice in choices.values()):
        return None
    whole["object"] = _UNARY_OBJECT.get(str(whole.get("object")), whole.get("object"))
    whole["choices"] = [_finished(choices[index]) for index in sorted(choices)]
    return whole


_UNARY_OBJECT: Final = {"chat.completion.chunk": "chat.completion"}


def _choice(into: Json, piece: Json) -> None:
    for name, value in piece.items():
        if name == "delta":
            _merge(into.setdefault("message", {}), value or {})
        elif name == "logprobs" and isinstance(value, dict):
            kept = into.get("logprobs")
            into["logprobs"] = _logprobs(kept if isinstance(kept, dict) else {}, value)
        elif name == "text":
            into["text"] = into.get("text", "") + (value or "")
        elif value is not None or name not in into:
            into[name] = value


def _finished(choice: Json) -> Json:
    """What a stream leaves out and a whole answer has."""
    message = choice.get("message")
    if isinstance(message, dict):
        message.setdefault("role", "assistant")
        message.setdefault("content", None)
        for call in message.get("tool_calls") or ():
            call.pop("index", None)
    choice.setdefault("logprobs", None)
    return choice


def _logprobs(into: Json, piece: Json) -> Json:
    for name, value in piece.items():
        kept = into.get(name)
        into[name] = kept + value if isinstance(kept, list) and isinstance(value, list) else value or kept
    return into


def _merge(into: Json, piece: Json) -> None:
    for name, value in piece.items():
        kept = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif isinstance(value, str) and isinstance(kept, str):
            into[name] = (value or kept) if name in _WHOLE else kept + value
        elif isinstance(value, dict) and isinstance(kept, dict):
            _merge(kept, value)
        elif isinstance(value, list):
            into[name] = _merged(kept if isinstance(kept, list) else [], value)
        else:
            into[name] = value


def _merged(into: list[Any], pieces: list[Any]) -> list[Any]:
    """Elements with an index are pieces of the element with that index; others are elements of their own."""
    for piece in pieces:
        index = piece.get("index") if isinstance(piece, dict) else None
        known = next((item for item in into if isinstance(item, dict) and item.get("index") == index), None)
        if index is None or known is None:
            into.append(dict(piece) if isinstance(piece, dict) else piece)
        else:
            _merge(known, piece)
    return into


# --- OpenAI's responses: the last event holds it all


def _response(events: list[Json]) -> Json | None:
    last = events[-1]
    response = last.get("response")
    return response if last.get("type") in _ENDS and isinstance(response, dict) else None


# --- Anthropic's messages


def _message(events: list[Json]) -> Json | None:
    if events[0].get("type") != "message_start" or events[-1].get("type") != "message_stop":
        return None
    message: Json = dict(events[0].get("message") or {})
    blocks: dict[int, Json] = {}
    partial: dict[int, str] = {}
    for event in events[1:]:
        kind, index = event.get("type"), event.get("index", 0)
        if kind == "content_block_start":
            blocks[index] = dict(event.get("content_block") or {})
        elif kind == "content_block_delta" and index in blocks:
            _block(blocks[index], event.get("delta") or {}, partial, index)
        elif kind == "message_delta":
            message.update(event.get("delta") or {})
            message["usage"] = {**(message.get("usage") or {}), **(event.get("usage") or {})}
    for index, text in partial.items():
        try:
            blocks[index]["input"] = orjson.loads(text or "{}")
        except ValueError:
            return None
    message["content"] = [blocks[index] for index in sorted(blocks)]
    return message if message.get("stop_reason") else None


def _block(block: Json, delta: Json, partial: dict[int, str], index: int) -> None:
    kind = delta.get("type")
    if kind == "input_json_delta":
        partial[index] = partial.get(index, "") + delta.get("partial_json", "")
    elif kind == "citations_delta":
        block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
    else:
        for name, value in delta.items():
            if name != "type" and isinstance(value, str):
                block[name] = (block.get(name) or "") + value
