"""An upstream that says exactly what it is told to say."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")


@dataclass
class Scripted:
    """What it says next, how often it was asked, and what for."""

    url: str = ""
    says: Any = None  # a JSON answer, or the bytes of a body
    kind: str = "application/json"
    headers: str = ""
    asked: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                found = _LENGTH.search(head)
                self.asked.append(await reader.readexactly(int(found[1])) if found else b"")
                body = self.says if isinstance(self.says, bytes) else orjson.dumps(self.says)
                lines = (
                    f"HTTP/1.1 200 OK\r\ncontent-type: {self.kind}\r\ncontent-length: {len(body)}\r\n{self.headers}\r\n"
                )
                writer.write(lines.encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """One on a port that the kernel chooses."""
    upstream = Scripted()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()


USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def chat(*ends: str | None, **message: Any) -> dict[str, Any]:
    """A chat completion with a choice for each end."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": "Hi", **message}, "finish_reason": end}
        for i, end in enumerate(ends)
    ]
    common = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini-2024-07-18"}
    return {**common, "choices": choices, "usage": USAGE}
