"""A supervisor is killed, and the next one of its home takes its place: real processes, real clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy import orphan
from proxy.admin.client import AdminClient
from proxy.admin.operated import Status
from proxy.admin.running import running_in
from proxy.simulator.ports import free_port
from proxy.supervisor.process import spawned
from proxy.supervisor.service import WORKER
from proxy.supervisor.takeover import _fits
from tests.children import at_our_end, tied
from tests.patience import PATIENCE_S
from tests.supervisor.conftest import until
from tests.supervisor.test_real_workers import Client, Upstream, upstream, write

__all__ = ["upstream"]


@asynccontextmanager
async def served(file: Path) -> AsyncIterator[Process]:
    with file.with_name("log").open("ab") as log:  # no pipe: orphans would hold it open, and `wait` waits for its end
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy.cli", "serve", "--config", str(file)),
            stdout=DEVNULL,
            stderr=log,
            preexec_fn=at_our_end(signal.SIGTERM),
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def status_of(home: Path, process: Process) -> Status:
    """Once this process serves."""

    def serves() -> bool:
        now = running_in(home)
        return now is not None and now.pid == process.pid

    await until(serves)
    return await asyncio.to_thread(AdminClient(home).status)


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


async def test_the_next_supervisor_takes_over(upstream: tuple[Upstream, str], tmp_path: Path, home: Path) -> None:
    """No connection is refused meanwhile; the old workers finish what runs, then end; the new ones serve."""
    address = f"127.0.0.1:{free_port()}"
    write(tmp_path / "v1", upstream[1], home, workers=2, listen=address)
    file = tmp_path / "v1" / "weir.yaml"
    async with served(file) as first:
        before = [worker.pid for worker in (await status_of(home, first)).workers]
        try:
            busy = Client(address)
            slow = asyncio.create_task(busy.chat("slow"))
            await until(lambda: upstream[0].waiting == 1)
            first.kill()
            await first.wait()
            stop, done = False, 0

            async def client() -> None:
                nonlocal done
                while not stop:
                    one = Client(address)
                    assert await one.chat() == 200
                    one.close()
                    done += 1

            asking = asyncio.create_task(client())
            async with served(file) as second:
                after = [worker.pid for worker in (await status_of(home, second)).workers]
                assert not set(before) & set(after)
                await until(lambda: sum(map(lives, before)) == 1)  # the one that still answers
                seen = done
                await until(lambda: done > seen + 5)
                upstream[0].go.set()
                assert await slow == 200
                await until(lambda: not any(map(lives, before)))
                stop = True
                await asking
                assert not list(orphan.directory(home).glob("*"))
                busy.close()
        finally:
            for pid in before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def test_who_can_not_start_leaves_the_orphans_serving(
    upstream: tuple[Upstream, str], tmp_path: Path, home: Path
) -> None:
    """The second supervisor fails after it has found them: they go on, and the third takes over."""
    address = f"127.0.0.1:{free_port()}"
    write(tmp_path / "v1", upstream[1], home, listen=address)
    file = tmp_path / "v1" / "weir.yaml"
    async with served(file) as first:
        (before,) = [worker.pid for worker in (await status_of(home, first)).workers]
        try:
            first.kill()
            await first.wait()
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                text = file.read_text()
                file.write_text(text.replace('"ops": "127.0.0.1:0"', f'"ops": "127.0.0.1:{taken.getsockname()[1]}"'))
                async with served(file) as second:
                    assert await asyncio.wait_for(second.wait(), PATIENCE_S) == 1
                file.write_text(text)
            one = Client(address)
            assert await one.chat() == 200
            one.close()
            assert lives(before)
            async with served(file) as third:
                (after,) = [worker.pid for worker in (await status_of(home, third)).workers]
                assert after != before
                await until(lambda: not lives(before))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(before, signal.SIGKILL)


async def test_a_second_supervisor_of_a_living_one_is_refused(
    upstream: tuple[Upstream, str], tmp_path: Path, home: Path
) -> None:
    """Its workers are no orphans and its home is its own, wherever the second one listens; the error names it."""
    address = f"127.0.0.1:{free_port()}"
    write(tmp_path / "v1", upstream[1], home, listen=address)
    write(tmp_path / "v2", upstream[1], home, listen="127.0.0.1:0")
    file = tmp_path / "v2" / "weir.yaml"
    async with served(tmp_path / "v1" / "weir.yaml") as first:
        await status_of(home, first)
        async with served(file) as second:
            assert await asyncio.wait_for(second.wait(), PATIENCE_S) == 1
            assert f"in use by process {first.pid}, which serves {address}" in file.with_name("log").read_text()
        one = Client(address)
        assert await one.chat() == 200
        one.close()


def test_who_never_served_ends_with_its_supervisor() -> None:
    """A worker whose supervisor died before it told it anything: left alive, it would keep the address for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [*tied(WORKER), "--listen", str(listener.fileno()), "--index", "0"]
        worker, line = spawned(command, [listener.fileno()])
    line.close()
    assert worker.wait(PATIENCE_S) == 0


def test_a_left_over_socket_is_removed(home: Path) -> None:
    """Nobody listens on it: its process is dead."""
    home.mkdir()
    orphan.directory(home).mkdir(mode=0o700)
    path = orphan.directory(home) / "999999.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert orphan.find(home) == []
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "address", "fits"),
    [
        ("127.0.0.1:8787", "127.0.0.1:8787", True),
        ("127.0.0.1:8787", "localhost:8787", True),
        ("127.0.0.1:40001", "127.0.0.1:0", True),
        ("127.0.0.1:8787", "127.0.0.1:8788", False),
        ("127.0.0.1:8787", "0.0.0.0:8787", False),
        ("unix:/run/weir", "unix:/run/weir", True),
        ("unix:/run/weir", "127.0.0.1:1", False),
    ],
)
def test_which_sockets_are_what_is_asked_for(name: str, address: str, fits: bool) -> None:
    """A changed address is bound anew; port 0 is any port."""
    assert _fits(name, address) is fits
