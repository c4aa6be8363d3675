"""The purse: leases far from the limit, turns near it, and nothing lost or overspent whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.state.lease import Ticket
from proxy.state.memory import MemoryStore
from proxy.state.protocol import Granted, Hold, Level, Part, Refused, Scope, StateLost
from proxy.state.purse import FEW, IDLE_S, NEAR_S, TTL_S, Purse, share
from tests.patience import PATIENCE_S

TEAM = Scope("usd:team=search:2026-11", 1_000_000)
ORG = Scope("usd:org=acme:2026-11", 5_000_000)
SOFT = Scope("tok:team=search:2026-11-23", 10_000, hard=False)


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s

    def ns(self) -> int:
        return round((1_700_000_000 + self.s) * 1e9)


class Losing(MemoryStore):
    """A Store that can be lost: before its calls have an effect, or after."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.ns)
        self.lost = ""
        self.calls: list[str] = []

    async def _maybe(self, name: str, call: Any) -> Any:
        self.calls.append(name)
        if self.lost == "before":
            call.close()
            raise StateLost
        answer = await call
        await asyncio.sleep(0)  # an answer takes a while, in which others go on
        if self.lost == "after":
            raise StateLost
        return answer

    async def reserve(self, hold: Hold, wait_s: float = 0.0) -> Granted | Refused:
        answer: Granted | Refused = await self._maybe("reserve", super().reserve(hold, wait_s))
        return answer

    async def adjust(self, *args: Any, **named: Any) -> tuple[Level, ...]:
        levels: tuple[Level, ...] = await self._maybe("adjust", super().adjust(*args, **named))
        return levels

    async def close(self, *args: Any, **named: Any) -> bool:
        closed: bool = await self._maybe("close", super().close(*args, **named))
        return closed


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Losing:
    return Losing(clock)


def purse(store: MemoryStore, clock: Clock, name: str = "host/0/1", workers: int = 2) -> Purse:
    """One whose rounds the test makes."""
    return Purse(store, name, workers, clock=clock, now_ns=clock.ns, automatic=False)


def parts(amount: int, *scopes: Scope) -> tuple[Part, ...]:
    return tuple(Part(scope, amount) for scope in scopes or (TEAM,))


async def settled() -> None:
    """Lets what was started in the background run to its end; a memory Store never waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def drawn(one: Purse, asked: Sequence[Part]) -> None:
    """One reservation made and settled at nothing, after which there is a lease."""
    ticket = await one.reserve(asked)
    assert isinstance(ticket, Ticket)
    ticket.release()
    await settled()


@pytest.mark.parametrize(
    ("limit", "spent", "held", "workers", "expected"),
    [(100, 0, 0, 1, 50), (100, 20, 40, 4, 5), (100, 100, 0, 1, 0), (100, 200, 0, 1, 0), (7, 0, 0, 4, 0)],
)
def test_share(limit: int, spent: int, held: int, workers: int, expected: int) -> None:
    """With every worker drawing its share, half of what remains is still there."""
    assert share(limit, Level(spent, held), workers) == expected


async def test_far_from_the_limit(store: Losing, clock: Clock) -> None:
    """The first reservation asks the Store; those that follow come out of a lease, without any call."""
    one = purse(store, clock)
    assert one.try_reserve(parts(10)) is None
    await drawn(one, parts(10))
    before = len(store.calls)
    tickets = [one.try_reserve(parts(10)) for _ in range(1000)]
    assert all(tickets)
    assert len(store.calls) == before
    (lease,) = await store.standing()
    assert lease.parts[0].amount == share(TEAM.limit, Level(0, 10), 2)
    assert {ticket.hold for ticket in tickets if ticket} == {lease.id}


async def test_near_the_limit(store: Losing, clock: Clock) -> None:
    """Where a share would carry only a few, every reservation is a hold of its own."""
    one = purse(store, clock)
    amount = TEAM.limit // (4 * FEW) + 1
    await drawn(one, parts(amount))
    assert one.try_reserve(parts(amount)) is None
    tickets = [await one.reserve(parts(amount)) for _ in range(3)]
    assert len(await store.standing()) == 3
    assert len({ticket.hold for ticket in tickets if isinstance(ticket, Ticket)}) == 3


async def test_near_the_limit_one_call_is_waited_for(store: Losing, clock: Clock) -> None:
    """Each reservation costs one call of the Store, and its end one that nobody waits for: no round besides."""
    one = purse(store, clock)
    amount = TEAM.limit // (4 * FEW) + 1
    await drawn(one, parts(amount))
    for _ in range(5):
        store.calls.clear()
        ticket = await one.reserve(parts(amount), wait_s=10.0)
        assert store.calls == ["reserve"]
        assert isinstance(ticket, Ticket)
        ticket.settle([1])
        assert store.calls == ["reserve"], "who settles waits for nothing"
        await settled()
        assert store.calls == ["reserve", "close"]


async def test_what_is_spent_is_told(store: Losing, clock: Clock) -> None:
    """Absolute amounts, all scopes of a lease in one call; a lease that rests is given back whole."""
    one = purse(store, clock)
    await drawn(one, parts(10, TEAM, ORG, SOFT))
    ticket = one.try_reserve(parts(10, TEAM, ORG, SOFT))
    assert ticket is not None
    ticket.settle([7, 7, 900])
    ticket.settle([7, 7, 900])
    assert one.spent(TEAM) == 7
    await one.tell()
    team, org, soft = await store.levels([TEAM, ORG, SOFT])
    assert (team.spent, org.spent, soft.spent, soft.held) == (7, 7, 900, 0)
    assert team.held == share(TEAM.limit, Level(0, 10), 2) - 7
    clock.s += IDLE_S
    await one.tell()
    assert await store.standing() == []
    assert [level.spent for level in await store.levels([TEAM, ORG, SOFT])] == [7, 7, 900]
    assert one.spent(TEAM) == 7


async def test_a_lease_is_renewed(store: Losing, clock: Clock) -> None:
    """As long as anything is reserved the hold's end moves on; after it nothing is taken."""
    one = purse(store, clock)
    await drawn(one, parts(10))
    held = one.try_reserve(parts(10))
    assert held is not None
    (first,) = await store.standing()
    clock.s += TTL_S / 4
    await one.tell()
    (second,) = await store.standing()
    assert second.until_ns - first.until_ns == round(TTL_S / 4 * 1e9)
    store.lost = "before"
    clock.s += TTL_S
    assert one.try_reserve(parts(10)) is None


