"""The pool of connections to one origin: which is used next, how many there are, who waits, and who gets what when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.client import Progress, UpstreamConnection, WireError
from proxy.wire.connect import Origin
from proxy.wire.pool import Pool
from proxy.wire.ticker import Ticker
from tests.patience import PATIENCE_S
from tests.wire.sansio import Loop, Received, Transport

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Connector:
    """Makes connections without sockets; `gate` holds them up, `fail` fails the next ones."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail = 0
        self.dead = False
        self.made: list[UpstreamConnection] = []

    async def connect(self, origin: Origin, factory: Callable[[], Any], timeout_s: float) -> Any:
        await self.gate.wait()
        if self.fail:
            self.fail -= 1
            raise WireError("refused", Progress.CONNECTING)
        connection = factory()
        transport = Transport()
        transport.protocol = connection
        connection.connection_made(transport)
        if self.dead:
            connection.connection_lost(None)
        self.made.append(connection)
        return connection


def make(connector: Connector, most: int = 2, connect_s: float = 5.0, idle_s: float = 4.0) -> Pool:
    ticker = Ticker(asyncio.get_running_loop(), 3600)
    origin = Origin("http", "upstream", 80)
    return Pool(origin, connector, ticker, max_connections=most, connect_s=connect_s, idle_s=idle_s)  # type: ignore[arg-type]


def use(connection: UpstreamConnection, answer: bytes = ANSWER) -> Received:
    """One exchange on a connection, which goes back by itself."""
    received = Received()
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", received)
    connection.data_received(answer)
    return received


def die(connection: UpstreamConnection) -> None:
    connection.connection_lost(None)


async def step(times: int = 3) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_the_connection_used_last_is_used_next() -> None:
    """LIFO: what a burst opened and nobody needs falls idle at the other end."""
    pool = make(Connector(), most=3)
    connections = [await pool.acquire() for _ in range(3)]
    for connection in connections:
        use(connection)
    assert pool.take() is connections[2]
    assert pool.take() is connections[1]
    use(connections[2])
    assert pool.take() is connections[2]


async def test_idle_connections_are_closed_before_their_upstream_would() -> None:
    """The oldest go first; those used since stay; the count follows. Checked often enough for 4 s to end before 5."""
    loop, connector = asyncio.get_running_loop(), Connector()
    pool = make(connector, most=3)
    first, second = await pool.acquire(), await pool.acquire()
    use(first)
    use(second)
    first.idle_since -= 4.1
    pool.expire(loop.time())
    assert first._transport.end == "close"  # type: ignore[attr-defined]
    assert pool.deadline - loop.time() <= 0.25
    die(first)
    assert (pool.open, pool.take()) == (1, second)


async def test_at_the_limit_requests_wait_in_order() -> None:
    """First come, first served, with the connections that come back."""
    pool = make(Connector(), most=1)
    connection = await pool.acquire()
    order: list[int] = []

    async def wanting(number: int) -> None:
        mine = await pool.acquire()
        order.append(number)
        use(mine)

    tasks = [asyncio.create_task(wanting(number)) for number in range(5)]
    await step()
    use(connection)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert pool.open == 1


async def test_waiting_ends_at_the_connect_time_limit() -> None:
    """With an error of its own kind, and nothing was sent."""
    pool = make(Connector(), most=1, connect_s=0.02)
    await pool.acquire()
    with pytest.raises(WireError) as failure:
        await pool.acquire()
    assert (failure.value.kind, failure.value.progress) == ("pool", Progress.CONNECTING)


async def test_a_place_that_becomes_free_goes_to_the_first_who_waits() -> None:
    """A connection that dies makes room for one new one, not for two."""
    connector = Connector()
    pool = make(connector, most=1)
    connection = await pool.acquire()
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(2)]
    await step()
    die(connection)
    late = asyncio.create_task(pool.acquire())
    await step(6)
    assert len(connector.made) == 2
    assert waiting[0].done()
    use(waiting[0].result())
    await step()
    assert waiting[1].done()
    use(waiting[1].result())
    assert (await late) is waiting[1].result()


async def test_a_failed_connect_lets_the_next_one_try() -> None:
    """Those who wait don't wait for a place that nobody holds."""
    connector = Connector()
    pool = make(connector, most=1)
    connector.gate.clear()
    connector.fail = 1
    first, second = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
    await step()
    connector.gate.set()
    with pytest.raises(WireError):
        await first
    assert (await second) is connector.made[0]


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("handed", ["connection", "place"])
async def test_what_is_handed_to_one_who_just_gave_up_isnt_lost(how: str, handed: str) -> None:
    """Cancelled in the very moment that its turn came: the connection or the place goes to the next."""
    connector = Connector()
    pool = make(connector, most=1, connect_s=0.05 if how == "timeout" else 5.0)
    connection = await pool.acquire()
    first = asyncio.create_task(pool.acquire())
    await step()
    time.sleep(0.1)  # the loop stands still: the time limit passes and the turn comes before `first` is woken
    second = asyncio.create_task(pool.acquire())
    if handed == "connection":
        use(connection)
    else:
        die(connection)
    if how == "cancel":
        first.cancel()
    with pytest.raises((asyncio.CancelledError, WireError)):
        await first
    got = await asyncio.wait_for(second, PATIENCE_S)
    assert got.used == (1 if handed == "connection" else 0)
    assert pool.open == 1
    assert pool._connecting == 0


