"""Reading messages: their text, tokens, images and sounds, and the prefixes that a prompt cache would know.

Shared by the dialects that have messages. Images and sounds are counted, never looked into or fetched.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import chain
from typing import Any
from zlib import crc32

import orjson

from proxy.simulator import tokens
from proxy.simulator.speech.terms import Refusal
from proxy.simulator.thinking import Tool

CACHE_FROM = 1024
CACHE_STEP = 128
_STEP_BYTES = CACHE_STEP * 4
_FIRST = CACHE_FROM // CACHE_STEP
_COARSE = 8 * _FIRST
# Of longer texts the end is the question; of longer strings length and checksum are the identity.
_QUESTION_CHARACTERS = 4096
_LONG_CHARACTERS = 16_384


class Reading:
    """What a list of messages amounts to; `add` them in order."""

    def __init__(self) -> None:
        self.tokens = tokens.PRIMING
        self.images = 0
        self.audio = 0
        self.question = ""
        self.last_role = ""
        self._texts: list[str] = []

    def add(self, role: str, content: Any) -> None:
        """One message, or one item of a conversation."""
        self.tokens += tokens.MESSAGE_OVERHEAD
        self.last_role = role
        text = self._of(content)
        if role == "user" and text:
            self.question = text[-_QUESTION_CHARACTERS:]

    def text(self, text: str) -> None:
        """A text beside the messages: instructions, tools, a name."""
        self.tokens += tokens.count(text)
        self._texts.append(text)

    def _of(self, content: Any) -> str:
        if content is None:
            return ""
        if isinstance(content, str):
            self.text(content)
            return content
        if not isinstance(content, list):
            raise Refusal(400, "Invalid type for 'content': expected a string or a list of parts.", param="messages")
        return "".join(self._part(part) for part in content)

    def _part(self, part: Any) -> str:
        if isinstance(part, str):
            self.text(part)
            return part
        if not isinstance(part, dict):
            raise Refusal(400, "Invalid content part.", param="messages")
        kind = str(part.get("type", ""))
        if "image" in kind:
            detail = part.get("detail") or (
                part["image_url"].get("detail") if isinstance(part.get("image_url"), dict) else ""
            )
            count = tokens.IMAGE_LOW if detail == "low" else tokens.IMAGE_HIGH
            self.images += count
            self.tokens += count
        elif "audio" in kind:
            sound = part.get("input_audio") or {}
            count = max(1, len(str(sound.get("data", ""))) // tokens.AUDIO_BYTES_PER_TOKEN)
            self.audio += count
            self.tokens += count
        elif isinstance(part.get("text"), str):
            self.text(part["text"])
            return str(part["text"])
        elif "content" in part:
            return self._of(part["content"])
        return ""

    def prefixes(self) -> list[tuple[int, bytes]]:
        """(tokens, hash) of each prefix that may be cached; a step is 512 bytes of text.

        From 1,024 tokens in steps of 128, from 8,192 on in steps of 1,024.
        """
        if self.tokens < CACHE_FROM:
            return []
        text = "\x00".join(self._texts).encode()
        digest = blake2b(digest_size=12)
        marks, done = [], 0
        last = min(len(text) // _STEP_BYTES, self.tokens // CACHE_STEP)
        for step in chain(range(_FIRST, min(last, _COARSE) + 1), range(_COARSE + _FIRST, last + 1, _FIRST)):
            digest.update(text[done * _STEP_BYTES : step * _STEP_BYTES])
            done = step
            marks.append((step * CACHE_STEP, digest.digest()))
        return marks


def identity(body: dict[str, Any], names: tuple[str, ...]) -> bytes:
    """A hash of the fields that decide what is answered."""
    decisive = [_shortened(body.get(name)) for name in names]
    return blake2b(orjson.dumps(decisive, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return [len(value), crc32(value.encode())] if len(value) > _LONG_CHARACTERS else value
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    return [_shortened(inner) for inner in value] if isinstance(value, list) else value


def tool_of(name: Any, parameters: Any) -> Tool:
    """A tool as declared. Raises Refusal."""
    if not isinstance(name, str) or not name:
        raise Refusal(400, "Missing required parameter: 'tools[0].function.name'.", param="tools")
    return Tool(
        name, parameters if isinstance(parameters, dict) and parameters else {"type": "object", "properties": {}}
    )


def listed(body: dict[str, Any], name: str) -> list[Any]:
    """A non-empty list of the body. Raises Refusal."""
    value = body.get(name)
    if not isinstance(value, list) or not value:
        raise Refusal(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    return value


def stops(value: Any) -> tuple[str, ...]:
    """Stop sequences: one, several or none."""
    if isinstance(value, str):
        return (value,)
    return tuple(s for s in value if isinstance(s, str) and s) if isinstance(value, list) else ()


def schema_of(response_format: Any) -> tuple[bool, dict[str, Any] | None]:
    """(JSON wanted, the schema) of chat's `response_format` or of responses' `text.format`. Raises Refusal."""
    if not isinstance(response_format, dict) or response_format.get("type") in (None, "text"):
        return False, None
    if response_format["type"] == "json_object":
        return True, None
    inner = response_format.get("json_schema", response_format)
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise Refusal(400, "Missing required parameter: 'response_format.json_schema.schema'.", param="response_format")
    return True, schema
