"""The purse of one worker: its leases over a Store, so that a reservation far from the limit asks nobody.

Rules:
1. Far from the limit of every hard scope a worker draws a *lease*: its share of what remains (`share`). Reservations
   fit into it or they don't; nothing is awaited. Near the limit, that is where the share would carry fewer than `FEW`
   reservations of the size just asked for, no lease is drawn and each reservation is a hold of its own, in turn with
   those of all other workers.
2. What a lease holds and has spent is told every `TELL_S` while it changes, and before `until` comes near. When the
   Store says that somebody waits for one of its scopes, what is free is given back at once, and so it is when the lease
   wasn't used for `IDLE_S`.
3. A lease isn't used beyond `until`, so that nobody has settled for us meanwhile.
4. The Store lost: what needs a hard scope and doesn't fit a lease raises `StateLost`, within the Store's own bound;
   what needs soft ones only is admitted and told when the Store is back. What is kept for that is one line a tuple of
   scopes, `MOST` of them at most.
5. A reservation of which nobody knows whether it stands (a lost answer, a cancelled wait) is closed, again and again
   until the Store has said so.

The arithmetic of a lease is in `proxy.state.lease`; `share` is pure; the rest is the thin asynchronous shell.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

import msgspec

from proxy.state.lease import Lease, Ticket
from proxy.state.protocol import Granted, Hold, Level, Part, Refused, Scope, StateLost, Store

TELL_S: Final = 0.1
IDLE_S: Final = 1.0
TTL_S: Final = 20.0  # of a hold; holds of a dead worker are looked for after that
FEW: Final = 8
NEAR_S: Final = 0.25  # how long after a refusal no lease is drawn
MOST: Final = 50_000
CLOSE_S: Final = 2.0
PART_S: Final = 1.0
_AT_ONCE: Final = 32  # calls of the Store that tell


def share(limit: int, level: Level, workers: int) -> int:
    """What one of so many workers may draw ahead: with all doing it, half of what remains stays in the Store."""
    return max(0, limit - level.spent - level.held) // (2 * workers)


class Known(msgspec.Struct):
    """What is known of a scope: its level as the Store said last, and what it wasn't told yet."""

    spent: int
    held: int
    at_s: float
    untold: int = 0


class _Drawer:
    """The lease of one tuple of scopes, if there is one."""

    __slots__ = ("drawing", "hard", "lease", "near_s", "scopes")

    def __init__(self, scopes: tuple[Scope, ...]) -> None:
        self.scopes = scopes
        self.hard = any(scope.hard for scope in scopes)
        self.lease: Lease | None = None
        self.drawing = False
        self.near_s = 0.0


