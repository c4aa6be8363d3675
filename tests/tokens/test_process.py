"""The counting process as it runs, and asking it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.tokens.process import LENGTH
from proxy.tokens.remote import CountingProcess, RemoteCounter


class Counted:
    """Metrics that were counted."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> None:
        self.names.append(name)


@pytest.fixture
async def process(tmp_path: Path, cache: Path) -> AsyncIterator[CountingProcess]:
    """A running process on a socket of its own."""
    running = CountingProcess(tmp_path / "count.sock", cache)
    await running.start()
    yield running
    await running.stop()


async def test_it_counts(process: CountingProcess, tmp_path: Path) -> None:
    """Several workers ask at once, and each gets its own counts."""
    counted = Counted()
    workers = [RemoteCounter(tmp_path / "count.sock", counted, patience_s=60) for _ in range(2)]
    asked = [worker.count("o200k_base", ["hi"] * number) for worker in workers for number in range(1, 20)]
    assert await asyncio.gather(*asked) == [*range(1, 20), *range(1, 20)]
    assert counted.names == []
    for worker in workers:
        await worker.aclose()


async def test_a_large_text_doesnt_hold_up_the_small(process: CountingProcess, tmp_path: Path) -> None:
    """A megabyte is counted in a thread; the loop that waits for it runs on."""
    worker = RemoteCounter(tmp_path / "count.sock", Counted(), patience_s=60)
    assert await worker.count("cl100k_base", ["warm"]) == 1
    large = asyncio.create_task(worker.count("cl100k_base", ["weir " * 200_000]))
    assert await worker.count("cl100k_base", ["hi"]) == 1
    assert (await large or 0) > 200_000
    await worker.aclose()


async def test_unknown_encodings(process: CountingProcess, tmp_path: Path) -> None:
    """An encoding that isn't there is nobody's failure: None, and counted."""
    counted = Counted()
    worker = RemoteCounter(tmp_path / "count.sock", counted, patience_s=60)
    assert await worker.count("p50k_base", ["hi"]) is None
    assert counted.names == ["tokens_not_counted"]
    await worker.aclose()


async def test_nobody_there(tmp_path: Path) -> None:
    """Without a process every question ends at once with None."""
    counted = Counted()
    worker = RemoteCounter(tmp_path / "none.sock", counted)
    assert [await worker.count("o200k_base", ["hi"]) for _ in range(3)] == [None] * 3
    assert len(counted.names) == 3


async def test_one_that_doesnt_answer(tmp_path: Path) -> None:
    """A process that is stopped, or busy, is waited for no longer than was said."""
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_unix_server(silent, tmp_path / "silent.sock"):
        worker = RemoteCounter(tmp_path / "silent.sock", Counted(), patience_s=0.05)
        assert await worker.count("o200k_base", ["hi"]) is None
        await worker.aclose()
        await gone.wait()


async def test_it_comes_back(process: CountingProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it died, what waits is answered with None; started again, it is found again."""
    monkeypatch.setattr("proxy.tokens.remote._AGAIN_S", 0.0)
    worker = RemoteCounter(tmp_path / "count.sock", Counted(), patience_s=60)
    assert await worker.count("cl100k_base", ["hi"]) == 1
    assert process.pid is not None
    os.kill(process.pid, 9)
    await process.ended()
    assert await worker.count("cl100k_base", ["hi"]) is None
    await process.start()
    assert await worker.count("cl100k_base", ["hi"]) == 1
    await worker.aclose()


async def test_it_ends_with_its_parent(process: CountingProcess) -> None:
    """When its standard input ends, so does it: a supervisor that is killed leaves nothing behind."""
    await process.stop()
    assert await process.ended() == 0


async def test_nonsense_ends_the_connection(process: CountingProcess, tmp_path: Path) -> None:
    """A message that can't be read, or is too large, ends that connection, not the process."""
    for nonsense in ((3).to_bytes(LENGTH, "big") + b"\xc1\xc1\xc1", (2**31).to_bytes(LENGTH, "big")):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "count.sock")
        writer.write(nonsense)
        assert await reader.read() == b""
        writer.close()
    worker = RemoteCounter(tmp_path / "count.sock", Counted(), patience_s=60)
    assert await worker.count("cl100k_base", ["hi"]) == 1
    await worker.aclose()


async def test_only_its_owner_may_ask(process: CountingProcess, tmp_path: Path) -> None:
    """The socket is nobody else's."""
    assert (tmp_path / "count.sock").stat().st_mode & 0o077 == 0