async def test_somebody_waits(store: Losing, clock: Clock) -> None:
    """A worker that waits is let in by the next word of the one that has a lease to spare."""
    rich, poor = purse(store, clock, "host/0/1", 1), purse(store, clock, "host/1/1", 1)
    await drawn(rich, parts(10))
    rich.try_reserve(parts(10))
    waiting = asyncio.create_task(poor.reserve(parts(900_000), 5.0))
    await settled()
    assert not waiting.done()
    clock.s += 0.2
    await rich.tell()
    assert isinstance(await waiting, Ticket)
    (level,) = await store.levels([TEAM])
    assert (level.held, level.waiting) == (900_010, False)
    assert rich.try_reserve(parts(10)) is None  # its turn comes at the Store


async def test_own_leases_go_first(store: Losing, clock: Clock) -> None:
    """A worker doesn't wait for what its own leases, of other scopes, hold of the one that is full."""
    one = purse(store, clock, workers=1)
    other = Scope("usd:team=ads:2026-11", 10**9)
    await drawn(one, parts(10, other, ORG))
    (lease,) = await store.standing()
    assert lease.parts[1].amount > 2_000_000
    ticket = await one.reserve(parts(4_900_000, ORG), 0.0)
    assert isinstance(ticket, Ticket)


async def test_refusals(store: Losing, clock: Clock) -> None:
    """What is spent refuses at once; what is held refuses after the wait; the levels say how it stands."""
    one = purse(store, clock)
    ticket = await one.reserve(parts(900_000))
    assert isinstance(ticket, Ticket)
    held = await one.reserve(parts(200_000), 0.01)
    assert isinstance(held, Refused)
    assert (held.why, held.levels[0].spent, held.levels[0].held) == ("held", 0, 900_000)
    ticket.settle([900_000])
    await settled()
    spent = await one.reserve(parts(200_000), 5.0)
    assert isinstance(spent, Refused)
    assert (spent.why, spent.levels) == ("spent", (Level(900_000, 0),))
    assert isinstance(await one.reserve(parts(100_000)), Ticket)


async def test_in_turn(store: Losing, clock: Clock) -> None:
    """Whoever waits longest is let in first, whatever the size."""
    one = purse(store, clock)
    first = await one.reserve(parts(TEAM.limit))
    assert isinstance(first, Ticket)
    order: list[int] = []

    async def wait(number: int, amount: int) -> None:
        ticket = await one.reserve(parts(amount), 5.0)
        assert isinstance(ticket, Ticket)
        order.append(number)
        ticket.settle([1])

    waiting = []
    for number, amount in enumerate((900_000, 10, 500_000, 10)):
        waiting.append(asyncio.create_task(wait(number, amount)))
        await settled()
    first.settle([1])
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3]