async def test_a_connection_that_dies_unborn_is_a_failure() -> None:
    """Accepted and closed at once: an error now, instead of an exchange that nobody ever ends."""
    connector = Connector()
    connector.dead = True
    pool = make(connector)
    with pytest.raises(WireError) as failure:
        await pool.acquire()
    assert (failure.value.kind, failure.value.progress, pool.open) == ("reset", Progress.CONNECTING, 0)


async def test_a_connection_that_dies_on_its_way_to_a_waiter_is_not_used() -> None:
    """Handed over and lost in the same moment: the waiter gets another."""
    connector = Connector()
    pool = make(connector, most=1)
    connection = await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await step()
    use(connection)
    die(connection)
    got = await asyncio.wait_for(waiting, PATIENCE_S)
    assert got is not connection
    assert not got.lost


async def test_a_fresh_connection_is_fresh_also_at_the_limit() -> None:
    """The oldest idle one makes room, because the request must not go out on a kept one again."""
    connector = Connector()
    pool = make(connector, most=2)
    kept = [await pool.acquire(), await pool.acquire()]
    for connection in kept:
        use(connection)
    wanting = asyncio.create_task(pool.acquire(fresh=True))
    await step()
    assert kept[0]._transport.end == "close"  # type: ignore[attr-defined]
    die(kept[0])
    assert (await wanting).used == 0
    assert pool.open == 2


async def test_a_lost_idle_connection_is_never_given() -> None:
    """Whatever the upstream closes while idle is forgotten."""
    pool = make(Connector())
    connection = await pool.acquire()
    use(connection)
    die(connection)
    assert pool.take() is None
    assert pool.open == 0


async def test_bytes_on_an_idle_connection_end_it() -> None:
    """An upstream that speaks unasked (a late answer, say) can't answer the next request with it."""
    pool = make(Connector())
    connection = await pool.acquire()
    use(connection)
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    await step()
    assert pool.take() is None


async def test_a_closed_pool_keeps_nothing() -> None:
    """Idle connections close now, others when they come back."""
    pool = make(Connector())
    idle, busy = await pool.acquire(), await pool.acquire()
    use(idle)
    pool.close()
    assert idle._transport.end == "close"  # type: ignore[attr-defined]
    use(busy)
    assert busy._transport.end == "close"  # type: ignore[attr-defined]


async def test_warming_opens_what_is_missing() -> None:
    """And leaves failures to the requests."""
    connector = Connector()
    pool = make(connector, most=5)
    await pool.warm(2)
    await pool.warm(3)
    assert (pool.open, len(connector.made)) == (3, 3)
    connector.fail = 1
    await pool.warm(5)
    assert pool.open == 3


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "fresh", "use", "die", "cancel", "fail", "expire", "step"]), st.integers(0, 9)
    ),
    max_size=60,
)


@given(actions=ACTIONS, most=st.integers(1, 3))
@settings(max_examples=300)
def test_the_pool_keeps_its_promises(actions: list[tuple[str, int]], most: int) -> None:
    """In whatever order: never more than the limit, no connection to two, and nobody waits for nothing."""
    with Loop() as loop:
        loop._runner.run(_play(actions, most))


async def _play(actions: list[tuple[str, int]], most: int) -> None:
    connector = Connector()
    pool = make(connector, most=most)
    held: list[UpstreamConnection] = []
    tasks: list[asyncio.Task[UpstreamConnection]] = []

    def collect() -> None:
        for task in [task for task in tasks if task.done()]:
            tasks.remove(task)
            if not task.cancelled() and task.exception() is None:
                connection = task.result()
                assert connection not in held
                held.append(connection)

    for action, number in actions:
        if action in ("acquire", "fresh"):
            tasks.append(asyncio.create_task(pool.acquire(action == "fresh")))
        elif action == "use" and held:
            connection = held.pop(number % len(held))
            if not connection.lost:
                use(connection)
        elif action == "die" and connector.made:
            connection = connector.made[number % len(connector.made)]
            if not connection.lost:
                die(connection)
        elif action == "cancel" and tasks:
            tasks[number % len(tasks)].cancel()
        elif action == "fail":
            connector.fail = 1
        elif action == "expire":
            pool.expire(asyncio.get_running_loop().time() + 10)
            for connection in connector.made:
                if connection._transport.end and not connection.lost:  # type: ignore[attr-defined]
                    die(connection)
        else:
            await step(1)
        collect()
        alive = [connection for connection in connector.made if not connection.lost]
        assert len(alive) <= most
        assert pool.open + pool._connecting <= most
    connector.fail = 0
    for _ in range(200):
        await step(2)
        for connection in connector.made:  # a fresh request had an idle one closed
            if connection._transport.end and not connection.lost:  # type: ignore[attr-defined]
                die(connection)
        collect()
        for connection in held:
            if not connection.lost:
                use(connection)
        held.clear()
        if not tasks:
            break
    assert not tasks, "somebody waits although all connections came back"
    assert pool._connecting == 0
    assert pool.open == len([connection for connection in connector.made if not connection.lost])
