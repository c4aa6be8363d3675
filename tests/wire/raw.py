"""A client that sends any bytes and looks at what comes back, byte for byte. h11 judges the framing of answers."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import h11
import orjson

from tests.patience import PATIENCE_S


@dataclass
class Answer:
    """One answer, or what there was of one: `whole` is h11's verdict."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False
    version: bytes = b""
    informational: list[int] = field(default_factory=list)

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object; fails where it hasn't exactly that form."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["code"] is None or isinstance(error["code"], str)
        assert self.header(b"content-type") == b"application/json"
        return error


class Raw:
    """One connection to a server under test."""

    patience_s: float = PATIENCE_S  # for each read and write

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._pending = b""
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, port: int, *, receive_buffer: int | None = None) -> Self:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(self.patience_s):
            await self._loop.sock_sendall(self.sock, data)

    async def read(self) -> bytes:
        """What is there next; empty at the end, also at a reset."""
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        async with asyncio.timeout(self.patience_s):
            try:
                return await self._loop.sock_recv(self.sock, 1 << 18)
            except ConnectionResetError:
                return b""

    def unread(self, data: bytes) -> None:
        """Comes again, before what follows."""
        self._pending = data + self._pending

    async def read_until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`; fails if the connection ends before."""
        seen = b""
        while mark not in seen:
            data = await self.read()
            assert data, f"the connection ended after {seen[-500:]!r}"
            seen += data
        end = seen.index(mark) + len(mark)
        self._pending = seen[end:] + self._pending
        return seen[:end]

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        seen = b""
        while data := await self.read():
            seen += data
        return seen

    async def answer(self, method: str = "POST") -> Answer:
        """The next answer; bytes after it stay for the next call."""
        told, judge = Answer(), h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 26)
        judge.send(h11.Request(method=method, target="/", headers=[("host", "x"), ("content-length", "0")]))
        judge.send(h11.EndOfMessage())
        while True:
            event = judge.next_event()
            if event is h11.NEED_DATA:
                data = await self.read()
                try:
                    judge.receive_data(data)
                    if not data:
                        event = judge.next_event()
                        told.whole = isinstance(event, h11.EndOfMessage)
                        return told
                except h11.RemoteProtocolError:
                    return told
            elif isinstance(event, h11.InformationalResponse):
                told.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                told.status, told.headers, told.version = event.status_code, list(event.headers), event.http_version
            elif isinstance(event, h11.Data):
                told.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                told.whole = True
                self._pending = judge.trailing_data[0] + self._pending
                return told
            else:
                return told

    async def ask(self, data: bytes, method: str = "POST") -> Answer:
        await self.send(data)
        return await self.answer(method)

    async def closed(self) -> bool:
        """Waits for the server's end of the connection: nothing more comes, then FIN or RST."""
        return await self.read() == b""

    def finish(self) -> None:
        """FIN: nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def post(path: str = "/v1/chat/completions", body: bytes = b"", *lines: str, version: str = "1.1") -> bytes:
    """The bytes of a POST with a JSON body."""
    head = [f"POST {path} HTTP/{version}", "Host: weir", f"Content-Length: {len(body)}"]
    if not any(line.lower().startswith("content-type") for line in lines):
        head.append("Content-Type: application/json")
    return "\r\n".join([*head, *lines, "", ""]).encode("latin-1") + body


def get(path: str = "/v1/models", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """The bytes of a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: weir", *lines, "", ""]).encode("latin-1")


def chunks(*pieces: bytes, trailer: bytes = b"") -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"


def chat(stream: bool = False, **fields: Any) -> bytes:
    """A chat request's body."""
    messages = [{"role": "user", "content": "Tell me of the river"}]
    return orjson.dumps({"model": "gpt-4o-mini", "messages": messages, "stream": stream, **fields})
