"""Clients that hold connections and give nothing for them, over plain sockets in one loop.

    head     a request's head, a byte at a time
    body     a chat's body, a byte at a time
    upload   a form's body, a byte at a time: it streams through, and holds an upstream connection too
    reader   a long stream, read a few bytes at a time by a tiny window
    silent   nothing at all

Each holds one connection; where it is ended, it may come again. `python -m bench.attackers_raw URL N` attacks with N of
them, all kinds in turn, until it is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

_CHAT = b"/v1/chat/completions"
_HEAD = b"POST %b HTTP/1.1\r\nHost: attacked\r\n"
_KEY = b"Authorization: Bearer sk-attacker-0123456789\r\n"
_FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
_ASK = b'{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Tell me all of it"}]}'
_WINDOW = 2048


class Attack:
    """Attackers of all kinds against one port; `ended` counts the connections that the server ended, by kind."""

    def __init__(self, port: int, every_s: float = 1.0, again: bool = False, stream: bytes = b"") -> None:
        self.port = port
        self.ended: Counter[str] = Counter()
        self._every_s = every_s
        self._again = again
        self._stream = stream  # header lines that make the answer of a reader long

    def start(self, count: int, kinds: tuple[str, ...] = ()) -> list[asyncio.Task[None]]:
        """So many, all kinds in turn; each task is over when its connection was ended, unless it comes again."""
        made = itertools.islice(itertools.cycle(kinds or KINDS), count)
        return [asyncio.create_task(self._attacker(kind), name=f"attacker {kind}") for kind in made]

    async def _attacker(self, kind: str) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                await self._once(kind)
            self.ended[kind] += 1
            if not self._again:
                return
            await asyncio.sleep(self._every_s / 10)

    async def _once(self, kind: str) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
            await KINDS[kind](self, sock)
        finally:
            sock.close()

    async def _drip(self, sock: socket.socket, beginning: bytes) -> None:
        """Sends the beginning, then a byte now and then, until the other end is heard to close."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, beginning)
        heard = asyncio.ensure_future(_until_end(sock))
        try:
            while not heard.done():
                await asyncio.wait((heard,), timeout=self._every_s)
                if not heard.done() and beginning:
                    await loop.sock_sendall(sock, b"x")
        finally:
            heard.cancel()
            await asyncio.gather(heard, return_exceptions=True)

    async def head(self, sock: socket.socket) -> None:
        await self._drip(sock, _HEAD % _CHAT + b"X-Slow: ")

    async def body(self, sock: socket.socket) -> None:
        head = _HEAD % _CHAT + _KEY + b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        await self._drip(sock, head + b'{"model":"')

    async def upload(self, sock: socket.socket) -> None:
        head = _HEAD % b"/v1/audio/transcriptions" + _KEY + _FORM + b"Content-Length: 100000\r\n\r\n"
        model = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        await self._drip(
            sock, head + model + b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        )

    async def silent(self, sock: socket.socket) -> None:
        await self._drip(sock, b"")

    async def reader(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head = _HEAD % _CHAT + _KEY + self._stream + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await loop.sock_sendall(sock, head % len(_ASK) + _ASK)
        while await loop.sock_recv(sock, 16):
            await _idle(sock, self._every_s)


async def _until_end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(sock, 4096):
            pass


async def _idle(sock: socket.socket, for_s: float) -> None:
    """Doesn't read; raises ConnectionResetError as soon as the other end gave up."""
    end_s = asyncio.get_running_loop().time() + for_s
    while (left_s := end_s - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(min(left_s, 0.1))
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise ConnectionResetError


KINDS: dict[str, Callable[[Attack, socket.socket], Coroutine[Any, Any, None]]] = {
    "head": Attack.head,
    "body": Attack.body,
    "upload": Attack.upload,
    "reader": Attack.reader,
    "silent": Attack.silent,
}


async def _attack(url: str, count: int) -> None:
    port = urlsplit(url).port
    assert port is not None
    # More than the buffers on the way take, in one event: what is to be felt is who waits, not what was made for it.
    attack = Attack(port, again=True, stream=b"x-sim-fault: huge-event:12:1\r\n")
    await asyncio.gather(*attack.start(count))


if __name__ == "__main__":
    asyncio.run(_attack(sys.argv[1], int(sys.argv[2])))
