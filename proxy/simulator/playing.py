"""Timed writing: an answer is a list of frames, each due some seconds after the request was complete.

`Wheel` has one timer for all answers and wakes those that are due in the same millisecond together. A frame is
`(due, what, output)`: `what` are bytes or an `Act` that ends the answer, `output` the tokens produced once it is
written. Frames past their time are written at once, so a late wheel delays an answer but never stretches it. A wheel
can be stopped: then only what is due at once is written until it turns again.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Protocol


class Act(enum.Enum):
    """How an answer ends when it does not end well."""

    CLOSE = "close"  # FIN
    RESET = "reset"  # RST
    HOLD = "hold"  # keep the connection open and silent
    DEAF = "deaf"  # the same, and stop reading too, so that not even the client's FIN is seen


Frame = tuple[float, bytes | Act, int]


class Outlet(Protocol):
    """Where frames go: a connection."""

    paused: bool
    write: Callable[[bytes], None]

    def act(self, act: Act) -> None: ...
    def finished(self) -> None: ...


class Player:
    """Writes one answer's frames as they fall due."""

    __slots__ = (
        "_frames",
        "_outlet",
        "_parked",
        "_pending",
        "_single",
        "_wheel",
        "begun",
        "over",
        "produced",
        "written",
    )

    def __init__(self, wheel: Wheel, outlet: Outlet, frames: Iterator[Frame], *, single: bool = False) -> None:
        self._wheel = wheel
        self._outlet = outlet
        self._frames = frames
        self._single = single
        self._pending: Frame | None = None
        self._parked = False
        self.begun = wheel.now()
        self.produced = 0
        self.written = 0
        self.over = False

    def advance(self) -> None:
        """Write what is due; then wait for the wheel, for the outlet to drain, or be finished."""
        if self.over:
            return
        outlet, frames = self._outlet, self._frames
        frame = self._pending or next(frames, None)
        horizon = self._wheel.now() - self.begun + 0.0005
        while frame is not None:
            due, what, produced = frame
            if due > horizon or outlet.paused:
                self._pending = frame
                self._parked = due <= horizon
                if not self._parked:
                    self._wheel.wake(self.begun + due, self)
                return
            self.produced = produced
            if not isinstance(what, bytes):
                outlet.act(what)
                return
            self.written += 1
            outlet.write(what)
            frame = next(frames, None)
            if self._single and frame is not None:
                self._pending = frame
                self._wheel.loop.call_soon(self.advance)
                return
        self.over = True
        outlet.finished()

    def resume(self) -> None:
        """The outlet has drained. A player that waits for the wheel is not woken: it would be on the wheel twice."""
        if self._parked and not self._outlet.paused:
            self._parked = False
            self.advance()


class Wheel:
    """Wakes players at their millisecond, all of one millisecond in one turn of the loop."""

    __slots__ = ("_buckets", "_due", "_stopped_s", "_timer", "_timer_tick", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._buckets: dict[int, list[Player]] = {}
        self._due: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0
        self._stopped_s: float | None = None

    def now(self) -> float:
        """The loop's time, or that at which it was stopped."""
        return self.loop.time() if self._stopped_s is None else self._stopped_s

    def stop(self) -> None:
        """Time stands still."""
        self._stopped_s = self.loop.time()

    def turn_on(self) -> None:
        """Time goes on, and what it missed is over."""
        self._stopped_s = None
        self._turn()

    def wake(self, when: float, player: Player) -> None:
        """Advance `player` at loop time `when`, rounded to the millisecond."""
        tick = round(when * 1000)
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.append(player)
            return
        self._buckets[tick] = [player]
        heappush(self._due, tick)
        if self._timer is None or tick < self._timer_tick:
            self._arm()

    def close(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._buckets.clear()
        self._due.clear()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_tick = self._due[0]
        self._timer = self.loop.call_at(self._timer_tick / 1000, self._turn)

    def _turn(self) -> None:
        self._timer = None
        if self._stopped_s is not None:
            return
        now = round(self.loop.time() * 1000)
        while self._due and self._due[0] <= now:
            for player in self._buckets.pop(heappop(self._due)):
                player.advance()
        if self._due and (self._timer is None or self._due[0] < self._timer_tick):
            self._arm()
