"""The state process as it runs: frozen, killed, started again; and what its clients make of that."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.state.client import SocketStore
from proxy.state.messages import Hello, encode, frame
from proxy.state.opening import socket_path
from proxy.state.process import NOT_OPENED, OWNED
from proxy.state.protocol import Granted, Rate, Refused, StateLost
from tests.children import at_our_end
from tests.patience import PATIENCE_S
from tests.state.asking import granted, hold, numbers, queued, scope

BOUND_S = 1.0


class Process:
    """A real one, over a file in its home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = socket_path(home)
        self.run: subprocess.Popen[bytes] = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        options = ["--state", "sqlite:///state.db", "--home", str(self.home), "--socket", str(self.socket)]
        self.run = subprocess.Popen(
            [sys.executable, "-m", "proxy.state.process", *options], preexec_fn=at_our_end(signal.SIGKILL)
        )
        return self.run

    def signal(self, number: int) -> None:
        self.run.send_signal(number)
        if number == signal.SIGKILL:
            self.run.wait()
        elif number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.run.pid, os.WSTOPPED | os.WNOWAIT)

    def store(self, bound_s: float = BOUND_S) -> SocketStore:
        return SocketStore(self.socket, bound_s)


async def up(store: SocketStore) -> None:
    """Waits until it answers."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await store.ping()
                return
            except StateLost:
                await asyncio.sleep(0.01)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    here = Process(tmp_path)
    try:
        yield here
    finally:
        here.run.kill()
        here.run.wait()


async def all_of(store: SocketStore) -> list[object]:
    """One call of each kind, made together; what became of them."""
    calls = [
        store.reserve(hold((scope("other"), 1))),
        store.reserve(hold((scope("other"), 1)), wait_s=0.1),
        store.adjust("x", [1], [1], 0, [scope()]),
        store.levels([scope()]),
        store.standing(),
        store.take([Rate("r", 1, 10**9)]),
        store.give([Rate("r", 1, 10**9)]),
        store.get("k"),
        store.put("k", b"v", 60),
        store.delete(["k"]),
        store.delete_tagged("t"),
        store.keys(""),
        store.claim("d", "o", 1),
        store.resign("d", "o"),
        store.publish("t", b"m"),
        anext(store.follow("t")),
        store.ping(),
        store.close("x", [1], [scope()]),
    ]
    return list(await asyncio.gather(*calls, return_exceptions=True))


async def test_frozen_every_call_is_lost_within_the_bound_and_all_goes_on_afterwards(process: Process) -> None:
    """SIGSTOP: nothing hangs; SIGCONT: it answers again without any restart, and no lost reservation stands."""
    store = process.store()
    await up(store)
    kept = await granted(store, (scope(), 10))
    process.signal(signal.SIGSTOP)
    began_s = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        said = await all_of(store)
        again = await all_of(store)
    assert all(isinstance(one, StateLost) for one in (*said, *again)), said
    assert time.monotonic() - began_s < PATIENCE_S, "the second round didn't even wait"
    process.signal(signal.SIGCONT)
    await up(store)
    assert await numbers(store, scope("other")) == [(0, 0)], "both reservations were withdrawn"
    assert await store.close(kept, [3])
    await store.aclose()


async def test_once_it_is_silent_nobody_waits_for_it(process: Process) -> None:
    """The first call pays the bound, those after it nothing: a thousand of them would take an hour."""
    store = process.store(bound_s=3.0)
    await up(store)
    process.signal(signal.SIGSTOP)
    with pytest.raises(StateLost):
        await store.ping()
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(1000):
            with pytest.raises(StateLost):
                await store.reserve(hold((scope(), 1)))
    process.signal(signal.SIGCONT)
    await up(store)
    assert await store.standing() == []
    await store.aclose()


async def test_a_waiter_is_lost_with_the_process_and_leaves_nothing(process: Process) -> None:
    """SIGKILL while somebody waits: StateLost; what was answered before is there after the restart."""
    store = process.store()
    await up(store)
    full = await granted(store, (scope(), 100))
    waiter = await queued(store, hold((scope(), 1)), wait_s=PATIENCE_S)
    process.signal(signal.SIGKILL)
    with pytest.raises(StateLost):
        await waiter
    process.start()
    await up(store)
    assert [one.id for one in await store.standing()] == [full]
    assert await store.close(full, [5])
    assert await numbers(store, scope()) == [(5, 0)]
    await store.aclose()


async def test_a_close_that_was_lost_is_sent_again(process: Process) -> None:
    """The process is killed with a close under way, or away when it is made: the hold is closed by the next, once."""
    store = process.store()
    await up(store)
    first, second = await granted(store, (scope(), 10)), await granted(store, (scope(), 20))
    process.signal(signal.SIGSTOP)
    closing = asyncio.create_task(store.close(first, [7]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    process.signal(signal.SIGKILL)
    with pytest.raises(StateLost):
        await closing
    with pytest.raises(StateLost):
        await store.close(second, [8])
    process.start()
    await up(store)
    assert await numbers(store, scope()) == [(15, 0)]
    assert not await store.close(first, [7])
    await store.aclose()


async def test_killed_at_any_moment_it_has_written_what_it_has_said(process: Process) -> None:
    """Rounds of load that end in SIGKILL: every answered close counts, and no hold stands that nobody knows of."""
    store, spent, most = process.store(), 0, scope("usd:all", 10**9)
    await up(store)
    unsure: list[str] = []

    async def one() -> None:
        nonlocal spent
        asked = hold((most, 10))
        try:
            await store.reserve(asked)
        except StateLost:
            return
        try:
            await store.close(asked.id, [3])
        except StateLost:
            unsure.append(asked.id)  # it will be sent again
        spent += 3

    for _ in range(5):
        load = [asyncio.create_task(one()) for _ in range(300)]
        await asyncio.wait(load, return_when=asyncio.FIRST_COMPLETED)
        process.signal(signal.SIGKILL)
        await asyncio.gather(*load)
        process.start()
        await up(store)
    assert await numbers(store, most) == [(spent, 0)]
    await store.aclose()


async def test_a_waiter_whose_worker_has_gone_is_passed_over(process: Process) -> None:
    """A worker's death takes its place in the queue away; the next in line gets in."""
    leaver, stayer = process.store(), process.store()
    await up(stayer)
    full = await granted(stayer, (scope(), 100))
    gone = await queued(leaver, hold((scope(), 60)))
    next_one = await queued(stayer, hold((scope(), 60)))
    await leaver.aclose()
    with pytest.raises(StateLost):
        await gone
    for _ in range(3):  # the process reads of the end before it reads these
        await stayer.ping()
    await stayer.close(full, [0])
    assert isinstance(await next_one, Granted)
    await stayer.aclose()


