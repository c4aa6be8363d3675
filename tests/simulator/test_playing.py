"""The wheel and its players, on a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from proxy.simulator.playing import Act, Frame, Player, Wheel


class Clock:
    """As much of an event loop as the wheel needs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.armed = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        entry = (when, callback)
        self.timers.append(entry)
        self.armed += 1
        return type("Handle", (), {"cancel": lambda _: self.timers.remove(entry) if entry in self.timers else None})()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.timers.append((self.now, callback))

    def turn(self, until: float) -> None:
        while due := [entry for entry in self.timers if entry[0] <= until + 1e-9]:
            entry = min(due, key=lambda entry: entry[0])
            self.timers.remove(entry)
            self.now = max(self.now, entry[0])
            entry[1]()
        self.now = until


class Outlet:
    """Keeps what was written, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.paused = False
        self.told: list[tuple[float, bytes | Act | None]] = []
        self.write = self._note

    def _note(self, data: bytes) -> None:
        self.told.append((round(self.clock.now - 100, 4), data))

    def act(self, act: Act) -> None:
        self.told.append((round(self.clock.now - 100, 4), act))

    def finished(self) -> None:
        self.told.append((round(self.clock.now - 100, 4), None))


def played(*frames: Frame, single: bool = False) -> tuple[Clock, Outlet, Player]:
    clock = Clock()
    outlet = Outlet(clock)
    loop: Any = clock
    player = Player(Wheel(loop), outlet, iter(frames), single=single)
    player.advance()
    return clock, outlet, player


def test_frames_are_written_when_due() -> None:
    """Each frame at its time, then the end."""
    clock, outlet, player = played((0.0, b"a", 0), (0.01, b"b", 1), (0.02, b"c", 2))
    clock.turn(101)
    assert outlet.told == [(0.0, b"a"), (0.01, b"b"), (0.02, b"c"), (0.02, None)]
    assert (player.over, player.produced, player.written) == (True, 2, 3)


def test_a_late_wheel_does_not_stretch_the_answer() -> None:
    """What is overdue is written at once, what is not waits for its own time."""
    clock, outlet, _ = played((0.0, b"a", 0), (0.01, b"b", 1), (0.02, b"c", 2), (0.5, b"d", 3))
    clock.now = 100.3
    clock.turn(100.3)
    assert [what for _, what in outlet.told] == [b"a", b"b", b"c"]
    clock.turn(101)
    assert outlet.told[-1] == (0.5, None)


def test_a_slow_reader_holds_the_answer() -> None:
    """Nothing is written while the outlet is paused, and the rest afterwards, once."""
    clock, outlet, player = played((0.0, b"a", 0), (0.01, b"b", 1), (0.3, b"c", 2))
    outlet.paused = True
    clock.turn(100.1)
    assert len(outlet.told) == 1
    outlet.paused = False
    player.resume()
    player.resume()
    clock.turn(101)
    assert [what for _, what in outlet.told] == [b"a", b"b", b"c", None]


def test_an_act_ends_the_answer() -> None:
    """After RESET nothing is written, and the answer is not finished."""
    _, outlet, player = played((0.0, b"a", 1), (0.0, Act.RESET, 1), (0.0, b"b", 2))
    assert [what for _, what in outlet.told] == [b"a", Act.RESET]
    assert player.produced == 1


def test_single_frames_take_a_turn_each() -> None:
    """Frames that must not be joined are written in turns of their own."""
    clock, outlet, _ = played((0.0, b"a", 0), (0.0, b"b", 0), single=True)
    assert len(outlet.told) == 1
    clock.turn(100)
    assert [what for _, what in outlet.told] == [b"a", b"b", None]


def test_one_timer_for_all_of_a_millisecond() -> None:
    """A hundred players due together need one timer."""
    clock = Clock()
    loop: Any = clock
    wheel, outlet = Wheel(loop), Outlet(clock)

    def frames() -> Iterator[Frame]:
        return iter([(0.01, b"x", 1)])

    for _ in range(100):
        Player(wheel, outlet, frames()).advance()
    assert clock.armed == 1
    clock.turn(101)
    assert len(outlet.told) == 200


def test_an_earlier_wish_moves_the_timer() -> None:
    """A player due before all others is not late."""
    clock = Clock()
    loop: Any = clock
    wheel, outlet = Wheel(loop), Outlet(clock)
    Player(wheel, outlet, iter([(0.5, b"late", 1)])).advance()
    Player(wheel, outlet, iter([(0.1, b"soon", 1)])).advance()
    clock.turn(101)
    assert [entry for entry in outlet.told if entry[1]] == [(0.1, b"soon"), (0.5, b"late")]


def test_a_stopped_wheel_writes_only_what_comes_at_once() -> None:
    """Of what begins meanwhile, too; when it turns again, what was due is late and the rest is in time."""
    clock = Clock()
    loop: Any = clock
    wheel, outlet = Wheel(loop), Outlet(clock)
    Player(wheel, outlet, iter([(0.1, b"before", 1)])).advance()
    wheel.stop()
    clock.turn(101)
    Player(wheel, outlet, iter([(0.0, b"at once", 0), (0.1, b"meanwhile", 1), (1.5, b"after", 2)])).advance()
    clock.turn(101.2)
    assert outlet.told == [(1.0, b"at once")]
    wheel.turn_on()
    clock.turn(103)
    assert outlet.told[1:] == [(1.2, b"before"), (1.2, None), (1.2, b"meanwhile"), (1.5, b"after"), (1.5, None)]


async def test_the_wheel_runs_on_a_real_loop() -> None:
    """The timer of a running loop wakes the player."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    class Last:
        paused = False
        write = staticmethod(lambda data: None)

        def act(self, act: Act) -> None: ...

        def finished(self) -> None:
            done.set_result(True)

    Player(Wheel(loop), Last(), iter([(0.002, b"x", 1)])).advance()
    assert await done