class Purse:
    """What a worker reserves from. One for each worker and Store; `owner` names the worker's instance."""

    def __init__(
        self,
        store: Store,
        owner: str,
        workers: int = 1,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
        automatic: bool = True,  # tells on its own; tests do it by `tell`
    ) -> None:
        self.store = store
        self.owner = owner
        self.workers = workers
        self.dropped = 0  # soft spending that could not be kept for a lost Store
        self._clock = clock
        self._now_ns = now_ns
        self._automatic = automatic
        self._drawers: dict[tuple[Scope, ...], _Drawer] = {}
        self._open: dict[str, Lease] = {}
        self._drawn: dict[str, set[Lease]] = {}  # by the scopes that they hold something of
        self._ghosts: dict[str, tuple[Scope, ...]] = {}  # holds that may stand though nobody wants them
        self._known: dict[str, Known] = {}
        # Names of hosts and numbers of processes may be the same elsewhere; two holds of one id would be one hold.
        self._prefix = f"{owner}/{secrets.token_hex(6)}"
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._telling: asyncio.Task[Any] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Purse of {self.owner}: {len(self._open)} leases>"

    # --- reserving

    def try_reserve(self, parts: Sequence[Part]) -> Ticket | None:
        """A ticket from a lease, or None where the Store must be asked (`reserve`)."""
        return self.take(tuple([part.scope for part in parts]), [part.amount for part in parts])

    def take(self, scopes: tuple[Scope, ...], amounts: Sequence[int]) -> Ticket | None:
        """The same, for whoever has the scopes at hand: this is the path of every request."""
        drawer = self._drawers.get(scopes)
        if drawer is None:
            drawer = self._drawer(scopes)
        now_s, lease = self._clock(), drawer.lease
        if lease is None:
            if drawer.hard:
                return None
            lease = drawer.lease = self._opened(scopes, [0] * len(scopes), now_s + TTL_S, now_s, known=False)
        ticket = lease.take(amounts, now_s)
        if lease.low and not drawer.drawing and now_s >= drawer.near_s:
            self._draw_later(drawer, amounts, now_s)
        return ticket

    async def reserve(self, parts: Sequence[Part], wait_s: float = 0.0) -> Ticket | Refused:
        """A ticket from a lease, else from the Store, in turn. Raises StateLost where a hard scope can't be asked for.

        The first call of the Store doesn't wait, so that one that hangs is noticed within its own bound.
        """
        if (ticket := self.try_reserve(parts)) is not None:
            return ticket
        scopes = tuple([part.scope for part in parts])
        answer = await self._ask(parts, scopes, 0.0)
        if isinstance(answer, Refused) and answer.why == "held" and (self._spare(scopes) or wait_s > 0):
            await self._give_back(scopes)
            answer = await self._ask(parts, scopes, wait_s)
        drawer, now_s = self._drawer(scopes), self._clock()
        if isinstance(answer, Refused):
            drawer.near_s = now_s + NEAR_S
        elif not drawer.drawing and drawer.lease is None and now_s >= drawer.near_s:
            self._draw_later(drawer, [part.amount for part in parts], now_s)
        return answer

    async def part_with(self, ticket: Ticket, hold: Hold) -> bool:
        """Has a reservation stand by itself, as a hold that outlives this worker; the ticket is released.

        False where others have taken the room meanwhile. Raises StateLost.
        """
        ticket.release()
        scopes = tuple([part.scope for part in hold.parts])
        try:
            answer = await self.store.reserve(hold, 0.0)
            if isinstance(answer, Refused) and answer.why == "held":  # perhaps by what was released just now
                await self._give_back(scopes)
                answer = await self.store.reserve(hold, PART_S)
        except (StateLost, asyncio.CancelledError):
            self._abandon(hold.id, scopes)
            raise
        self._learn(scopes, answer.levels)
        return isinstance(answer, Granted)

    def level(self, scope: Scope) -> Known | None:
        """How full a scope is as far as this worker knows; None where it has never asked."""
        return self._known.get(scope.key)

    def spent(self, scope: Scope) -> int:
        """What was spent of a scope as far as this worker knows, its own spending included."""
        known = self._known.get(scope.key)
        return 0 if known is None else known.spent + known.untold

    def age_s(self, scope: Scope) -> float:
        """How old that knowledge is."""
        known = self._known.get(scope.key)
        return float("inf") if known is None else self._clock() - known.at_s

    async def look(self, scopes: Sequence[Scope]) -> None:
        """Asks the Store how full scopes are. Raises StateLost."""
        self._learn(scopes, await self.store.levels(scopes))

    # --- the Store

    async def _ask(self, parts: Sequence[Part], scopes: tuple[Scope, ...], wait_s: float) -> Ticket | Refused:
        """One hold of its own."""
        now_s = self._clock()
        hold = Hold(self._new_id(), self.owner, self._until_ns(wait_s), tuple(parts))
        try:
            answer = await self.store.reserve(hold, wait_s)
        except (StateLost, asyncio.CancelledError):
            self._abandon(hold.id, scopes)
            raise
        self._learn(scopes, answer.levels)
        if isinstance(answer, Refused):
            return answer
        amounts = [part.amount for part in parts]
        lease = self._opened(scopes, amounts, now_s + TTL_S + wait_s, now_s, exact=True, id=hold.id)
        ticket = lease.take(amounts, now_s)
        assert ticket is not None
        return ticket

    async def _draw(self, drawer: _Drawer, amounts: Sequence[int], now_s: float) -> None:
        """Draws a lease, if the limit is far."""
        scopes = drawer.scopes
        wanted = [self._share(scope) if scope.hard else 0 for scope in scopes]
        if any(scope.hard and want < FEW * amount for scope, want, amount in zip(scopes, wanted, amounts, strict=True)):
            drawer.near_s = now_s + NEAR_S
            return
        hold = Hold(self._new_id(), self.owner, self._until_ns(), tuple(map(Part, scopes, wanted)))
        try:
            answer = await self.store.reserve(hold, 0.0)
        except (StateLost, asyncio.CancelledError) as error:
            self._abandon(hold.id, scopes)
            drawer.near_s = self._clock() + NEAR_S
            if isinstance(error, StateLost):
                return
            raise
        self._learn(scopes, answer.levels)
        if not isinstance(answer, Granted) or self._closed:
            drawer.near_s = self._clock() + NEAR_S
            if isinstance(answer, Granted):
                self._abandon(hold.id, scopes)
            return
        self._retire(drawer)
        drawer.lease = lease = self._opened(scopes, wanted, now_s + TTL_S, now_s, id=hold.id)
        for scope in scopes:
            self._drawn.setdefault(scope.key, set()).add(lease)

    def _share(self, scope: Scope) -> int:
        known = self._known.get(scope.key)
        return 0 if known is None else share(scope.limit, Level(known.spent, known.held), self.workers)

    def _draw_later(self, drawer: _Drawer, amounts: Sequence[int], now_s: float) -> None:
        if not drawer.hard:
            return
        drawer.drawing = True

        def drawn(task: asyncio.Task[Any]) -> None:
            drawer.drawing = False

        self._spawn(self._draw(drawer, amounts, now_s), "draw lease").add_done_callback(drawn)

    def _retire(self, drawer: _Drawer) -> None:
        lease, drawer.lease = drawer.lease, None
        if lease is not None:
            self._put_away(lease)
            lease.give_back()
            self._spawn(self._tell(lease), "retire lease")

    # --- telling

    async def tell(self) -> None:
        """One round: whatever the Store should know of, it is told. Never raises StateLost."""
        now_s = self._clock()
        for id in list(self._ghosts):
            await self._lay(id)
        due = [lease for lease in self._open.values() if self._due(lease, now_s)]
        for start in range(0, len(due), _AT_ONCE):
            await asyncio.gather(*[self._tell(lease) for lease in due[start : start + _AT_ONCE]])
        for scopes, drawer in list(self._drawers.items()):
            if drawer.lease is None and not drawer.drawing and now_s >= drawer.near_s:
                del self._drawers[scopes]
        if len(self._known) > MOST:
            self._known.clear()

    def _due(self, lease: Lease, now_s: float) -> bool:
        """Whether there is anything to tell: spending, an end, or that it still stands (and is anybody waiting?)."""
        if lease.dirty or self._over(lease, now_s):
            return True
        return now_s - lease.told_s >= (TTL_S / 4 if lease.exact or not lease.spare else 2 * TELL_S)

    def _over(self, lease: Lease, now_s: float) -> bool:
        return lease.tickets == 0 and (lease.exact or lease.retired or now_s - lease.used_s >= IDLE_S)

    async def _tell(self, lease: Lease) -> None:
        now_s = self._clock()
        if self._over(lease, now_s):
            await self._end(lease)
            return
        spent, until_s = list(lease.spent), now_s + TTL_S
        try:
            levels = await self.store.adjust(lease.id, lease.held(), spent, self._until_ns(), lease.scopes)
        except StateLost:
            return
        if lease.id not in self._open:
            return  # it ended meanwhile
        self._told(lease, spent, until_s)
        self._learn(lease.scopes, levels)
        if any(level.waiting for level in levels):
            if (drawer := self._drawers.get(lease.scopes)) is not None:
                drawer.near_s = self._clock() + NEAR_S
            if lease.give_back():
                await self._tell(lease)

    async def _end(self, lease: Lease) -> None:
        """Closes it. Nobody takes from it any more from here on."""
        drawer = self._drawers.get(lease.scopes)
        if drawer is not None and drawer.lease is lease:
            drawer.lease = None
        self._put_away(lease)
        lease.give_back()
        if not lease.known and not any(lease.spent):
            self._open.pop(lease.id, None)
            return
        spent = list(lease.spent)
        try:
            await self.store.close(lease.id, spent, lease.scopes)
        except StateLost:
            return
        if self._open.pop(lease.id, None) is not None:
            self._told(lease, spent, lease.until_s)

    def _told(self, lease: Lease, spent: Sequence[int], until_s: float) -> None:
        for scope, news in zip(lease.scopes, lease.told(spent, self._clock(), until_s), strict=True):
            if (known := self._known.get(scope.key)) is not None:
                known.untold = max(0, known.untold - news)
                known.spent += news

    async def _lay(self, id: str) -> None:
        """Closes a hold that nobody wants."""
        scopes = self._ghosts.get(id)
        if scopes is None:
            return  # another has just done so
        try:
            await self.store.close(id, [0] * len(scopes), scopes)
        except StateLost:
            return
        self._ghosts.pop(id, None)

    def _abandon(self, id: str, scopes: tuple[Scope, ...]) -> None:
        self._ghosts[id] = scopes
        if not self._closed:
            self._spawn(self._lay(id), "abandon hold")
            self._wake()

    def _put_away(self, lease: Lease) -> None:
        """Nobody takes from it any more."""
        lease.retired = True
        for scope in lease.scopes:
            if (drawn := self._drawn.get(scope.key)) is not None:
                drawn.discard(lease)
                if not drawn:
                    del self._drawn[scope.key]

    # --- giving back

    def _spare(self, scopes: Iterable[Scope]) -> list[Lease]:
        """Own leases that have something free of one of these scopes."""
        found = {lease for scope in scopes if scope.hard for lease in self._drawn.get(scope.key, ())}
        return [lease for lease in found if lease.spare]

    async def _give_back(self, scopes: Iterable[Scope]) -> None:
        leases = [lease for lease in self._spare(scopes) if lease.give_back()]
        if leases:
            await asyncio.gather(*[self._tell(lease) for lease in leases])

    async def aclose(self) -> None:
        """Gives back what is free and tells what was spent; what is still reserved stays held."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lease in self._open.values():
            lease.retired = True
            lease.give_back()
        self._drawers.clear()
        self._drawn.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.tell()

    # --- small parts

    def _drawer(self, scopes: tuple[Scope, ...]) -> _Drawer:
        drawer = self._drawers.get(scopes)
        if drawer is None:
            drawer = self._drawers[scopes] = _Drawer(scopes)
        return drawer

    def _opened(
        self,
        scopes: tuple[Scope, ...],
        capacity: Sequence[int],
        until_s: float,
        now_s: float,
        *,
        exact: bool = False,
        known: bool = True,
        id: str = "",
    ) -> Lease:
        lease = Lease(id or self._new_id(), scopes, capacity, until_s, now_s, self._settled, exact=exact, known=known)
        if len(self._open) >= MOST:
            self._drop()
        self._open[lease.id] = lease
        self._wake()
        return lease

    def _drop(self) -> None:
        """The Store has been away for so long that what is kept for it must be bounded: the oldest soft line goes."""
        for lease in self._open.values():
            if not lease.known and not lease.tickets:
                del self._open[lease.id]
                self.dropped += 1
                return

    def _settled(self, lease: Lease, spent: Sequence[int]) -> None:
        for scope, amount in zip(lease.scopes, spent, strict=True):
            known = self._known.get(scope.key)
            if known is None:
                known = self._known[scope.key] = Known(0, 0, -TTL_S)
            known.untold += amount
        if (lease.exact or lease.retired) and not lease.tickets and not self._closed:
            self._spawn(self._tell(lease), "settle hold")

    def _learn(self, scopes: Sequence[Scope], levels: Sequence[Level]) -> None:
        now_s = self._clock()
        for scope, level in zip(scopes, levels, strict=True):
            known = self._known.get(scope.key)
            if known is None:
                self._known[scope.key] = Known(level.spent, level.held, now_s)
            else:
                known.spent, known.held, known.at_s = level.spent, level.held, now_s

    def _new_id(self) -> str:
        return f"{self._prefix}/{next(self._numbers)}"

    def _until_ns(self, wait_s: float = 0.0) -> int:
        return self._now_ns() + round((TTL_S + wait_s) * 1e9)

    def _wake(self) -> None:
        if self._automatic and self._telling is None and not self._closed:
            self._telling = self._spawn(self._rounds(), "purse")

    async def _rounds(self) -> None:
        try:
            while self._open or self._ghosts:
                await asyncio.sleep(TELL_S)
                await self.tell()
        finally:
            self._telling = None

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
