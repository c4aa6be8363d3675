"""Asking the counting process: what a worker has of it, and what the supervisor starts.

Rules: a question is answered within `PATIENCE_S` or with None; a process that isn't there costs one failed connect a
second and nothing else; each None is counted (`tokens_not_counted`), since the callers' bound is several times higher.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from proxy.tokens.process import LENGTH, MOST_BYTES, Answer, encode

PATIENCE_S: Final = 1.0
_AGAIN_S: Final = 1.0
_answer: Final = msgspec.msgpack.Decoder(Answer).decode


class RemoteCounter:
    """A worker's connection to the counting process; made when first needed, and again when it was lost."""

    def __init__(self, path: Path, count: Callable[[str], object], patience_s: float = PATIENCE_S) -> None:
        self._path = path
        self._count = count
        self._patience_s = patience_s
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[int | None]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._not_before_s = 0.0

    async def count(self, encoding: str, pieces: list[str]) -> int | None:
        """Tokens of all pieces; None where nobody can say in time."""
        try:
            async with asyncio.timeout(self._patience_s):
                counted = await self._asked(encoding, pieces)
        except (TimeoutError, OSError):
            counted = None
        if counted is None:
            self._count("tokens_not_counted")
        return counted

    async def _asked(self, encoding: str, pieces: list[str]) -> int | None:
        writer = self._writer or await self._connected()
        number = next(self._numbers)
        data = encode((number, encoding, pieces))
        if writer is None or len(data) > MOST_BYTES:
            return None
        waiting: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            writer.write(len(data).to_bytes(LENGTH, "big") + data)
            await writer.drain()
            return await waiting
        finally:
            self._waiting.pop(number, None)

    async def _connected(self) -> asyncio.StreamWriter | None:
        async with self._connecting:
            loop = asyncio.get_running_loop()
            if self._writer is not None or loop.time() < self._not_before_s:
                return self._writer
            self._not_before_s = loop.time() + _AGAIN_S
            reader, self._writer = await asyncio.open_unix_connection(self._path)
            self._reading = loop.create_task(self._read(reader, self._writer), name="token counts")
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(LENGTH), "big")
                number, count = _answer(await reader.readexactly(size))
                waiting = self._waiting.get(number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(count)
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
            pass
        finally:
            self._writer = None
            writer.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(None)

    async def aclose(self) -> None:
        """Lets go of the connection."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading


class CountingProcess:
    """The process itself, for the supervisor. It ends with whoever started it, whatever becomes of that."""

    def __init__(self, path: Path, cache: Path) -> None:
        self._path = path
        self._cache = cache
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts it, listening; again if it has died."""
        if self.pid is not None:
            return
        self._path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            listener.listen(128)
            descriptor = listener.fileno()
            options = ["--listen", str(descriptor), "--cache", str(self._cache)]
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy.tokens.process", *options),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=[descriptor],
            )

    async def ended(self) -> int | None:
        """Waits until it ends; its exit status, None if it was never started."""
        return await self._process.wait() if self._process is not None else None

    async def stop(self) -> None:
        """Ends it."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._path.unlink(missing_ok=True)