async def test_a_grant_that_raced_with_a_cancel_is_taken_back(process: Process) -> None:
    """Whoever cancels just as its turn comes holds nothing."""
    store = process.store(PATIENCE_S)
    await up(store)
    for _ in range(50):
        full = await granted(store, (scope(), 100))
        waiter = await queued(store, hold((scope(), 60)))
        closing = asyncio.create_task(store.close(full, [0]))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, closing, return_exceptions=True)
        assert await numbers(store, scope()) == [(0, 0)]
    await store.aclose()


async def test_a_request_that_makes_no_sense_is_its_caller_s_error(process: Process) -> None:
    """It doesn't take others, sent with it, along."""
    store = process.store(PATIENCE_S)
    await up(store)
    said = await asyncio.gather(
        store.reserve(hold((scope(), -1))),
        store.reserve(hold((scope("big", 2**70), 1))),
        store.put("k", bytes(5 * 2**20), 60),
        store.reserve(hold((scope(), 1))),
        return_exceptions=True,
    )
    assert [type(one) for one in said] == [ValueError, ValueError, ValueError, Granted]
    await store.aclose()


async def test_garbage_ends_only_its_own_connection(process: Process) -> None:
    """Whatever else speaks to the socket: the others go on."""
    store = process.store(PATIENCE_S)
    await up(store)
    for garbage in (b"\xff" * 100, b"\x05\0\0\0hello", b"\x02\0\0\0\x91\xc0"):
        reader, writer = await asyncio.open_unix_connection(str(process.socket))
        writer.write(garbage)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()
    assert isinstance(await store.reserve(hold((scope(), 1))), Granted)
    await store.aclose()


async def test_a_session_that_comes_again_ends_its_older_connection(process: Process) -> None:
    """So what a lost connection still had under way can't be done after it was withdrawn by the new one."""
    store = process.store(PATIENCE_S)
    await up(store)
    full = await granted(store, (scope(), 100))
    waiter = await queued(store, hold((scope(), 1)))
    reader, writer = await asyncio.open_unix_connection(str(process.socket))
    writer.write(frame([encode(Hello(0, store._calls._session))]))
    with pytest.raises(StateLost):
        await waiter
    await up(store)  # by a connection of its own, which ends the other one in turn
    async with asyncio.timeout(PATIENCE_S):
        await reader.read()
    await store.close(full, [0])
    assert await numbers(store, scope()) == [(0, 0)]
    writer.close()
    await store.aclose()


async def test_a_second_process_says_that_it_isn_t_needed(process: Process) -> None:
    """Its status tells the supervisor why."""
    store = process.store()
    await up(store)
    second = subprocess.run([*process.run.args], timeout=60)  # type: ignore[misc]
    assert second.returncode == OWNED
    assert await store.ping() > 0
    await store.aclose()


async def test_a_state_that_can_t_be_opened_is_said(tmp_path: Path) -> None:
    """A broken file: status 2, and a line."""
    (tmp_path / "state.db").write_bytes(b"broken" * 1000)
    process = Process(tmp_path)
    assert await asyncio.to_thread(process.run.wait, 60) == NOT_OPENED


async def test_ended_by_sigterm_it_leaves_no_socket(process: Process) -> None:
    """And what it was told is in the file."""
    store = process.store()
    await up(store)
    await granted(store, (scope(), 10), id="kept")
    process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.run.wait, 60) == 0
    assert not process.socket.exists()
    process.start()
    await up(store)
    assert [one.id for one in await store.standing()] == ["kept"]
    await store.aclose()


async def test_a_home_with_a_long_name_has_its_socket_elsewhere(tmp_path: Path) -> None:
    """A socket's address has 108 bytes; the directory in its stead is nobody else's."""
    home = tmp_path / ("h" * 120)
    home.mkdir()
    path = socket_path(home)
    assert len(bytes(path)) <= 100 and path.parent.stat().st_mode & 0o077 == 0
    process = Process(home)
    try:
        store = process.store()
        await up(store)
        assert isinstance(await store.reserve(hold((scope(), 101))), Refused)
        await store.aclose()
    finally:
        process.signal(signal.SIGTERM)
        process.run.wait()
        path.parent.joinpath("state.sock.lock").unlink(missing_ok=True)
        path.parent.rmdir()
