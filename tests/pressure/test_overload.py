"""The limit, the gate and the classes: decisions alone, without sockets and with a clock of our own."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.overload import Callers, Overload, Priorities
from proxy.errors import WeirError
from proxy.exchange import Identity
from proxy.pressure import gauge
from proxy.pressure.gauge import memory_bytes
from proxy.pressure.overload import FLOOR, FORGOTTEN_AFTER, STANDING_S, UNLIMITED, Gate, Limit, Seen
from proxy.pressure.priority import Ranks

HIGH, NORMAL, LOW = 0, 1, 2


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def seen(pressure: float, most: int = 100, busy: float = 1.0, refused: bool = True, over_s: float = 0.3) -> Seen:
    return Seen(pressure, busy, most, refused, over_s)


def gate(clock: Clock | None = None, **options: object) -> Gate:
    made = Gate(clock or Clock())
    made.adopt(Overload.model_validate(options), high=True)
    return made


# --- the limit


def test_there_is_no_limit_without_pressure() -> None:
    """However many run and however busy the CPU is: only what takes too long limits."""
    limit = Limit()
    for _ in range(100):
        limit.look(seen(0.99, most=10_000, refused=False))
    assert limit.now == UNLIMITED


def test_one_long_turn_is_no_overload() -> None:
    """A collection of garbage or a reload must not refuse anybody; the second look in a row counts."""
    limit = Limit()
    limit.look(seen(5))
    limit.look(seen(0.1))
    limit.look(seen(5))
    assert limit.now == UNLIMITED
    limit.look(seen(1.25))
    assert limit.now == pytest.approx(80)


def test_some_long_turns_are_no_overload() -> None:
    """What a neighbour takes for a quarter of a second is caught up with; what lasts longer is overload."""
    limit = Limit()
    for _ in range(3):
        limit.look(seen(5, over_s=0.125))
    assert limit.now == UNLIMITED
    limit.look(seen(5, over_s=0.125))
    assert limit.now == 25


def test_a_cut_waits_for_the_one_before_to_show() -> None:
    """Streams that run go on: cutting further while they do would leave the worker idle afterwards."""
    limit = Limit()
    for _ in range(10):
        limit.look(seen(2, most=1000))
    assert limit.now == 500
    limit.look(seen(100, most=480))
    assert limit.now == 240  # by what lasts: the lesser of the last two


def test_it_never_falls_below_the_floor() -> None:
    """Some must run, or nothing would show that it got better."""
    limit = Limit()
    for _ in range(100):
        limit.look(seen(50, most=0))
    assert limit.now == FLOOR


def test_it_grows_by_the_cpu_that_is_left() -> None:
    """Half idle: as fast as it may; full: by how short turns are, by one at least; and not at all close to the edge."""
    limit = Limit()
    limit.look(seen(2)), limit.look(seen(2))
    assert limit.now == 50
    limit.look(seen(0.1, busy=0.5))
    assert limit.now == pytest.approx(75)
    limit.look(seen(0.1, busy=1.0))
    assert limit.now == pytest.approx(78.15)
    limit.look(seen(0.39, busy=1.0))
    assert limit.now == pytest.approx(79.15)
    limit.look(seen(0.8, busy=0.5))
    assert limit.now == pytest.approx(79.15)


def test_it_goes_where_nobody_is_refused() -> None:
    """Some seconds without a refusal: the overload is over."""
    limit = Limit()
    limit.look(seen(2)), limit.look(seen(2))
    for _ in range(FORGOTTEN_AFTER - 1):
        limit.look(seen(0.2, refused=False))
    assert limit.now == 50
    limit.look(seen(0.2, refused=False))
    assert limit.now == UNLIMITED


# --- the gate


def test_an_open_gate_lets_everybody_in() -> None:
    """Nothing configured, nothing wrong: the server doesn't even ask."""
    door = gate()
    assert not door.pressed
    assert all(door.enters(LOW) for _ in range(10_000))
    assert not door.refuses(LOW)


def test_what_nobody_waits_for_gives_way_first() -> None:
    """It counts who runs beside the one that asks, leaves the room that the lowest class leaves, and never queues."""
    door = gate()
    assert door.spares()
    door = gate(exchanges=10, queue=1)
    found = []
    for _ in range(9):
        assert door.enters(HIGH)
        found.append(door.spares())
    assert found == [True] * 7 + [False] * 2
    assert gate(exchanges=1).spares()


