"""The process that counts: `python -m proxy.tokens.process --listen FD --cache DIR`. One for all workers of a host.

OpenAI's two vocabularies take 110 MB and half a second to load: too much for each worker, and not for its loop.
Here they are loaded when first asked for, and texts are counted in threads (tiktoken lets go of Python's lock).

Messages, both ways: four bytes of length, big-endian, then MessagePack. A question is [id, encoding, texts], its answer
[id, count], count None where the encoding's ranks aren't there. Answers come in any order. It ends when its standard
input does: with whoever started it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from proxy.tokens.ranks import ALL, VARIABLES, present

MOST_BYTES: Final = 64 * 2**20
LENGTH: Final = 4
_THREADS: Final = 2

Question = tuple[int, str, list[str]]
Answer = tuple[int, int | None]
encode: Final = msgspec.msgpack.Encoder().encode
_question: Final = msgspec.msgpack.Decoder(Question).decode


class Encodings:
    """The tokenizers of one cache, loaded as they are asked for. Safe to use from several threads."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._counts: dict[str, Callable[[str], int] | None] = {}
        self._loading = threading.Lock()

    def count(self, encoding: str, texts: list[str]) -> int | None:
        """Tokens of all texts, each by itself; None where its ranks aren't there."""
        count = self._get(encoding)
        return None if count is None else sum(map(count, texts))

    def _get(self, encoding: str) -> Callable[[str], int] | None:
        with self._loading:
            if encoding not in self._counts:
                self._counts[encoding] = self._load(encoding)
            return self._counts[encoding]

    def _load(self, encoding: str) -> Callable[[str], int] | None:
        if not any(ranks.encoding == encoding and present(self._cache, ranks) for ranks in ALL):
            return None
        import tiktoken

        with _set(VARIABLES[1], str(self._cache)):  # which tiktoken reads
            known = tiktoken.get_encoding(encoding)
        return lambda text: len(known.encode_ordinary(text))


@contextlib.contextmanager
def _set(variable: str, value: str) -> Iterator[None]:
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        del os.environ[variable]
        if before is not None:
            os.environ[variable] = before


class _Serving:
    """One worker's connection."""

    def __init__(self, encodings: Encodings, threads: ThreadPoolExecutor) -> None:
        self._encodings = encodings
        self._threads = threads

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering: set[asyncio.Task[None]] = set()
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(LENGTH), "big")
                if size > MOST_BYTES:
                    return
                question = _question(await reader.readexactly(size))
                task = asyncio.get_running_loop().create_task(self._answer(question, writer), name="count")
                answering.add(task)
                task.add_done_callback(answering.discard)
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
            return
        finally:
            for task in answering:
                task.cancel()
            writer.close()

    async def _answer(self, question: Question, writer: asyncio.StreamWriter) -> None:
        number, encoding, texts = question
        loop = asyncio.get_running_loop()
        count = await loop.run_in_executor(self._threads, self._encodings.count, encoding, texts)
        data = encode((number, count))
        writer.write(len(data).to_bytes(LENGTH, "big") + data)


async def serve(listener: socket.socket, cache: Path, until: asyncio.Future[None]) -> None:
    """Answers on a listening socket until told to stop."""
    with ThreadPoolExecutor(_THREADS, "count") as threads:
        server = await asyncio.start_unix_server(_Serving(Encodings(cache), threads), sock=listener)
        try:
            await until
        finally:
            server.close()


async def _main(listen: int, cache: Path) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def parent_spoke() -> None:
        if not os.read(sys.stdin.fileno(), 1) and not ended.done():
            ended.set_result(None)

    loop.add_reader(sys.stdin.fileno(), parent_spoke)
    await serve(socket.socket(fileno=listen), cache, ended)


def main() -> None:
    """The process's entry point."""
    parser = argparse.ArgumentParser(prog="proxy.tokens.process")
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(_main(options.listen, options.cache))


if __name__ == "__main__":
    main()
