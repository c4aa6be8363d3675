"""A rolling restart, over fake workers and over real ones with clients."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

from tests.patience import PATIENCE_S
from tests.supervisor.conftest import Running, plan, running, until
from tests.supervisor.test_real_workers import Client, Serve, cards, serve, upstream

__all__ = ["cards", "serve", "upstream"]


def pids(here: Running) -> list[int]:
    return [worker.pid for worker in here.supervisor.status().workers]


def instead(here: Running, **configuration: object) -> None:
    """What successors are told, from now on."""
    fleet = here.supervisor._fleet
    assert fleet is not None
    fleet.orders = replace(fleet.orders, configuration=json.dumps({"hash": "h1", **configuration}))


async def over(here: Running) -> None:
    await until(lambda: not here.supervisor.status().restarting)


async def test_every_worker_is_replaced_and_none_died(home: Path) -> None:
    """New processes in all slots, their counters are kept, nothing counts as a crash."""
    async with running(plan(home, workers=2)) as here:
        before = pids(here)
        await here.ask()
        await until(lambda: here.tells('status="200"} 1.0'))  # it isn't asked again before it ends
        assert here.supervisor.restart()
        assert not here.supervisor.restart()  # one at a time
        await over(here)
        status = here.supervisor.status()
        assert len(pids(here)) == 2
        assert not set(before) & set(pids(here))
        assert (status.replaced, status.restart_problem, status.restarts) == (2, "", 0)
        assert not here.log("worker died")
        await here.ask()
        await until(lambda: here.tells('status="200"} 2.0'))


async def test_what_runs_on_the_old_worker_is_finished(home: Path) -> None:
    """The slot has its successor while the old one still answers."""
    async with running(plan(home)) as here:
        (old,) = pids(here)
        slow = asyncio.create_task(here.ask("/slow"))
        await until(lambda: here.tells("weir_exchanges_in_flight 1.0"))
        kept = http.client.HTTPConnection(here.address)
        await asyncio.to_thread(kept.request, "GET", "/")
        assert json.loads(kept.getresponse().read())["pid"] == old
        here.supervisor.restart()
        await until(lambda: pids(here) != [old])
        assert here.supervisor.ready()
        assert (await here.ask())["pid"] == pids(here)[0] != old
        assert not slow.done()
        await asyncio.to_thread(kept.request, "GET", "/go")
        assert (await slow)["pid"] == old
        await over(here)


async def test_what_outlasts_the_drain_is_cut_and_logged(home: Path) -> None:
    """The restart goes on, and says so."""
    async with running(plan(home, drain_s=0.2)) as here:
        slow = asyncio.create_task(here.ask("/slow"))
        await until(lambda: here.tells("weir_exchanges_in_flight 1.0"))
        here.supervisor.restart()
        await over(here)
        assert len(here.log("exchanges outlasted the drain and were cut")) == 1
        assert isinstance((await asyncio.gather(slow, return_exceptions=True))[0], Exception)


async def test_a_successor_that_dies_leaves_all_as_it_was(home: Path) -> None:
    """The first failure ends the restart; the workers that are there go on, and a later restart may do better."""
    async with running(plan(home, workers=2)) as here:
        before = pids(here)
        instead(here, die=9)
        here.supervisor.restart()
        await over(here)
        assert pids(here) == before
        assert "ended before it was ready" in here.supervisor.status().restart_problem
        assert (await here.ask())["pid"] in before
        instead(here)
        here.supervisor.restart()
        await over(here)
        assert not set(before) & set(pids(here))
        assert here.supervisor.status().restart_problem == ""


async def test_a_successor_that_refuses_says_why(home: Path) -> None:
    """Its reason is the restart's."""
    async with running(plan(home)) as here:
        before = pids(here)
        instead(here, reject="no such policy")
        here.supervisor.restart()
        await over(here)
        assert (pids(here), here.supervisor.status().restart_problem) == (before, "no such policy")


async def test_a_replaced_slot_still_replaces_the_dead(home: Path) -> None:
    """After a restart the successor is watched like the first."""
    async with running(plan(home)) as here:
        here.supervisor.restart()
        await over(here)
        (new,) = pids(here)
        os.kill(new, signal.SIGKILL)
        await until(lambda: here.supervisor.status().restarts == 1 and here.supervisor.ready())
        assert pids(here) != [new]


async def test_requests_on_kept_connections_survive_restarts(serve: Serve) -> None:
    """Real workers: clients that keep their connections and know nothing of restarts see no failed request."""
    async with serve(workers=2, timeouts={"drain_idle_s": "300ms"}) as here:
        stop, done = False, 0

        async def client() -> None:
            nonlocal done
            one = Client(here.address)
            while not stop:
                assert await one.chat() == 200  # http.client opens a new connection after `connection: close`
                done += 1
            one.close()

        clients = [asyncio.create_task(client()) for _ in range(4)]
        for n in (1, 2, 3):
            seen = done
            await until(lambda seen=seen: done > seen + 10)
            assert here.supervisor.restart()
            await until(lambda: not here.supervisor.status().restarting)
            assert here.supervisor.status().replaced == 2 * n
        stop = True
        await asyncio.gather(*clients)


async def test_an_idle_connection_is_kept_for_a_moment(serve: Serve) -> None:
    """While a worker drains, a request on a connection that was idle is answered, and told that it is the last."""
    async with serve(timeouts={"drain_idle_s": "20s"}) as here:
        idle = Client(here.address)
        assert await idle.chat() == 200
        before = pids(here)
        here.supervisor.restart()
        await until(lambda: pids(here) != before)
        answer = await asyncio.to_thread(idle._chat, "m")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await over(here)
        idle.close()


async def test_a_drain_ends_a_restart(home: Path) -> None:
    """SIGTERM in the middle: status 0, nobody left."""
    async with running(plan(home, workers=2)) as here:
        before = pids(here)
        here.supervisor.restart()
        await until(lambda: pids(here) != before)
        here.supervisor.drain()
        assert await asyncio.wait_for(here.task, PATIENCE_S) == 0
        for pid in before:
            assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