def test_lower_classes_leave_room_for_the_higher() -> None:
    """Of ten places, low may take seven, normal nine."""
    door = gate(exchanges=10, queue=0)
    assert [door.enters(LOW) for _ in range(8)] == [True] * 7 + [False]
    assert [door.enters(NORMAL) for _ in range(3)] == [True, True, False]
    assert [door.enters(HIGH) for _ in range(2)] == [True, False]


def test_the_lower_never_stand_in_the_way_of_the_higher() -> None:
    """After a cut more run than may; a high one still enters, since none of its class runs."""
    door = gate()
    for _ in range(100):
        door.enters(NORMAL)
    for _ in range(2):
        door.look(10.0, 1.0, door.running, 0.3)
    assert door.limit.now == 25
    assert not door.enters(NORMAL)
    assert sum(door.enters(HIGH) for _ in range(40)) == 25
    assert door.running == 125


def test_without_a_high_class_nothing_is_kept_free_for_it() -> None:
    """`exchanges: 10` means ten."""
    door = Gate(Clock())
    door.adopt(Overload(exchanges=10), high=False)
    assert sum(door.enters(NORMAL) for _ in range(20)) == 10


async def test_who_waits_enters_when_one_leaves() -> None:
    """In order, the high class first."""
    door = gate(exchanges=1)
    assert door.enters(HIGH)
    order: list[str] = []

    async def come(name: str, rank: int) -> None:
        await door.wait(rank)
        order.append(name)

    tasks = [
        asyncio.create_task(come(*one)) for one in (("low", LOW), ("first", NORMAL), ("second", NORMAL), ("high", HIGH))
    ]
    await asyncio.sleep(0)
    assert door.waiting == 4
    for rank in (HIGH, HIGH, NORMAL, NORMAL):
        door.leave(rank)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == ["high", "first", "second", "low"]
    assert (door.running, door.waiting, door.shed) == (1, 0, [0, 0, 0])


async def test_waiting_ends_at_its_deadline() -> None:
    """503 with Retry-After, counted by class."""
    clock = Clock()
    door = gate(clock, exchanges=1, queue_s=1.0, lag_s=2.0)
    door.enters(HIGH)
    waiting = asyncio.create_task(door.wait(NORMAL))
    await asyncio.sleep(0)
    clock.now += 0.9
    door.tick()
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.now += 1.2
    door.tick()
    with pytest.raises(WeirError) as raised:
        await waiting
    assert (raised.value.status, raised.value.code) == (503, "overloaded")
    assert dict(raised.value.headers)[b"retry-after"] in (b"1", b"2", b"3")
    assert (door.waiting, door.shed) == (0, [0, 1, 0])


async def test_a_standing_queue_loses_patience_and_serves_the_newest() -> None:
    """After a while that it wasn't empty, one waits no longer than two turns of the loop; the high class still does."""
    clock = Clock()
    door = gate(clock, exchanges=1, queue_s=5.0, lag_s=0.05)
    door.enters(HIGH)
    first = asyncio.create_task(door.wait(NORMAL))
    await asyncio.sleep(0)
    clock.now += STANDING_S + 0.05
    order: list[str] = []

    async def come(name: str) -> None:
        await door.wait(NORMAL)
        order.append(name)

    older, newer = asyncio.create_task(come("older")), asyncio.create_task(come("newer"))
    high = asyncio.create_task(door.wait(HIGH))
    await asyncio.sleep(0)
    door.tick(turn_s=STANDING_S)  # within two such turns nobody may have left
    assert door.waiting == 4
    door.tick()
    with pytest.raises(WeirError):
        await first
    door.leave(HIGH)
    await high
    door.leave(HIGH)
    await newer
    assert order == ["newer"]
    door.leave(NORMAL)
    await older
    door.leave(NORMAL)
    assert door.running == 0


def test_those_who_are_read_in_one_turn_share_what_there_is() -> None:
    """Two may run and one wait, so the fourth is refused at once, before any of the first three has begun."""
    door = gate(exchanges=2, queue=1)
    assert [door.refuses(HIGH) for _ in range(5)] == [False, False, False, True, True]
    door.came()  # and all of them left meanwhile
    assert not door.refuses(HIGH)


async def test_a_full_queue_gives_way_to_a_higher_class() -> None:
    """The oldest of the lowest class leaves; one of the same class is refused at once."""
    door = gate(exchanges=1, queue=1)
    door.enters(HIGH)
    low = asyncio.create_task(door.wait(LOW))
    await asyncio.sleep(0)
    assert door.refuses(LOW)
    assert not door.refuses(NORMAL)
    normal = asyncio.create_task(door.wait(NORMAL))
    with pytest.raises(WeirError):
        await low
    assert door.waiting == 1
    door.leave(HIGH)
    await normal


