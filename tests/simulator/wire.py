"""A client that looks at bytes: what came, in which reads, and how the connection ended. h11 judges the framing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import h11
import orjson

from proxy.simulator import Simulator
from tests.patience import PATIENCE_S

QUESTION = [{"role": "user", "content": "Tell me of the river and the naïve 河"}]


@dataclass
class Answer:
    """What a connection brought. `end` is `complete`, `eof` (before the end), `reset` or `garbage` (h11's verdict)."""

    raw: bytes = b""
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    end: str = "eof"
    reads: list[bytes] = field(default_factory=list)
    informational: list[int] = field(default_factory=list)
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def events(self) -> list[bytes]:
        """The `data:` payloads."""
        lines = self.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]

    @property
    def text(self) -> str:
        """The content of a chat stream."""
        told = []
        for event in self.events:
            if event != b"[DONE]":
                for choice in orjson.loads(event).get("choices", []):
                    told.append(choice["delta"].get("content") or "")
        return "".join(told)


def chat(stream: bool = False, **fields: Any) -> bytes:
    """A chat request's body."""
    return orjson.dumps({"model": "gpt-4o-mini", "messages": QUESTION, "stream": stream, **fields})


def request(
    body: bytes, *, fault: str = "", path: str = "/v1/chat/completions", method: str = "POST", **headers: str
) -> bytes:
    """The bytes of a request; `x_sim_tokens="5"` becomes a header."""
    lines = [f"{method} {path} HTTP/1.1", "host: simulator", f"content-length: {len(body)}"]
    if fault:
        lines.append(f"x-sim-fault: {fault}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def ask(simulator: Simulator, sent: bytes, *, enough: bytes | None = None) -> Answer:
    """Send bytes on a new connection and read until the answer is complete, the connection ends, or `enough` came."""
    reader, writer = await asyncio.open_connection(simulator.host, simulator.port)
    try:
        writer.write(sent)
        return await read(reader, enough=enough)
    finally:
        writer.close()


async def read(reader: asyncio.StreamReader, *, enough: bytes | None = None) -> Answer:
    """Read one answer."""
    answer, judge = Answer(), h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 26)
    judge.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    judge.send(h11.EndOfMessage())
    async with asyncio.timeout(PATIENCE_S):
        while not _judged(answer, judge):
            try:
                data = await reader.read(1 << 20)
            except ConnectionResetError:
                answer.end = "reset"
                return answer
            answer.raw += data
            answer.reads.append(data)
            try:
                judge.receive_data(data)
                if not data:
                    _judged(answer, judge)
                    return answer
            except h11.RemoteProtocolError:
                return answer
            if enough is not None and enough in answer.raw:
                return answer
    return answer


def _judged(answer: Answer, judge: h11.Connection) -> bool:
    """Whether the answer needs no more bytes."""
    while True:
        try:
            event = judge.next_event()
        except h11.RemoteProtocolError:
            answer.end = "eof" if judge.trailing_data[1] else "garbage"
            return True
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return False
        if isinstance(event, h11.InformationalResponse):
            answer.informational.append(event.status_code)
        elif isinstance(event, h11.Response):
            answer.status, answer.headers = event.status_code, list(event.headers)
        elif isinstance(event, h11.Data):
            answer.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            answer.end, answer.trailers = "complete", list(event.headers)
            return True
