"""Workers are started, replaced, told the same things and ended: real processes, a fake data plane."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.supervisor.fleet import LONGEST_BACKOFF_S, backoff_s
from tests.supervisor.conftest import plan, running, until


def test_backoff_doubles_up_to_a_bound() -> None:
    """The first early death is replaced after 0.1 s, later ones after twice as long, never longer than the bound."""
    assert [backoff_s(n) for n in range(4)] == [0.0, 0.1, 0.2, 0.4]
    assert backoff_s(1000) == LONGEST_BACKOFF_S


async def test_all_workers_serve_the_same_listener(home: Path) -> None:
    """Two workers, one port: requests are answered, and both report ready with the same configuration."""
    async with running(plan(home, workers=2)) as here:
        status = here.supervisor.status()
        assert [worker.ready for worker in status.workers] == [True, True]
        assert {worker.config_hash for worker in status.workers} == {"h1"}
        assert (await here.ask())["pid"] in {worker.pid for worker in status.workers}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_killed_worker_is_replaced(home: Path, number: signal.Signals) -> None:
    """Another process takes its slot, and the log names the signal."""
    async with running(plan(home)) as here:
        pid = here.supervisor.status().workers[0].pid
        os.kill(pid, number)
        await until(lambda: bool(here.log("worker died")) and here.supervisor.ready())
        assert (await here.ask())["pid"] != pid
        assert here.log("worker died")[0]["signal"] == number.name
        assert here.supervisor.status().restarts == 1


async def test_a_connection_made_while_no_worker_lives_is_answered(home: Path) -> None:
    """The listener outlives the worker: who connects in between waits, and is not refused."""
    async with running(plan(home)) as here:
        os.kill(here.supervisor.status().workers[0].pid, signal.SIGKILL)
        await until(lambda: bool(here.log("worker died")))
        answers = await asyncio.gather(*(here.ask() for _ in range(20)))
        assert len({answer["pid"] for answer in answers}) == 1


async def test_counters_of_dead_workers_stay(home: Path) -> None:
    """Totals never go back when a worker is replaced; what it had open is gone."""
    async with running(plan(home)) as here:
        await asyncio.gather(*(here.ask() for _ in range(3)))
        with pytest.raises((http.client.HTTPException, OSError)):
            await here.ask("/die")
        await until(lambda: here.supervisor.status().restarts == 1 and here.supervisor.ready())
        await here.ask()
        await until(lambda: here.tells('endpoint="chat.completions"', 'status="200"} 5.0'))
        assert await here.tells("weir_exchanges_in_flight 0.0", "weir_worker_restarts_total 1.0")


async def test_a_worker_that_does_not_answer_counts_as_it_last_did(home: Path) -> None:
    """A stopped process doesn't hold up `/metrics`: its last snapshot is used."""
    async with running(plan(home)) as here:
        await here.ask()
        await until(lambda: here.tells("chat.completions"))
        pid = here.supervisor.status().workers[0].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            assert await here.tells("chat.completions")
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_a_worker_that_dies_at_its_start_ends_the_start(home: Path) -> None:
    """Three early deaths before anything was ever ready are an error with status 1, not an endless loop."""
    with pytest.raises(AssertionError, match="ended 3 times before it was ready"):
        async with running(plan(home, configuration={"die": 7})):
            pass


async def test_a_worker_that_refuses_ends_the_start(home: Path) -> None:
    """The worker's reason is the reason."""
    with pytest.raises(AssertionError, match="no such policy"):
        async with running(plan(home, configuration={"reject": "no such policy"})):
            pass


async def test_logs_of_workers_are_written_without_keys(home: Path) -> None:
    """The supervisor writes what workers say, names the worker, and masks what looks like a key."""
    async with running(plan(home)) as here:
        await until(lambda: bool(here.log("hello")))
        assert here.log("hello")[0]["worker"] == 0
        assert "wk-secret" not in here.logged.getvalue()


async def test_new_workers_get_the_newest_orders(home: Path) -> None:
    """A replacement knows the bypass, the keys and the configuration of now, not those of the start."""
    second = replace(plan(home, configuration={"hash": "h2"}))
    async with running(plan(home), lambda: second) as here:
        here.supervisor.bypass(True)
        assert (await here.supervisor.reload("test")).ok
        os.kill(here.supervisor.status().workers[0].pid, signal.SIGKILL)
        await until(lambda: here.supervisor.status().restarts == 1 and here.supervisor.ready())
        answer = await here.ask()
        assert (answer["hash"], answer["bypass"], answer["cards"]) == ("h2", True, str(home / "cards-test.bin"))
