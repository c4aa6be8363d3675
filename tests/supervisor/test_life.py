"""How the supervisor starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest

from proxy.admin.client import AdminClient
from proxy.admin.running import Running, running_in
from proxy.clients.keys import KeyStore, digest
from tests.children import at_our_end
from tests.patience import PATIENCE_S
from tests.supervisor.conftest import plan, running, until


async def test_draining_finishes_what_runs(home: Path) -> None:
    """The running request is answered, new connections are refused, the status is 0."""
    async with running(plan(home)) as here:
        address = here.supervisor.status().listen[0]
        ops = str(here.supervisor.status().ops)
        slow = asyncio.create_task(here.ask("/slow"))
        await until(lambda: here.tells("weir_exchanges_in_flight 1.0"))
        host, port = address.split(":")
        kept = http.client.HTTPConnection(host, int(port))
        kept.connect()
        await until(lambda: _is_accepted(here, kept))
        here.supervisor.drain()
        await until(lambda: _refuses(address))
        assert (await here.get(ops, "/readyz"))[0] == 503
        assert (await here.get(ops, "/healthz"))[0] == 200
        await asyncio.to_thread(kept.request, "GET", "/go")
        assert (await slow)["hash"] == "h1"
        assert await asyncio.wait_for(here.task, PATIENCE_S) == 0


async def test_what_outlasts_the_drain_is_cut_and_said(home: Path) -> None:
    """After `drain_s` the rest is cut: status 1."""
    async with running(plan(home, drain_s=0.2)) as here:
        slow = asyncio.create_task(here.ask("/slow"))
        await until(lambda: here.tells("weir_exchanges_in_flight 1.0"))
        here.supervisor.drain()
        assert await asyncio.wait_for(here.task, PATIENCE_S) == 1
        with pytest.raises((http.client.HTTPException, OSError)):
            await slow


async def test_the_second_request_to_end_ends_at_once(home: Path) -> None:
    """Twice is now: it doesn't wait for `drain_s`."""
    async with running(plan(home, drain_s=1000.0)) as here:
        slow = asyncio.create_task(here.ask("/slow"))
        await until(lambda: here.tells("weir_exchanges_in_flight 1.0"))
        here.supervisor.drain()
        here.supervisor.drain()
        assert await asyncio.wait_for(here.task, PATIENCE_S) == 1
        with pytest.raises((http.client.HTTPException, OSError)):
            await slow


async def test_a_worker_that_dies_while_draining_is_not_replaced(home: Path) -> None:
    """The other one's request still finishes."""
    async with running(plan(home, workers=2)) as here:
        slow = asyncio.create_task(here.ask("/slow"))
        await until(lambda: here.tells("weir_exchanges_in_flight 1.0"))
        busy = here.supervisor.status().workers
        here.supervisor.drain()
        await until(lambda: here.supervisor.status().draining)
        for worker in busy:
            os.kill(worker.pid, signal.SIGKILL)
        await asyncio.wait_for(here.task, PATIENCE_S)
        assert not here.log("worker died")
        slow.cancel()


