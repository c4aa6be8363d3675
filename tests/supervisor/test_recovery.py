"""What dead workers held: closed by what their journals say, once, and whatever was dispatched is counted."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy import journal
from proxy.journal import Estimate, Journal, Reserved, Settled
from proxy.logs import Log
from proxy.state.memory import MemoryStore
from proxy.state.protocol import Granted, Hold, Level, Part, Scope, StateLost
from proxy.supervisor.recovery import LOOK_S, RETRY_S, Owner, Recovery
from tests.patience import PATIENCE_S

USD, TOK = Scope("usd:budget:team=a:2026-11", 10_000), Scope("tok:budget:team=a:2026-11", 10_000)
REQ, CON = Scope("req:budget:team=a:2026-11", 100), Scope("con:limit:key=k", 10)
HOST = "0123"


class Clock:
    """Unix nanoseconds that stand still unless told."""

    def __init__(self) -> None:
        self.now_ns = time.time_ns()

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


class Worker:
    """A worker's journal and owner, without the worker."""

    def __init__(self, home: Path, owner: str, number: int = 0) -> None:
        self.owner = owner
        self.number = number
        self.journal = Journal(home / "journal", number)

    def send(
        self, exchange: str, *holds: str, estimate: int | None = 500, attempt: int = 1, tokens: int | None = None
    ) -> None:
        """An attempt is dispatched."""
        who: dict[str, Any] = {"tenant": "t", "key": None, "org": None, "team": None, "project": None, "tags": {}}
        self.journal.append(
            Reserved(
                at=time.time_ns(),
                exchange=exchange,
                worker=self.number,
                attempt=attempt,
                endpoint="chat.completions",
                kind="client",
                asked="m",
                model="m",
                deployment="d",
                upstream="u",
                estimate=Estimate(30, 20, estimate, tokens=tokens),
                holds=holds,
                **who,
            )
        )
        self.journal.flush()

    def settle(self, exchange: str, nanodollars: int | None, attempt: int = 1, **changes: Any) -> None:
        """An attempt is over."""
        tokens = {"input_tokens": 7, "output_tokens": 5, "cached_tokens": 3}
        told = Settled(
            at=time.time_ns(),
            exchange=exchange,
            worker=self.number,
            attempt=attempt,
            outcome="complete",
            status=200,
            served="m",
            tier=None,
            usage={"total_tokens": 12},
            tokens=tokens,
            nanodollars=nanodollars,
            known="observed",
            cards="",
            ttft_ns=1,
            total_ns=2,
            upstream_request_id=None,
            error=None,
        )
        self.journal.append(msgspec.structs.replace(told, **changes))
        self.journal.flush()


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    made = MemoryStore()
    yield made
    await made.aclose()


@pytest.fixture
def recovery(tmp_path: Path, store: MemoryStore) -> Recovery:
    return Recovery(tmp_path, HOST, store, Log("json", "debug", stream=io.StringIO()), Clock())


async def reserve(store: MemoryStore, id: str, owner: str, *parts: tuple[Scope, int]) -> None:
    asked = Hold(id, owner, 0, tuple(Part(scope, amount) for scope, amount in parts))
    assert isinstance(await store.reserve(asked), Granted)


def estimated(home: Path) -> list[dict[str, Any]]:
    """What was written in dead workers' stead."""
    return [record for path in journal.segments(home) if "-s0" in path.name for record in journal.read(path)]


async def test_a_hold_has_spent_what_its_attempts_cost(tmp_path: Path, store: MemoryStore, recovery: Recovery) -> None:
    """Settled ones as settled, sent ones as estimated, each in the unit of the scope; the rest is free again."""
    worker = Worker(tmp_path, recovery.begin(0))
    await reserve(store, "lease", worker.owner, (USD, 5000), (TOK, 1000), (REQ, 50), (CON, 1))
    worker.send("one", "lease")
    worker.settle("one", 120)
    worker.send("two", "other", "lease")
    worker.send("three", "another", estimate=9999)
    worker.journal.close()
    recovery.died(worker.owner)
    assert await recovery.look() is None
    assert await store.levels([USD, TOK, REQ, CON]) == (Level(620, 0), Level(12 + 50, 0), Level(2, 0), Level(0, 0))
    assert await store.standing() == []


async def test_what_nobody_observed_counts_for_what_admitted_it(
    tmp_path: Path, store: MemoryStore, recovery: Recovery
) -> None:
    """As it would have, had its worker lived: a cut answer for the worst case, one that wasn't billed for nothing."""
    worker = Worker(tmp_path, recovery.begin(0))
    await reserve(store, "lease", worker.owner, (USD, 9000), (TOK, 1000), (REQ, 50))
    for name in ("cut", "dear", "refused"):
        worker.send(name, "lease", estimate=500)
    worker.settle("cut", 40, known="estimated", outcome="aborted", usage=None)
    worker.settle("dear", 700, known="estimated", tokens={"input_tokens": 30, "output_tokens": 90})
    worker.settle("refused", 0, usage=None, outcome="failed")
    worker.journal.close()
    recovery.died(worker.owner)
    assert await recovery.look() is None
    assert await store.levels([USD, TOK, REQ]) == (Level(500 + 700, 0), Level(50 + 120, 0), Level(2, 0))


