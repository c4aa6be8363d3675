"""What of a request is compared by meaning: its last user turn. Everything else is a hard partition. Pure.

Rules:
1. Among entries of one partition everything is the same but for the words of the last user turn: tenant (and within
   it, as far as the policy says), endpoint, model, every other field, all turns before, the system prompt, tools, and
   the embedder that made the vectors.
2. Only text that a person wrote is compared. Turns that answer a tool, images, sound and files pass by, as do several
   choices, whose number is part of the answer.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec
import orjson

from policies.cache.key import Share, essential, plain, scope_of, versions_of
from proxy.body import Body
from proxy.exchange import Request

VERSION: Final = b"weir-semantic-1"
_TEXT: Final = frozenset(("text", "input_text"))
_TURNS: Final = {"chat.completions": "messages", "messages": "messages", "responses": "input", "completions": "prompt"}
_TOOLS: Final = frozenset(("tool", "function"))


class Turn(msgspec.Struct, frozen=True):
    """The words that are compared, and the partition that they belong to."""

    text: str
    partition: str


def turn_of(request: Request, share: Share, vary: frozenset[bytes], embedder: str, longest: int) -> Turn | str:
    """The last turn; or in a word why there is none that could be compared."""
    body, endpoint = request.body, request.endpoint.name
    name = _TURNS.get(endpoint)
    if name is None or not isinstance(body, Body):
        return "endpoint"
    if body.get("n") not in (None, 1) or body.get("best_of") not in (None, 1):
        return "choices"
    if body.get("suffix") or body.get("echo"):
        return "form"
    if not plain(body):
        return "form"
    turns = body.get(name)
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return "form"
    if any(map(_of_tools, turns)):
        return "tools"
    last = turns[-1]
    text = _words(last.get("content")) if last.get("role") == "user" else None
    if text is None:
        return "form"
    if not text.strip():
        return "empty"
    if len(text) > longest:
        return "long"
    rest = {**essential(body.fields, endpoint), name: [*turns[:-1], {**last, "content": ""}]}
    scope = scope_of(request.exchange.identity, body, share)
    return Turn(text, _partition(request, scope, versions_of(request.headers, vary), embedder, rest))


def _of_tools(turn: dict[str, Any]) -> bool:
    if turn.get("role") in _TOOLS or turn.get("tool_calls") or turn.get("function_call"):
        return True
    if turn.get("type") not in (None, "message"):
        return True
    content = turn.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") in ("tool_use", "tool_result") for part in content
    )


def _words(content: Any) -> str | None:
    """The text of a turn; None where it holds anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in _TEXT or not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
    return "\n".join(texts)


def _partition(request: Request, scope: list[Any], versions: bytes, embedder: str, rest: dict[str, Any]) -> str:
    """As in the exact key, the order of fields doesn't count but where it is meant, in schemas."""
    query = request.target.partition(b"?")[2].decode("latin-1")
    digest = hashlib.blake2b(versions, digest_size=16, key=VERSION)
    digest.update(orjson.dumps([scope, request.endpoint.name, request.model, query, embedder]))
    for name in sorted(rest):
        digest.update(b"," + orjson.dumps(name) + b":" + orjson.dumps(rest[name]))
    return digest.hexdigest()


def said(dialect: str | None, answer: Any) -> str | None:
    """The text of an answer; None where it says anything but text (calls of tools, sound)."""
    if not isinstance(answer, dict):
        return None
    if dialect == "anthropic":
        return _joined(answer.get("content"), "text")
    if dialect == "responses":
        items = answer.get("output")
        if not isinstance(items, list):
            return None
        items = [item for item in items if isinstance(item, dict) and item.get("type") != "reasoning"]
        texts = [
            _joined(item.get("content"), "output_text") if item.get("type") == "message" else None for item in items
        ]
        return None if not texts or any(text is None for text in texts) else "\n".join(map(str, texts))
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    message = choices[0].get("message")
    if message is None:
        text = choices[0].get("text")
    elif (
        not isinstance(message, dict)
        or message.get("tool_calls")
        or message.get("function_call")
        or message.get("audio")
    ):
        return None
    else:
        text = message.get("content")
    return text if isinstance(text, str) and text else None


def _joined(parts: Any, kind: str) -> str | None:
    if not isinstance(parts, list) or not parts:
        return None
    parts = [
        part for part in parts if isinstance(part, dict) and part.get("type") not in ("thinking", "redacted_thinking")
    ]
    if not parts or any(part.get("type") != kind for part in parts):
        return None
    return "\n".join(str(part.get("text", "")) for part in parts)
