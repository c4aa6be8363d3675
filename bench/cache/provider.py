"""A provider that knows the right answers: fixed, or worded anew at random for each call."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable

import orjson

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WORDINGS = (
    "{}",
    "Sure! {}.",
    "Here is what I found: {}.",
    "{}. Let me know if you need anything else.",
    "To answer your question: {}.",
    "In short, {}.",
    "I'd be happy to help. {}",
    "Thanks for asking! This is about {}.",
)


def said(turns: Iterable[str]) -> str:
    """All turns as one text."""
    return "\n".join(turns)


class Provider:
    """Answers chat requests by what was said in them. `told` says which answer each text that was sent is."""

    def __init__(self, right: dict[str, str], paraphrase: bool = False, seed: int = 0) -> None:
        self._right = right
        self._drawn = random.Random(seed)
        self._paraphrase = paraphrase
        self.told: dict[str, str] = {}
        self.calls = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Provider:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def answer(self, body: bytes) -> bytes:
        """The whole response to a chat request."""
        self.calls += 1
        asked = orjson.loads(body)
        right = self._right[said(turn["content"] for turn in asked["messages"])]
        text = right.replace("_", " ")
        if self._paraphrase:
            text = self._drawn.choice(_WORDINGS).format(text)
        self.told[text] = right
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        whole = {
            "id": f"chatcmpl-{self.calls}",
            "object": "chat.completion",
            "created": 1,
            "model": asked["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": 20, "completion_tokens": 60, "total_tokens": 80},
        }
        data = orjson.dumps(whole)
        return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)


class _Connection(asyncio.Protocol):
    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if end and length is not None and len(rest) >= int(length[1]):
            self._data = b""
            self._transport.write(self._provider.answer(rest))  # type: ignore[attr-defined]