async def test_tokens_count_for_what_was_reserved(tmp_path: Path, store: MemoryStore, recovery: Recovery) -> None:
    """Under a hard budget of tokens: sent and cut ones for their bound, not for the estimate of their input."""
    worker = Worker(tmp_path, recovery.begin(0))
    await reserve(store, "lease", worker.owner, (TOK, 5000))
    for name in ("lost", "cut", "whole"):
        worker.send(name, "lease", tokens=900)
    worker.settle("cut", 40, known="estimated", outcome="aborted", usage=None)
    worker.settle("whole", 60)
    worker.journal.close()
    recovery.died(worker.owner)
    assert await recovery.look() is None
    assert await store.levels([TOK]) == (Level(900 + 900 + 12, 0),)


async def test_an_estimate_is_written_down_once(tmp_path: Path, store: MemoryStore, recovery: Recovery) -> None:
    """As `settled` for the ledger, before the hold is closed; a second look, or a second supervisor, adds nothing."""
    worker = Worker(tmp_path, recovery.begin(3), 3)
    await reserve(store, "h1", worker.owner, (USD, 5000))
    worker.send("one", "h1", attempt=2)
    worker.journal.close()
    recovery.died(worker.owner)
    close, lost = store.close, True

    async def closing(*call: Any) -> bool:
        if lost:
            raise StateLost
        return await close(*call)

    store.close = closing  # type: ignore[method-assign]  # the state goes away between the two steps
    assert await recovery.look() == RETRY_S
    lost = False
    assert await recovery.look() is None
    (record,) = estimated(tmp_path)
    told = ("event", "exchange", "attempt", "worker", "nanodollars", "known", "outcome", "error")
    assert [record[name] for name in told] == ["settled", "one", 2, 3, 500, "estimated", "aborted", "worker_died"]
    assert await store.levels([USD]) == (Level(500, 0),)
    found = journal.find(tmp_path, "one")
    assert [record["event"] for record in found] == ["reserved", "settled"], "`weir why` finds both"


async def test_what_nobody_dispatched_is_free(tmp_path: Path, store: MemoryStore, recovery: Recovery) -> None:
    """A hold that no attempt names was granted and not used; what had been told already stays."""
    worker = Worker(tmp_path, recovery.begin(0))
    await reserve(store, "unused", worker.owner, (USD, 5000))
    await reserve(store, "told", worker.owner, (USD, 1000))
    await store.adjust("told", [400], [600], 0)
    worker.journal.close()
    recovery.died(worker.owner)
    await recovery.look()
    assert await store.levels([USD]) == (Level(600, 0),)
    assert estimated(tmp_path) == []


async def test_the_living_and_strangers_keep_what_they_hold(
    tmp_path: Path, store: MemoryStore, recovery: Recovery
) -> None:
    """Nobody settles for a worker that runs, or of another host."""
    living, dead = recovery.begin(0), recovery.begin(1)
    for owner in (living, dead, "other-host/0/1", ""):
        await reserve(store, f"of {owner}", owner, (USD, 100))
    recovery.died(dead)
    await recovery.look()
    assert sorted(hold.owner for hold in await store.standing()) == sorted(["", living, "other-host/0/1"])


async def test_workers_of_an_earlier_supervisor_are_waited_for(
    tmp_path: Path, store: MemoryStore, recovery: Recovery
) -> None:
    """One that still writes to its journal keeps its holds; once it has gone they are closed."""
    old_ns = recovery._began_ns - 60 * 10**9
    worker = Worker(tmp_path, str(Owner(HOST, 0, old_ns)))
    segment = journal.segments(tmp_path)[0]
    segment.rename(segment.with_name(f"{old_ns}-w0{journal.SUFFIX}"))
    await reserve(store, "h", worker.owner, (USD, 5000))
    worker.send("one", "h")
    assert await recovery.look() == LOOK_S
    assert await store.levels([USD]) == (Level(0, 5000),)
    worker.journal.close()
    assert await recovery.look() is None
    assert await store.levels([USD]) == (Level(500, 0),)


async def test_a_torn_record_hides_nothing_before_it(tmp_path: Path, store: MemoryStore, recovery: Recovery) -> None:
    """What a crash left half written is as if never sent: it was flushed before anything is sent."""
    worker = Worker(tmp_path, recovery.begin(0))
    await reserve(store, "h", worker.owner, (USD, 5000))
    worker.send("one", "h")
    worker.journal.close()
    with journal.segments(tmp_path)[0].open("ab") as file:
        file.write(b"\x40\0\0\0half")
    recovery.died(worker.owner)
    await recovery.look()
    assert await store.levels([USD]) == (Level(500, 0),)


async def test_following_acts_as_soon_as_one_dies(tmp_path: Path, store: MemoryStore, recovery: Recovery) -> None:
    """A death wakes it; nobody has to wait for the next round."""
    owner = recovery.begin(0)
    await reserve(store, "h", owner, (USD, 5000))
    following = asyncio.create_task(recovery.follow())
    await asyncio.sleep(0)
    recovery.died(owner)
    async with asyncio.timeout(PATIENCE_S):
        while await store.standing():
            await asyncio.sleep(0.001)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert recovery.closed == 1


def test_owners_are_read_back() -> None:
    """Their form is what the supervisor, and nobody else, gives."""
    owner = Owner(HOST, 3, 10**18)
    assert Owner.of(str(owner)) == owner
    assert [Owner.of(name) for name in ("", "a/b", "a/b/c", "h/1/zz")] == [None] * 4
