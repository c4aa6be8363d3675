"""The same question to every understood endpoint, streamed and not, and what its answer says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from tests.wire.raw import Answer

WORDS = [{"role": "user", "content": "Tell me of the river and the naïve 河"}]


@dataclass(frozen=True)
class Kind:
    """One way to ask. `done` is what only a whole stream holds."""

    name: str
    path: str
    fields: dict[str, Any]
    done: bytes = b""

    @property
    def streamed(self) -> bool:
        return bool(self.done)

    @property
    def anthropic(self) -> bool:
        return self.path == "/v1/messages"

    def __str__(self) -> str:
        return self.name


_CHAT = {"model": "gpt-4o-mini", "messages": WORDS}
_RESPONSES = {"model": "gpt-4o-mini", "input": "Tell me of the river and the naïve 河"}
_MESSAGES = {"model": "claude-sonnet-4-5", "max_tokens": 200, "messages": WORDS}

UNARY = (
    Kind("chat", "/v1/chat/completions", _CHAT),
    Kind("responses", "/v1/responses", _RESPONSES),
    Kind("messages", "/v1/messages", _MESSAGES),
    Kind("embeddings", "/v1/embeddings", {"model": "text-embedding-3-small", "input": "the river"}),
)
STREAMED = (
    Kind("chat-stream", "/v1/chat/completions", {**_CHAT, "stream": True}, b"data: [DONE]"),
    Kind("responses-stream", "/v1/responses", {**_RESPONSES, "stream": True}, b"response.completed"),
    Kind("messages-stream", "/v1/messages", {**_MESSAGES, "stream": True}, b"message_stop"),
)
ALL = UNARY + STREAMED


def events(answer: Answer) -> list[bytes]:
    """The payloads of an event stream."""
    body = answer.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found = []
    for block in body.split(b"\n\n"):
        lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
        if lines:
            found.append(b"\n".join(lines))
    return found


def text(answer: Answer) -> str:
    """The content of a chat stream."""
    told = []
    for payload in events(answer):
        if payload != b"[DONE]":
            told.extend(choice["delta"].get("content") or "" for choice in orjson.loads(payload).get("choices", []))
    return "".join(told)


def in_band_error(answer: Answer) -> dict[str, Any]:
    """The error that ends a broken stream."""
    error = orjson.loads(events(answer)[-1])["error"]
    assert isinstance(error, dict)
    return error
