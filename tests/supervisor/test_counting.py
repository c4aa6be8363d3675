"""The process that counts tokens, as the supervisor keeps it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path

import pytest

from proxy.logs import Log
from proxy.state.opening import COUNTING, socket_path
from proxy.supervisor.counting import Counting, asks
from proxy.tokens.ranks import ALL
from proxy.tokens.remote import RemoteCounter
from tests.patience import PATIENCE_S
from tests.plane.running import entry
from tests.supervisor.conftest import until


@asynccontextmanager
async def kept(home: Path, *, wanted: bool = True) -> AsyncIterator[Counting]:
    counting = Counting(home, lambda: wanted, Log("json", "debug", stream=StringIO()), again_s=0.01)
    following = asyncio.create_task(counting.follow())
    try:
        yield counting
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await counting.process.stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEIR_TIKTOKEN_CACHE", str(tmp_path / "ranks"))
    (tmp_path / "ranks").mkdir()
    return tmp_path


async def test_it_is_there_once_there_is_something_to_count_with(home: Path) -> None:
    """Files that come later need no restart; a process that dies is replaced; a worker is answered by both."""
    async with kept(home) as counting:
        await asyncio.sleep(0.05)
        assert counting.process.pid is None, "nothing to count with"
        (home / "ranks" / ALL[0].file_name).write_bytes(b"not whole")
        await until(lambda: counting.process.pid is not None)
        first, counted = counting.process.pid, list[str]()
        assert first is not None
        counter = RemoteCounter(socket_path(home, COUNTING), counted.append, patience_s=PATIENCE_S)
        assert await counter.count("o200k_base", ["hello"]) is None
        assert counted == ["tokens_not_counted"], "an answer: its file isn't the right one"
        await counter.aclose()
        os.kill(first, signal.SIGKILL)
        await until(lambda: counting.process.pid not in (None, first))
    assert not socket_path(home, COUNTING).exists()


async def test_nobody_asks(home: Path) -> None:
    """Without a hard budget it isn't started."""
    (home / "ranks" / ALL[0].file_name).write_bytes(b"")
    async with kept(home, wanted=False) as counting:
        await asyncio.sleep(0.05)
        assert counting.process.pid is None
    assert asks([entry("headers"), entry("budget", limit="1 USD/day")])
    assert not asks([entry("headers"), entry("budget", limit="1 USD/day", hard=False)])