async def test_a_taken_address_is_one_clear_error(home: Path) -> None:
    """It names the address and the process that has it, and leaves status 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AssertionError, match=f"address already in use: {address} by process {os.getpid()} "):
            async with running(plan(home, listen=(address,))):
                pass


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"listen": ("0.0.0.0:0",)}, "keys: required"),
        ({"admin": "0.0.0.0:0"}, "must be on loopback"),
        ({"listen": ("nonsense",)}, "not an address"),
        ({"listen": ("192.0.2.1:0",), "keys_required": True}, "doesn't have the address"),
    ],
)
async def test_what_must_not_start_does_not(home: Path, changed: dict[str, Any], reason: str) -> None:
    """An open public port, a public admin port, an impossible address: status 1 and a reason."""
    with pytest.raises(AssertionError, match=reason):
        async with running(plan(home, **changed)):
            pass


async def test_an_impossible_home_ends_the_start() -> None:
    """The home directory is named."""
    with pytest.raises(AssertionError, match="can't make the home directory /proc/nowhere"):
        async with running(plan(Path("/proc/nowhere"))):
            pass


async def test_damaged_keys_end_the_start(home: Path) -> None:
    """At the start nobody knows the keys of before, so a damaged file is an error."""
    home.mkdir()
    (home / "keys.json").write_text("{")
    with pytest.raises(AssertionError, match="not a key file"):
        async with running(plan(home)):
            pass


async def test_a_container_makes_its_first_key_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed once, stored hashed, known to the workers; the next start makes none."""
    public = plan(home, keys_required=True, listen=("0.0.0.0:0",))
    async with running(public, container=True) as here:
        printed = capsys.readouterr().out
        secret = printed.split()[-1]
        (record,) = KeyStore(home).list()
        assert record.sha256 == digest(secret)
        assert secret not in (home / "keys.json").read_text()
        assert secret not in here.logged.getvalue()
        assert (await here.get("127.0.0.1:" + here.supervisor.status().listen[0].split(":")[1], "/"))[1]["keys"] == [
            record.id
        ]
    async with running(public, container=True):
        assert "key" not in capsys.readouterr().out
        assert len(KeyStore(home).list()) == 1


async def test_outside_a_container_no_key_is_made(home: Path) -> None:
    """It starts, refuses everybody, and says how to make a key."""
    async with running(plan(home, keys_required=True)) as here:
        assert "weir keys create" in here.log("keys are required and there is none")[0]["hint"]
        assert KeyStore(home).list() == []


async def test_it_says_where_it_runs_and_stops_saying_so(home: Path) -> None:
    """`running.json` names the addresses as bound while it serves."""
    async with running(plan(home)) as here:
        status = here.supervisor.status()
        assert running_in(home) == Running(os.getpid(), status.listen, status.ops, status.admin)
    assert running_in(home) is None


# -- in a process of its own: signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(home: Path, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end with status 0, and no process stays."""
    process, _ = await _serve(home)
    workers = await _pids(home)
    process.send_signal(number)
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    for pid in workers:
        await until(lambda pid=pid: not _lives(pid))


async def test_sighup_reloads(home: Path) -> None:
    """The log says that it reloaded, and why."""
    process, _ = await _serve(home)
    process.send_signal(signal.SIGHUP)
    assert (await _logged(process, "reloaded"))["why"] == "SIGHUP"
    process.terminate()
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0


async def test_workers_outlive_a_killed_supervisor(home: Path) -> None:
    """After kill -9 of the supervisor its workers still answer, each of them."""
    process, now = await _serve(home)
    workers = await _pids(home)
    try:
        process.kill()
        await process.wait()
        assert await _answers(now.listen[0]) in workers
        os.kill(workers[0], signal.SIGKILL)
        assert await _answers(now.listen[0]) == workers[1]
    finally:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert running_in(home) is None


async def _serve(home: Path) -> tuple[Process, Running]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.supervisor.serve_fake", str(home)),
        stdout=PIPE,
        preexec_fn=at_our_end(signal.SIGTERM),
    )
    await _logged(process, "ready")
    now = running_in(home)
    assert now is not None
    return process, now


async def _logged(process: Process, event: str) -> dict[str, Any]:
    assert process.stdout is not None
    async for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(f"it ended without {event!r}")


async def _pids(home: Path) -> list[int]:
    status = await asyncio.to_thread(AdminClient(home).status)
    return [worker.pid for worker in status.workers]


async def _answers(address: str) -> int:
    def ask() -> int:
        connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
        connection.request("GET", "/")
        pid: int = json.loads(connection.getresponse().read())["pid"]
        connection.close()
        return pid

    return await asyncio.to_thread(ask)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def _is_accepted(here: Any, connection: http.client.HTTPConnection) -> bool:
    """A connection that was answered once belongs to a worker."""

    def ask() -> bool:
        connection.request("GET", "/")
        connection.getresponse().read()
        return True

    return await asyncio.to_thread(ask)


async def _refuses(address: str) -> bool:
    host, port = address.split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
