"""Redis frozen, killed, read-only or full: every call ends, nothing is counted twice or forgotten, and it goes on
without a restart."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from proxy.simulator.ports import free_port
from proxy.state.protocol import Granted, Level, Rate, StateLost
from proxy.state.redis import RedisStore
from tests.patience import PATIENCE_S
from tests.state import servers
from tests.state.asking import HOUR_NS, eventually, granted, hold, numbers, queued, scope
from tests.state.servers import Server

BOUND_S = 0.25
PATIENT_S = 1.0  # where a loss is none that the test is about
TEAM = scope("team:search")

CALLS: dict[str, Callable[[RedisStore], Awaitable[object]]] = {
    "reserve": lambda store: store.reserve(hold((TEAM, 1))),
    "reserve, waiting": lambda store: store.reserve(hold((TEAM, 1)), 0.2),
    "adjust": lambda store: store.adjust("x", [0], [0], 0, [TEAM]),
    "close": lambda store: store.close("x", [0], [TEAM]),
    "levels": lambda store: store.levels([TEAM]),
    "standing": lambda store: store.standing(),
    "take": lambda store: store.take([Rate("r", 5, HOUR_NS)]),
    "give": lambda store: store.give([Rate("r", 5, HOUR_NS)]),
    "get": lambda store: store.get("k"),
    "put": lambda store: store.put("k", b"v", 60),
    "delete": lambda store: store.delete(["k"]),
    "delete_tagged": lambda store: store.delete_tagged("t"),
    "keys": lambda store: store.keys(""),
    "claim": lambda store: store.claim("d", "me", 60),
    "resign": lambda store: store.resign("d", "me"),
    "publish": lambda store: store.publish("t", b"m"),
    "follow": lambda store: anext(store.follow("t")),  # type: ignore[arg-type, return-value]
    "follow from the oldest": lambda store: anext(store.follow("t", "")),  # type: ignore[arg-type, return-value]
    "ping": lambda store: store.ping(),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own. What it has answered outlives it: it is written before the answer, flushed later."""
    try:
        program = servers.redis_program()
    except servers.Unavailable as error:
        pytest.skip(str(error))
    with servers.running(program, tmp_path, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "") as server:
        yield server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    """A Store with the usual bound."""
    store = RedisStore(server.url, bound_s=BOUND_S)
    yield store
    await store.aclose()


@pytest.fixture
async def patient(server: Server) -> AsyncIterator[RedisStore]:
    """A Store with a bound that slow machines keep."""
    store = RedisStore(server.url, bound_s=PATIENT_S)
    yield store
    await store.aclose()


async def back(store: RedisStore) -> None:
    """Waits until it answers again."""

    async def answers() -> bool:
        try:
            return await store.ping() > 0
        except StateLost:
            return False

    await eventually(answers)


async def lost(call: Awaitable[object]) -> None:
    """It ends, and says that the Store is lost. Without a bound this would hang."""
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(StateLost):
            await call


async def test_frozen(server: Server, store: RedisStore) -> None:
    """Connections stand and nothing answers: each call ends, by itself and all at once; then all goes on."""
    await back(store)
    for again in range(2):
        server.freeze()
        try:
            await asyncio.gather(*[lost(call(store)) for call in CALLS.values()])
            await lost(CALLS["reserve"](store))
        finally:
            server.thaw()
        await back(store)
        await granted(store, (scope(f"after {again}"), 1))


BUSY = "local t = redis.call('TIME') repeat local n = redis.call('TIME') until (n[1]-t[1])*1e6 + n[2]-t[2] > "