async def test_cancelled(store: Losing, clock: Clock) -> None:
    """Who gives up waiting holds nothing, also if the Store had just let it in."""
    one = purse(store, clock)
    first = await one.reserve(parts(TEAM.limit))
    assert isinstance(first, Ticket)
    for at_the_last_moment in (False, True):
        waiting = asyncio.create_task(one.reserve(parts(TEAM.limit), 5.0))
        await settled()
        if at_the_last_moment:
            first.release()
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
        await settled()
    assert await store.levels([TEAM]) == (Level(0, 0),)
    assert await store.standing() == []


@pytest.mark.parametrize("how", ["before", "after"])
async def test_the_store_is_lost(store: Losing, clock: Clock, how: str) -> None:
    """What is left of a lease may be used; then hard scopes raise, and nothing stays behind when the Store is back."""
    one = purse(store, clock)
    await drawn(one, parts(1000))
    store.lost = how
    taken = 0
    while (ticket := one.try_reserve(parts(1000))) is not None:
        ticket.settle([1000])
        taken += 1
    assert taken == share(TEAM.limit, Level(0, 1000), 2) // 1000
    with pytest.raises(StateLost):
        await one.reserve(parts(1000), 5.0)
    await settled()
    await one.tell()
    store.lost = ""
    clock.s += max(IDLE_S, NEAR_S)
    await one.tell()
    await one.tell()
    assert await store.levels([TEAM]) == (Level(taken * 1000, 0),)
    assert await store.standing() == []


async def test_many_give_up_at_once(store: Losing, clock: Clock) -> None:
    """Holds that nobody wants are closed by whoever comes first, also while a round is made."""
    one = purse(store, clock)
    first = await one.reserve(parts(TEAM.limit))
    assert isinstance(first, Ticket)
    waiting = [asyncio.create_task(one.reserve(parts(TEAM.limit), 5.0)) for _ in range(20)]
    await settled()
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await asyncio.gather(one.tell(), one.tell())
    await settled()
    first.release()
    await settled()
    assert (await store.standing(), one._ghosts, one._tasks) == ([], {}, set())


async def test_soft_scopes_never_wait(store: Losing, clock: Clock) -> None:
    """Without a Store they are admitted, beyond the limit too, and counted when it is back."""
    one = purse(store, clock)
    store.lost = "before"
    for _ in range(100):
        ticket = one.try_reserve(parts(500, SOFT))
        assert ticket is not None
        ticket.settle([400])
        await one.tell()
    assert one.spent(SOFT) == 40_000
    store.lost = ""
    clock.s += IDLE_S
    await one.tell()
    assert await store.levels([SOFT]) == (Level(40_000, 0),)
    assert one.spent(SOFT) == 40_000


async def test_a_limit_that_is_lowered(store: Losing, clock: Clock) -> None:
    """A lease drawn under another limit isn't used under the new one."""
    one = purse(store, clock)
    await drawn(one, parts(10))
    lower = Scope(TEAM.key, 1000)
    assert one.try_reserve(parts(10, lower)) is None
    clock.s += IDLE_S
    await one.tell()
    assert isinstance(await one.reserve(parts(900, lower)), Ticket)
    assert isinstance(await one.reserve(parts(200, lower)), Refused)


async def test_more_than_was_reserved(store: Losing, clock: Clock) -> None:
    """A truth above what was reserved is told as it is."""
    one = purse(store, clock)
    ticket = await one.reserve(parts(TEAM.limit // 2))
    assert isinstance(ticket, Ticket)
    ticket.settle([TEAM.limit + 5])
    await settled()
    assert [level.spent for level in await store.levels([TEAM])] == [TEAM.limit + 5]
    assert isinstance(await one.reserve(parts(1)), Refused)


async def test_closing(store: Losing, clock: Clock) -> None:
    """At its end a purse tells what was spent, and keeps holding what isn't settled."""
    one = purse(store, clock)
    await drawn(one, parts(10))
    done, open_ = one.try_reserve(parts(10)), one.try_reserve(parts(20))
    assert done is not None
    assert open_ is not None
    done.settle([5])
    await one.aclose()
    (level,) = await store.levels([TEAM])
    assert (level.spent, level.held) == (5, 20)


async def test_on_its_own(clock: Clock) -> None:
    """Without anybody calling `tell`, the Store is told, and the lease given back when it rests."""
    store = MemoryStore()
    one = Purse(store, "host/0/1")
    await drawn(one, parts(10))
    ticket = one.try_reserve(parts(10))
    assert ticket is not None
    ticket.settle([3])
    async with asyncio.timeout(PATIENCE_S):
        while await store.standing():
            await asyncio.sleep(0.05)
    assert await store.levels([TEAM]) == (Level(3, 0),)
    await one.aclose()
