"""How much a worker takes on: an adaptive limit of running exchanges, a short queue before it, refusals beyond it.

Rules:
1. What is limited is what this worker can do: how long a turn of its event loop takes, its share of CPU, bytes of
   bodies, memory, descriptors. How slow upstreams are says nothing: calls of language models take as long as they take.
2. There is no limit until turns take too long for a while (`Limit`): then it is cut in proportion to how far too long
   (a gradient, as in Netflix' concurrency-limits), and grows again by the CPU that is left, which others on the core
   may have, or by how short turns are: a full core does more in longer ones. A cut is followed by another only once
   what runs has come down to it. Where nobody was refused for a while, the limit goes.
3. Classes share one limit: the lower ones may use a part of it only, so that there is always room for the high one.
   Against the limit counts what runs of a class and those above, so that the lower never stand in the way of the
   higher; against the number that the file sets counts everything.
4. Who finds no room waits, bounded in number and time. A queue that doesn't get empty delays everybody and serves
   nobody (Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 10/5): then its patience shrinks to that of two
   turns, so that one passes in which others leave, and the newest is served first, since the oldest are those whose
   clients have given up (Maurer, "Fail at Scale", ACM Queue 13/8). It may stand for a quarter of a second: in that
   time a worker catches up with what a neighbour on its core took for a moment, and a refusal costs its client a
   second at least.
5. Deciding costs a comparison as long as nothing is wrong, and refusing costs no task: the answer is ready bytes.

What is measured, and how, is `proxy.pressure.gauge`'s matter; who is of which class `proxy.pressure.priority`'s. Times
are the loop's, in seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import cycle
from typing import Final

import msgspec

from proxy.config.overload import Overload
from proxy.errors import OVERLOADED, WeirError
from proxy.pressure.priority import LOW, NORMAL

UNLIMITED: Final = float("inf")
FLOOR: Final = 8.0  # exchanges that run however bad it looks: else nothing would tell that it got better
BUSY: Final = 0.95  # the share of a core that there is to give
DEEPEST_CUT: Final = 0.25
FIRST_CUT: Final = 2.0  # one bad look counts for no more pressure than this
FASTEST_GROWTH: Final = 1.5
GROWS_BELOW: Final = 0.4  # of the pressure
RISE: Final = 0.14  # a look, of what is left to there
REFUSED_AFTER: Final = 2  # looks: one turn that took long (a reload, a noisy neighbour) is no overload,
LASTING_S: Final = 0.3  # nor are some within so short a time
FORGOTTEN_AFTER: Final = 50  # looks without a refusal
STANDING_S: Final = 0.25
PATIENCE: Final = 2  # turns
_SHARES: Final = (1.0, 0.9, 0.7)  # of the limit, by class
_SHARES_WITHOUT_HIGH: Final = (1.0, 1.0, 0.8)


class Seen(msgspec.Struct, frozen=True):
    """What one look found. `pressure`: of what is scarcest, how much is used, where 1 is too much; `busy`: the share
    of the time in which the worker, or somebody before it, had the CPU; `most`: exchanges that ran at a time;
    `refused`: whether somebody found no room; `over_s`: what time it covers."""

    pressure: float
    busy: float
    most: int
    refused: bool
    over_s: float


class Limit:
    """How many exchanges may run at a time, as learned from one look after the other."""

    __slots__ = ("_bad", "_bad_s", "_before", "_quiet", "now")

    def __init__(self) -> None:
        self.now = UNLIMITED
        self._bad = 0
        self._bad_s = 0.0  # since the first of these looks
        self._before = 0.0  # the pressure of the last look
        self._quiet = 0

    def look(self, seen: Seen) -> None:
        """Learns from what was seen since the last look."""
        self._quiet = 0 if seen.refused else self._quiet + 1
        lasting = min(seen.pressure, max(self._before, FIRST_CUT))
        self._before = seen.pressure
        if seen.pressure > 1:
            self._bad_s += seen.over_s if self._bad else 0.0
            self._bad += 1
            if self.now != UNLIMITED or (self._bad >= REFUSED_AFTER and self._bad_s >= LASTING_S):
                self._cut(seen.most, lasting)
            return
        self._bad, self._bad_s = 0, 0.0
        if self._quiet >= FORGOTTEN_AFTER:
            self.now = UNLIMITED
        elif seen.refused and seen.pressure < GROWS_BELOW:
            room = max(BUSY / max(seen.busy, 0.1), 1 + RISE * (GROWS_BELOW - seen.pressure))
            self.now = max(self.now * min(room, FASTEST_GROWTH), self.now + 1)

    def _cut(self, most: int, pressure: float) -> None:
        if most <= self.now:  # else the last cut has yet to show
            self.now = max(FLOOR, min(self.now, most) * max(DEEPEST_CUT, 1 / pressure))


class Waiter(msgspec.Struct, eq=False):
    """Somebody before the door."""

    ticket: asyncio.Future[None]
    rank: int
    since: float


class Gate:
    """The door of one worker. Who is let in (`enters`, `wait`) says `leave` once, at the end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._running = [0, 0, 0]  # of this class and higher ones
        self._coming = [0, 0, 0]  # likewise
        self.pressed = False  # whether anybody could be refused now
        self.limit = Limit()
        self.shed = [0, 0, 0]  # by class
        self._clock = clock
        self._options = Overload()
        self._shares = _SHARES_WITHOUT_HIGH
        self._rooms = (UNLIMITED, UNLIMITED, UNLIMITED)  # by the limit, for a class and those above
        self._places = (UNLIMITED, UNLIMITED, UNLIMITED)  # by the configured number, for all together
        self._queues: tuple[deque[Waiter], ...] = (deque(), deque(), deque())
        self._waiting = 0
        self._empty_s = clock()  # when the queue was empty last
        self._refused = False

    def adopt(self, options: Overload, *, high: bool) -> None:
        """Other options; `high`: whether there may be requests of the high class."""
        self._options, self._shares = options, _SHARES if high else _SHARES_WITHOUT_HIGH
        self._set_rooms()

    @property
    def running(self) -> int:
        """How many run."""
        return self._running[-1]

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    # --- each request

    def enters(self, rank: int) -> bool:
        """Whether there is room; then it is taken."""
        running = self._running
        if running[rank] >= self._rooms[rank] or running[2] >= self._places[rank]:
            return False
        running[2] += 1
        if rank < 2:
            running[1] += 1
            if rank < 1:
                running[0] += 1
        return True

    def refuses(self, rank: int) -> bool:
        """Whether a request of this class finds neither room nor a place to wait; then it is counted as refused. Else
        it is on its way in, and counts as such until `came`: many are read in one turn, and all would see one place."""
        running, coming = self._running, self._coming
        room = min(self._rooms[rank] - running[rank] - coming[rank], self._places[rank] - running[2] - coming[2])
        if room <= 0 and not self._place(rank, min(coming[rank], -room)):
            self._count(rank)
            return True
        for below in range(rank, 3):
            coming[below] += 1
        return False

    @property
    def coming(self) -> bool:
        """Whether somebody is on the way in."""
        return self._coming[-1] > 0

    def came(self) -> None:
        """Who was on the way in counts for itself from now on, or has left."""
        self._coming = [0, 0, 0]

    def spares(self) -> bool:
        """Whether there is room for what no client waits for, beside whoever asks: then nobody queues, and the lowest
        class would be let in."""
        if not self.pressed:
            return True
        others = self._running[LOW] - 1
        return not self._waiting and others < self._rooms[LOW] and others < self._places[LOW]

    def leave(self, rank: int) -> None:
        """One of this class has ended."""
        running = self._running
        running[2] -= 1
        if rank < 2:
            running[1] -= 1
            if rank < 1:
                running[0] -= 1
        if self._waiting:
            self._admit()

    async def wait(self, rank: int) -> None:
        """Waits for room, which is then taken. Raises 503 `overloaded` where that takes too long."""
        self._refused = True
        if not self._place(rank):
            self._count(rank)
            raise refusal()
        if self._waiting >= self._options.queue:
            self._give_way(rank)
        now_s = self._clock()
        if not self._waiting:
            self._empty_s = now_s
        waiter = Waiter(asyncio.get_running_loop().create_future(), rank, now_s)
        self._queues[rank].append(waiter)
        self._waiting += 1
        try:
            await waiter.ticket
        except asyncio.CancelledError:
            if waiter.ticket.done() and not waiter.ticket.cancelled() and waiter.ticket.exception() is None:
                self.leave(rank)  # let in at the moment when its client left
            else:
                self._remove(waiter)
            raise

    def _place(self, rank: int, before: float = 0) -> bool:
        """Whether there is a place to wait: a free one, with so many to come before, or that of a lower class."""
        most = self._options.queue if not self._standing else min(self._options.queue, FLOOR)
        if self._waiting + before < most:
            return True
        return self._options.queue > 0 and any(self._queues[rank + 1 :])

    def _give_way(self, rank: int) -> None:
        for queue in reversed(self._queues[rank + 1 :]):
            if queue:
                self._refuse(queue.popleft())
                return

    @property
    def _standing(self) -> bool:
        return self._waiting > 0 and self._clock() - self._empty_s > STANDING_S

    def _admit(self) -> None:
        newest_first = self._standing
        for rank, queue in enumerate(self._queues):
            while queue and self.enters(rank):
                waiter = queue.pop() if newest_first and rank >= NORMAL else queue.popleft()
                self._waiting -= 1
                waiter.ticket.set_result(None)
        if not self._waiting:
            self._empty_s = self._clock()

    # --- now and then

    def tick(self, turn_s: float = 0.0) -> None:
        """Refuses who has waited long enough. `turn_s`: how long a turn of the loop takes now."""
        now_s, options = self._clock(), self._options
        for rank, queue in enumerate(self._queues):
            impatient = self._standing and rank >= NORMAL
            patience_s = max(options.lag_s, PATIENCE * turn_s) if impatient else options.queue_s
            while queue and now_s - queue[0].since >= patience_s:
                self._refuse(queue.popleft())

    def look(self, pressure: float, busy: float, most: int, over_s: float) -> None:
        """Learns from what was measured."""
        self.limit.look(Seen(pressure, busy, most, self._refused, over_s))
        self._refused = self._waiting > 0
        self._set_rooms()

    def _set_rooms(self) -> None:
        high, normal, low = self._shares
        limit, most = self.limit.now, self._options.exchanges or UNLIMITED
        self._rooms = (limit * high, limit * normal, limit * low)
        self._places = (most * high, most * normal, most * low)
        self.pressed = min(limit, most) != UNLIMITED
        if self._waiting:
            self._admit()

    def _refuse(self, waiter: Waiter) -> None:
        self._waiting -= 1
        self._count(waiter.rank)
        if not waiter.ticket.done():
            waiter.ticket.set_exception(refusal())

    def _remove(self, waiter: Waiter) -> None:
        if waiter in self._queues[waiter.rank]:
            self._queues[waiter.rank].remove(waiter)
            self._waiting -= 1

    def _count(self, rank: int) -> None:
        self._refused = True
        self.shed[rank] += 1


# --- what the refused get

_MESSAGE: Final = "This worker has more to do than it can. Try again shortly."
# SDKs wait for exactly this long: whoever was refused at one moment must not come back at one moment.
_AFTER_S: Final = cycle((b"1", b"2", b"3", b"2"))


def refusal() -> WeirError:
    """503, with the time to come back."""
    return WeirError(503, _MESSAGE, type=OVERLOADED, code="overloaded", headers=((b"retry-after", next(_AFTER_S)),))


def _answer(after_s: bytes, body: bytes) -> bytes:
    return (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: %b\r\n"
        b"content-length: %d\r\n\r\n%b" % (after_s, len(body), body)
    )


_PLAIN: Final = cycle([_answer(after_s, refusal().body()) for after_s in (b"1", b"2", b"3", b"2")])
_TYPED: Final = cycle([_answer(after_s, refusal().body_with_type()) for after_s in (b"1", b"2", b"3", b"2")])


def answer(typed: bool) -> bytes:
    """The whole answer, ready to be written; `typed` for Anthropic's clients."""
    return next(_TYPED) if typed else next(_PLAIN)
