"""The state process under the supervisor: started, replaced, taken over; and a killed worker's holds, end to end."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy import journal
from proxy.logs import Log
from proxy.state.process import serving
from proxy.state.protocol import Granted, Hold, Part, Scope, StateLost, Store
from proxy.supervisor.state import StateError, StateKeeper
from tests.supervisor.conftest import plan, running, until
from tests.supervisor.test_real_workers import Client, Serve, Upstream, cards, serve, upstream

__all__ = ["cards", "serve", "upstream"]  # fixtures

URL = "sqlite:///state.db"
SCOPE = Scope("usd:x", 100)


def quiet(level: str, event: str, **fields: object) -> None:
    """Nobody reads it."""


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[StateKeeper]:
    made = StateKeeper(URL, tmp_path, Log("json", "debug", stream=io.StringIO()))
    yield made
    await made.stop()


async def answered(store: Store) -> bool:
    """Whether it answers now."""
    try:
        return await store.ping() > 0
    except StateLost:
        return False


async def test_a_killed_state_process_is_replaced(keeper: StateKeeper) -> None:
    """And the next one knows what the last one was told."""
    await keeper.start()
    store = keeper.place.open(10.0)
    assert isinstance(await store.reserve(Hold("h", "o", 0, (Part(SCOPE, 5),))), Granted)
    first = keeper.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: keeper.pid not in (None, first))
    await until(lambda: answered(store))
    assert [hold.id for hold in await store.standing()] == ["h"]
    assert keeper.restarts == 1
    await store.aclose()
    await keeper.stop()
    assert keeper.pid is None


async def test_a_state_that_can_t_be_opened_fails_the_start(tmp_path: Path) -> None:
    """The reason is told, and nothing is left running."""
    (tmp_path / "state.db").write_bytes(b"broken" * 1000)
    keeper = StateKeeper(URL, tmp_path, Log("json", "debug", stream=io.StringIO()))
    with pytest.raises(StateError, match="not a database"):
        await keeper.start()
    assert keeper.pid is None


async def test_one_that_outlived_its_supervisor_is_used_and_then_replaced(tmp_path: Path, keeper: StateKeeper) -> None:
    """Workers that still settle there keep it alive; nobody is cut off from it."""
    async with serving(URL, tmp_path, Path(keeper.place.socket), quiet):
        await keeper.start()
        store = keeper.place.open(10.0)
        assert await answered(store)
        assert keeper.pid is None
    await until(lambda: answered(store))
    assert keeper.pid is not None
    await store.aclose()


async def test_a_state_elsewhere_needs_no_process(tmp_path: Path) -> None:
    """A server of the fleet's has its own keepers."""
    keeper = StateKeeper("redis://127.0.0.1:1", tmp_path, Log("json", "debug", stream=io.StringIO()))
    await keeper.start()
    assert keeper.pid is None and keeper.place.socket == ""


async def test_workers_are_told_where_the_state_is(home: Path) -> None:
    """With an owner of their own for each life; the state process ends with the supervisor."""
    async with running(plan(home, state=URL, workers=2)) as here:
        told = [await here.ask("/told") for _ in range(8)]
        owners = {one["state"]["owner"] for one in told}
        assert {one["state"]["socket"] for one in told} == {str(home / "state.sock")}
        assert {owner.split("/")[1] for owner in owners} <= {"0", "1"}
        os.kill(here.supervisor.status().workers[0].pid, signal.SIGKILL)
        await until(lambda: here.supervisor.status().restarts == 1 and here.supervisor.ready())
        assert (home / "state.sock").exists()
    assert not (home / "state.sock").exists()
    with sqlite3.connect(home / "state.db") as database:
        assert database.execute("select count(*) from holds").fetchone() == (0,)


async def test_a_killed_worker_s_budget_is_settled_by_its_journal(
    serve: Serve, upstream: tuple[Upstream, str], home: Path, tmp_path: Path
) -> None:
    """A request in flight dies with its worker: its hold is closed, its estimate counted and told to the ledger."""
    policies = tmp_path / "policies.yaml"
    budget: dict[str, Any] = {"use": "budget", "limit": "1000 requests/day", "max_output": 100}
    policies.write_text(json.dumps({"version": 1, "policies": [budget]}))
    async with serve(policies=str(policies)) as here:
        client = Client(here.address)
        assert await client.chat() == 200
        slow = asyncio.create_task(client.chat("slow"))
        await until(lambda: upstream[0].waiting == 1)
        os.kill(here.supervisor.status().workers[0].pid, signal.SIGKILL)
        await asyncio.gather(slow, return_exceptions=True)
        await until(lambda: bool(here.log("holds of a dead worker closed")))
        (told,) = here.log("holds of a dead worker closed")
        assert told["estimated"] == 1
        store = StateKeeper(URL, home, Log("json", "debug", stream=io.StringIO())).place.open(10.0)
        dead = [one for one in await store.standing() if one.owner == told["owner"]]
        assert dead == []
        scope = await _only_scope(home)
        assert (await store.levels([scope]))[0].spent == 2, "the settled one and the one in flight"
        assert (await store.levels([scope]))[0].held == 0
        await store.aclose()
        client.close()
    records = [record for path in journal.segments(home) for record in journal.read(path)]
    (stead,) = [record for record in records if record.get("error") == "worker_died"]
    sent = {record["exchange"] for record in records if record["event"] == "reserved" and record["model"] == "slow"}
    assert {stead["exchange"]} == sent


async def _only_scope(home: Path) -> Scope:
    keys: list[str] = []

    def found() -> bool:  # what was answered comes into the file a quarter of a second later
        with sqlite3.connect(home / "state.db") as database:
            keys[:] = [key for (key,) in database.execute("select key from counters").fetchall()]
        return len(keys) == 1

    await until(found)
    return Scope(keys[0], 1000)
