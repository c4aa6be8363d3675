"""Clients: one keep-alive connection each, that asks again and again, and tells everything it saw.

A client never repeats a request by itself: what was cut off stays cut off, and the next one has another key.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from bench.load import wire
from bench.payloads import PATH

PATIENCE_S: Final = 60.0


@dataclass(slots=True)
class Answer:
    """What came back; `status` is 0 where the connection was cut, and then nobody knows what was done."""

    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    took_s: float = 0.0
    began_s: float = 0.0

    @property
    def whole(self) -> bool:
        """Answered in full: whoever got this was served."""
        return self.status == 200 and (b'"usage"' in self.body or b"data: [DONE]" in self.body)

    @property
    def error(self) -> str:
        """The code of an error."""
        try:
            found = json.loads(self.body)["error"]
            return str(found["code"] or found["type"])
        except (ValueError, KeyError, TypeError):
            return ""

    @property
    def shortened(self) -> bool:
        """Whether the model was stopped by a cap."""
        return b'"finish_reason":"length"' in self.body.replace(b'": "', b'":"')


class Client:
    """One connection to one origin, made anew when it is gone."""

    def __init__(self, url: str) -> None:
        self._where = wire.address(url)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, body: dict[str, Any], key: str, path: str = PATH, **headers: object) -> Answer:
        """One request. Never raises for what the other side does."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._ask(_request(self._where, path, body, key, headers))
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            self.close()
            answer = Answer()
        answer.began_s, answer.took_s = began_s, time.monotonic() - began_s
        return answer

    async def _ask(self, request: bytes) -> Answer:
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self.close()
            self._reader, self._writer = await asyncio.open_connection(self._where.host, self._where.port)
        reader = self._reader
        self._writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await self._body(reader, fields)
        if fields.get("connection") == "close":
            self.close()
        return Answer(int(head[0].split(" ")[1]), body, fields)

    async def _body(self, reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
        if "content-length" in fields:
            return await reader.readexactly(int(fields["content-length"]))
        pieces = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(pieces)

    def close(self) -> None:
        """Drops the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def _request(where: wire.Address, path: str, body: dict[str, Any], key: str, headers: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {where.host}:{where.port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n{more}\r\n"
    )
    return head.encode() + data


async def lanes(count: int, url: str, lane: Callable[[Client, int], Any], apart_s: float = 0.0) -> None:
    """So many clients at once, each doing `lane(client, number)` to its end."""

    async def one(number: int) -> None:
        await asyncio.sleep(number * apart_s)
        client = Client(url)
        try:
            await lane(client, number)
        finally:
            client.close()

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number), name=f"client {number}")