async def test_slow(patient: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server answered others and then nobody for too long, a call is lost alone; the connection stays."""
    monkeypatch.setattr("proxy.state.redis_line.AT_ONCE", 1)  # so the second goes when the first is answered
    await back(patient)
    link = patient._money._link
    first = asyncio.ensure_future(patient._money.call("PING"))
    await asyncio.sleep(0)
    await lost(patient._money.call("EVAL", f"{BUSY} {1.5 * PATIENT_S * 1e6} return 2", 0))
    assert await first == b"PONG"
    await back(patient)
    assert patient._money._link is link


async def test_busy(patient: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that works off more than fits into the bound loses nobody, as long as it answers."""
    monkeypatch.setattr("proxy.state.redis_line.AT_ONCE", 8)  # it answers what it has read in one go
    await back(patient)
    calls = [patient._money.call("EVAL", f"{BUSY} 1e3 return {number}", 0) for number in range(1300)]
    assert await asyncio.gather(*calls) == list(range(1300))


async def test_a_thousand_at_once(server: Server) -> None:
    """Four workers' thousand clients at the start, for whom there is room by forties: each has its turn."""
    stores, all_of_it = [RedisStore(server.url, bound_s=PATIENT_S) for _ in range(4)], scope("usd:all", 40)

    async def one(store: RedisStore) -> None:
        id = await granted(store, (all_of_it, 1), wait_s=PATIENCE_S)
        await store.close(id, [0], [all_of_it])

    await asyncio.gather(*[one(store) for _ in range(250) for store in stores])
    assert await numbers(stores[0], all_of_it) == [(0, 0)]
    stats = await stores[0]._money.call("INFO", "commandstats")
    assert b"cmdstat_eval:" not in stats, "scripts go over the wire once for each connection"
    for store in stores:
        await store.aclose()


async def test_busy_loop(server: Server, store: RedisStore) -> None:
    """What arrives while the worker itself is busy for longer than the bound is an answer."""
    await back(store)
    server.freeze()
    call = asyncio.ensure_future(store.ping())
    for _ in range(10):  # until it is on its way
        await asyncio.sleep(0)
    thawing = threading.Timer(BOUND_S / 2, server.thaw)
    thawing.start()
    time.sleep(2 * BOUND_S)
    thawing.join()
    assert await call > 0


@pytest.mark.parametrize("name", CALLS)
async def test_killed(server: Server, store: RedisStore, name: str) -> None:
    """Nobody listens any more: each call ends."""
    await back(store)
    server.kill()
    await lost(CALLS[name](store))


async def test_nobody_there_from_the_start() -> None:
    """The first call says so, and the Store closes."""
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0", bound_s=BOUND_S)
    await lost(store.ping())
    await lost(store.close("x", [1], [TEAM]))
    await store.aclose()
    await lost(store.ping())


async def test_killed_and_started_anew(server: Server, store: RedisStore) -> None:
    """What was answered is there; nothing else is needed to go on."""
    id = await granted(store, (TEAM, 60))
    await store.adjust(id, [40], [20], await store.ping() + HOUR_NS)
    server.kill()
    await lost(store.levels([TEAM]))
    server.start()
    await back(store)
    assert await numbers(store, TEAM) == [(20, 40)]
    assert await store.close(id, [30])


async def test_started_anew_with_nothing_kept(server: Server, store: RedisStore, tmp_path: Path) -> None:
    """The owner's word restores what was spent, once."""
    id = await granted(store, (TEAM, 60))
    await store.adjust(id, [40], [20], await store.ping() + HOUR_NS)
    await store._money.call("FLUSHALL")
    assert await store.adjust(id, [40], [25], await store.ping() + HOUR_NS, [TEAM]) == (Level(25, 0),)
    assert await store.close(id, [30], [TEAM])
    assert await numbers(store, TEAM) == [(30, 0)]


async def test_a_reservation_that_was_lost_holds_nothing(server: Server, store: RedisStore) -> None:
    """The frozen server does what it was told when it wakes; its caller has long gone, so that is taken back."""
    await back(store)
    server.freeze()
    asked = [hold((TEAM, 10)) for _ in range(5)]
    try:
        await asyncio.gather(*[lost(store.reserve(one)) for one in asked])
    finally:
        server.thaw()
    await back(store)

    async def paid() -> bool:
        return not store._owed

    await eventually(paid)
    assert await numbers(store, TEAM) == [(0, 0)]
    assert await store.standing() == []


async def test_a_reservation_that_was_lost_and_asked_again_stands(server: Server, store: RedisStore) -> None:
    """What is taken back is what nobody knows of, not what a second call was granted."""
    await back(store)
    asked = hold((TEAM, 10))
    server.freeze()
    try:
        await lost(store.reserve(asked))
    finally:
        server.thaw()
    await back(store)
    if isinstance(await store.reserve(asked), Granted):
        assert await numbers(store, TEAM) == [(0, 10)]


async def test_a_close_that_was_lost_counts_once(server: Server, store: RedisStore) -> None:
    """It is told again until it is heard, and changes nothing the second time."""
    ids = [await granted(store, (TEAM, 10)) for _ in range(5)]
    server.freeze()
    try:
        await asyncio.gather(*[lost(store.close(id, [7])) for id in ids])
    finally:
        server.thaw()
    await eventually(lambda: _is(store, (35, 0)))
    server.kill()
    await lost(store.close("later", [5], [TEAM]))
    server.start()
    await eventually(lambda: _is(store, (40, 0)))


async def _is(store: RedisStore, wanted: tuple[int, int]) -> bool:
    try:
        return await numbers(store, TEAM) == [wanted]
    except StateLost:
        return False


async def test_who_waits_is_told_of_the_loss(server: Server, store: RedisStore) -> None:
    """A wait doesn't outlast the Store, and its place is gone with it."""
    await granted(store, (TEAM, 80))
    waiting = await queued(store, hold((TEAM, 50)), 3600.0)
    server.freeze()
    try:
        await lost(waiting)
    finally:
        server.thaw()
    await back(store)
    await eventually(lambda: _nobody(store))
    await granted(store, (TEAM, 20))


async def _nobody(store: RedisStore) -> bool:
    return not (await store.levels([TEAM]))[0].waiting


async def test_the_feed_goes_on_where_it_was(server: Server, store: RedisStore) -> None:
    """A follower hears of the loss, follows again after its last position, and misses nothing."""
    first = await store.publish("t", b"1")
    following = store.follow("t", "")
    assert await anext(following) == (first, b"1")
    waiting = asyncio.get_running_loop().create_task(anext(following))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    server.kill()
    await lost(waiting)
    server.start()
    await back(store)
    await eventually(lambda: _told(store, b"2"))
    again = store.follow("t", first)
    position, message = await anext(again)
    assert (position > first, message) == (True, b"2")
    await again.aclose()  # type: ignore[attr-defined]


async def _told(store: RedisStore, message: bytes) -> bool:
    """Says it. A server that has just started may take longer than the bound, and have heard it all the same."""
    try:
        return bool(await store.publish("t", message))
    except StateLost:
        return False


@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    ],
    ids=["read-only", "full"],
)
async def test_a_server_that_takes_nothing(
    server: Server, store: RedisStore, break_it: tuple[str, ...], mend_it: tuple[str, ...]
) -> None:
    """A refusal to write is a loss: nothing is granted that isn't written."""
    await granted(store, (TEAM, 60))
    assert server.say(*break_it).startswith(b"+OK")
    await lost(store.reserve(hold((TEAM, 1))))
    assert server.say(*mend_it).startswith(b"+OK")
    await back(store)
    await granted(store, (TEAM, 40))
    assert await numbers(store, TEAM) == [(0, 100)]