async def test_a_client_that_leaves_gives_its_place_back() -> None:
    """While it waits, and at the very moment when it was let in."""
    door = gate(exchanges=1)
    door.enters(HIGH)
    waiting = asyncio.create_task(door.wait(NORMAL))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (door.waiting, door.running) == (0, 1)
    waiting = asyncio.create_task(door.wait(NORMAL))
    await asyncio.sleep(0)
    door.leave(HIGH)  # lets it in
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (door.waiting, door.running) == (0, 0)


STEPS = st.sampled_from(["enter", "leave", "tick", "look", "cut", "time"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 2)), max_size=80))
def test_the_gate_loses_nobody(steps: list[tuple[str, int]]) -> None:
    """In any order of things: as many run as were let in and haven't left, and who waits is let in or refused once."""

    async def play() -> None:
        clock = Clock()
        door = gate(clock, exchanges=3, queue=4, queue_s=1.0)
        inside, waiting, refused = list[int](), dict[asyncio.Task[None], int](), 0
        for step, rank in steps:
            match step:
                case "enter" if door.enters(rank):
                    inside.append(rank)
                case "enter" if door.refuses(rank):
                    refused += 1
                case "enter":
                    waiting[asyncio.create_task(door.wait(rank))] = rank
                case "leave" if inside:
                    door.leave(inside.pop(rank % len(inside)))
                case "tick":
                    door.tick()
                case "look" | "cut":
                    door.look(3.0 if step == "cut" else 0.1, 0.5, door.running, 0.3)
                case "time":
                    clock.now += 0.4
            for _ in range(3):
                await asyncio.sleep(0)
            for task in [task for task in waiting if task.done()]:
                came = waiting.pop(task)
                if task.exception() is None:
                    inside.append(came)
                else:
                    refused += 1
            assert door.running == len(inside) <= 3
            assert door.waiting == len(waiting) <= 4
            assert sum(door.shed) == refused
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert door.waiting == 0

    asyncio.run(play())


# --- classes


def test_classes_follow_from_the_key() -> None:
    """By id, project, team or the key's own tags; high before low; anybody else is between."""
    priorities = Priorities(
        high=Callers.model_validate({"team": ["search", "ads*"], "tag": "tier=gold"}), low=Callers(key=("key-batch*",))
    )
    ranks = Ranks(priorities)
    assert ranks.of(Identity("t", team="search")) == HIGH
    assert ranks.of(Identity("t", team="ads-eu", key="key-batch-1")) == HIGH
    assert ranks.of(Identity("t", tags={"tier": "gold"})) == HIGH
    assert ranks.of(Identity("t", key="key-batch-1")) == LOW
    assert ranks.of(Identity("t", team="sea")) == NORMAL


@pytest.mark.parametrize(
    ("honoured", "wished", "expected"),
    [("lower", "low", LOW), ("lower", "high", NORMAL), ("any", "high", HIGH), ("none", "low", NORMAL)],
)
def test_clients_choose_as_far_as_they_may(honoured: str, wished: str, expected: int) -> None:
    """Nobody raises itself unless the policy file says so."""
    assert Ranks(Priorities()).of(Identity("t"), wished, honoured) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("kernel", "at_least_s"), [("1000 7000000000 3\n", 7.0), (None, 0.0)])
async def test_cpu_that_others_have_is_taken(
    kernel: str | None, at_least_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this thread waited for counts as used, where the kernel tells; where it doesn't, its own time does."""
    if kernel is not None:
        (tmp_path / "schedstat").write_text(kernel)
    monkeypatch.setattr(gauge, "_SCHEDSTAT", tmp_path / "schedstat")
    watch = gauge.Watch(asyncio.get_running_loop(), gate(), lambda: 0.0)
    own_s = time.thread_time()
    assert own_s + at_least_s <= watch._taken_s() < own_s + at_least_s + 5
    watch.close()


def test_memory_is_the_containers(tmp_path: Path) -> None:
    """A limit of the control group counts, `max` and a missing file don't."""
    (tmp_path / "none").write_text("max\n")
    (tmp_path / "some").write_text(f"{512 * 2**20}\n")
    physical = memory_bytes(())
    assert memory_bytes((str(tmp_path / "absent"), str(tmp_path / "none"))) == physical
    assert memory_bytes((str(tmp_path / "none"), str(tmp_path / "some"))) == 512 * 2**20
