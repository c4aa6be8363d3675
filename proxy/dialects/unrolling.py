"""From a whole answer to the events of the stream that the same call would have had with `stream: true`. Pure.

The inverse of `gathering`: what it makes of these events is the answer again. Text is cut into pieces of about
`PIECE` characters (longer ones if there would be more than `MOST_PIECES`), or where its logprobs cut it. An event is
its name (None where the dialect names none) and payload.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

Json = dict[str, Any]
Event = tuple[str | None, Json]

PIECE: Final = 48
MOST_PIECES: Final = 64
_PIECES: Final = re.compile(rf"(?s).{{1,{PIECE}}}(?:(?<=\s)|(?=\s)|$)|.{{1,{PIECE}}}")
_TEXTS: Final = ("content", "refusal")


def unrolled(dialect: str, answer: Json, *, include_usage: bool = False) -> list[Event] | None:
    """The events, without the closing `[DONE]` of chat; None where the dialect can't be unrolled."""
    if dialect == "chat":
        return list(_chat(answer, include_usage))
    if dialect == "responses":
        return list(_response(answer))
    if dialect == "anthropic":
        return list(_message(answer))
    return None


def pieces(text: str) -> list[str]:
    """A text cut after words; joined they are the text again."""
    cut = _PIECES.findall(text)
    if len(cut) <= MOST_PIECES:
        return cut
    joined = -(-len(cut) // MOST_PIECES)
    return ["".join(cut[at : at + joined]) for at in range(0, len(cut), joined)]


# --- OpenAI's chat completions and completions


def _chat(answer: Json, include_usage: bool) -> Iterator[Event]:
    common = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    if answer.get("object") == "chat.completion":
        common["object"] = "chat.completion.chunk"
    tail: Json = {"usage": None} if include_usage else {}
    for choice in answer["choices"]:
        parts = _message_choice(choice) if "message" in choice else _text_choice(choice)
        for part in parts:
            yield None, {**common, "choices": [part], **tail}
    if include_usage:
        yield None, {**common, "choices": [], "usage": answer.get("usage")}


def _text_choice(choice: Json) -> Iterator[Json]:
    index, logprobs = choice.get("index", 0), choice.get("logprobs")
    text = choice.get("text") or ""
    for piece in [text] if logprobs else pieces(text):
        yield {"index": index, "text": piece, "logprobs": logprobs, "finish_reason": None}
    yield {"index": index, "text": "", "logprobs": None, "finish_reason": choice.get("finish_reason")}


def _message_choice(choice: Json) -> Iterator[Json]:
    index, message, logprobs = choice.get("index", 0), dict(choice["message"]), choice.get("logprobs")
    others = {k: v for k, v in choice.items() if k not in ("index", "message", "logprobs", "finish_reason")}

    def part(delta: Json, told: Any = None) -> Json:
        return {"index": index, "delta": delta, "logprobs": told, "finish_reason": None}

    content, calls = message.pop("content", None), message.pop("tool_calls", None)
    yield part({"role": message.pop("role", "assistant"), "content": "" if content else content})
    if message:
        yield part(message)  # a refusal, reasoning, annotations, audio: whole
    yield from (part({"content": text}, told) for text, told in _texts(content, logprobs))
    for at, call in enumerate(calls or ()):
        yield from (part({"tool_calls": [piece]}) for piece in _call(at, call))
    if calls == []:
        yield part({"tool_calls": []})
    rest = None if isinstance(content, str) and content else logprobs
    yield {**part({}, rest), **others, "finish_reason": choice.get("finish_reason")}


def _texts(content: Any, logprobs: Any) -> Iterator[tuple[Any, Any]]:
    """A text in pieces, each with its logprobs where these cut it; else the whole with all of them."""
    if not isinstance(content, str) or not content:
        return
    if not logprobs:
        yield from ((piece, None) for piece in pieces(content))
        return
    told = logprobs.get("content") if isinstance(logprobs, dict) else None
    tokens = [str(token.get("token")) for token in told or () if isinstance(token, dict)]
    if told and set(logprobs) <= {"content", "refusal"} and "".join(tokens) == content:
        others = {name: value for name, value in logprobs.items() if name != "content"}
        if not any(others.values()):
            yield from ((token["token"], {**others, "content": [token]}) for token in told)
            return
    yield content, logprobs


def _call(at: int, call: Json) -> Iterator[Json]:
    inner = next((name for name in ("function", "custom") if isinstance(call.get(name), dict)), None)
    if inner is None:
        yield {"index": at, **call}
        return
    body = dict(call[inner])
    field = "arguments" if inner == "function" else "input"
    text = body.get(field)
    if not isinstance(text, str):
        yield {"index": at, **call}
        return
    yield {"index": at, **call, inner: {**body, field: ""}}
    yield from ({"index": at, inner: {field: piece}} for piece in pieces(text))


# --- OpenAI's responses


def _response(answer: Json) -> Iterator[Event]:
    number = 0

    def event(kind: str, **fields: Any) -> Event:
        nonlocal number
        told: Json = {"type": kind, "sequence_number": number, **fields}
        number += 1
        return kind, told

    begun = {**answer, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    if "completed_at" not in answer:
        del begun["completed_at"]
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for at, item in enumerate(answer.get("output") or ()):
        empty, inner = _item(at, item)
        yield event("response.output_item.added", output_index=at, item=empty)
        for kind, fields in inner:
            yield event(kind, item_id=item.get("id"), output_index=at, **fields)
        yield event("response.output_item.done", output_index=at, item=item)
    ended = "response.incomplete" if answer.get("status") == "incomplete" else "response.completed"
    yield event(ended, response=answer)


def _item(at: int, item: Json) -> tuple[Json, list[tuple[str, Json]]]:
    """An item as it begins, and what comes of it before it is done."""
    kind = item.get("type")
    begun = {**item, "status": "in_progress"} if "status" in item else dict(item)
    if kind == "message":
        parts = item.get("content") or ()
        return {**begun, "content": []}, [told for index, part in enumerate(parts) for told in _part(index, part)]
    if kind == "function_call" and isinstance(item.get("arguments"), str):
        return {**begun, "arguments": ""}, list(_spoken("response.function_call_arguments", "arguments", item, {}))
    if kind == "custom_tool_call" and isinstance(item.get("input"), str):
        return {**begun, "input": ""}, list(_spoken("response.custom_tool_call_input", "input", item, {}))
    if kind == "reasoning":
        summary = item.get("summary") or ()
        return {**begun, "summary": []}, [told for index, part in enumerate(summary) for told in _summary(index, part)]
    return begun, []


def _part(index: int, part: Json) -> Iterator[tuple[str, Json]]:
    at: Json = {"content_index": index}
    kind = part.get("type")
    field, stem = ("refusal", "response.refusal") if kind == "refusal" else ("text", "response.output_text")
    empty = {**part, field: ""}
    if "annotations" in part:
        empty["annotations"] = []
    yield "response.content_part.added", {**at, "part": empty}
    logprobs: Json = {} if kind == "refusal" else {"logprobs": []}
    for text in pieces(part.get(field) or ""):
        yield f"{stem}.delta", {**at, "delta": text, **logprobs}
    for n, annotation in enumerate(part.get("annotations") or ()):
        yield f"{stem}.annotation.added", {**at, "annotation_index": n, "annotation": annotation}
    done = {"logprobs": part.get("logprobs") or []} if logprobs else {}
    yield f"{stem}.done", {**at, field: part.get(field) or "", **done}
    yield "response.content_part.done", {**at, "part": part}


def _summary(index: int, part: Json) -> Iterator[tuple[str, Json]]:
    at: Json = {"summary_index": index}
    yield "response.reasoning_summary_part.added", {**at, "part": {**part, "text": ""}}
    yield from _spoken("response.reasoning_summary_text", "text", part, at)
    yield "response.reasoning_summary_part.done", {**at, "part": part}


def _spoken(stem: str, field: str, told: Json, at: Json) -> Iterator[tuple[str, Json]]:
    for text in pieces(told[field]):
        yield f"{stem}.delta", {**at, "delta": text}
    yield f"{stem}.done", {**at, field: told[field]}


# --- Anthropic's messages


def _message(answer: Json) -> Iterator[Event]:
    usage = answer.get("usage") or {}
    begun = {
        **answer,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 1},
    }
    yield "message_start", {"type": "message_start", "message": begun}
    for index, block in enumerate(answer.get("content") or ()):
        empty, deltas = _block(block)
        yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    ended = {name: answer.get(name) for name in ("stop_reason", "stop_sequence")}
    told = {"output_tokens": usage.get("output_tokens", 0)}
    yield "message_delta", {"type": "message_delta", "delta": ended, "usage": told}
    yield "message_stop", {"type": "message_stop"}


def _block(block: Json) -> tuple[Json, list[Json]]:
    """A block as it begins, and what is added to it."""
    kind = block.get("type")
    if kind == "text":
        empty = {name: value for name, value in block.items() if name != "citations"}
        cited = [{"type": "citations_delta", "citation": told} for told in block.get("citations") or ()]
        text = [{"type": "text_delta", "text": piece} for piece in pieces(block.get("text") or "")]
        if "citations" in block and not cited:
            empty["citations"] = block["citations"]
        return {**empty, "text": ""}, cited + text
    if kind == "thinking":
        thought = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block.get("thinking") or "")]
        signed = [{"type": "signature_delta", "signature": block["signature"]}] if block.get("signature") else []
        return {**block, "thinking": "", "signature": ""}, thought + signed
    if kind in ("tool_use", "server_tool_use") and isinstance(block.get("input"), dict):
        text_of = orjson.dumps(block["input"]).decode()
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text_of}]
    return dict(block), []
