"""What a worker knows of one policy's traffic: the entries, and what each tenant's answers have taught.

Rules:
1. Whatever is learnt is told to all workers, and what others tell is taken in alike: they come to know the same, and
   one that starts begins with what was written before.
2. What an evicted tenant's traffic had taught is forgotten, and nothing said before that may come back.
3. Taking in happens on the loop; building graphs, fitting scores and reading the past happen in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from policies.cache.options import Semantic
from policies.cache.semantic.learner import Label, Learner, fitted_by, rescored, thought
from policies.cache.semantic.lens import Groups, ground
from policies.cache.semantic.partition import Partition, built, caught_up
from policies.cache.semantic.room import Room, Rooms, Stored
from policies.cache.semantic.shared import FLUSH_S, Message, Shared, fit_of, fit_to_bytes
from policies.cache.semantic.static import Vector
from policies.cache.tiers import Eviction
from proxy.chain import Services

_MOST_LEARNERS: Final = 2000


class Knowledge:
    """One policy's. `kind`: what entries and labels of another kind must not be mixed with."""

    def __init__(
        self, config: Semantic, services: Services, ttl_s: float, wall: Callable[[], float], owner: str, kind: str
    ) -> None:
        self.rooms = Rooms(config.entries)
        self.shared: Shared | None = None
        self.loading = services.store is not None
        self._config, self._services = config, services
        self._ttl_s, self._wall, self._owner = ttl_s, wall, owner
        self._learners: dict[str, Learner] = {}
        self._known_ns: dict[str, int] = {}  # until when a restored learner knows labels
        self._fitting: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._forgotten_ns: dict[str, int] = {}  # tenants of which nothing older may come back
        self._standing: dict[str, tuple[float, ...]] = {}
        self._totals: tuple[float, ...] = _NOTHING
        self._arrived: list[Stored] = []  # while the past is being read
        if services.store is not None:
            self.shared = Shared(services.store, services.name, owner, kind, ttl_s)
            loop = asyncio.get_running_loop()
            self._tasks.append(loop.create_task(self._remember(self.shared), name="semantic cache: the past"))

    def room(self, partition: str, tenant: str) -> Room:
        """Where a tenant's entries of a partition are, or will be."""
        return self.rooms.get(partition, tenant) or Room(tenant, self._config.entries)

    def learner(self, tenant: str) -> Learner:
        """What a tenant's traffic has taught."""
        found = self._learners.get(tenant)
        if found is None:
            if len(self._learners) >= _MOST_LEARNERS:
                del self._learners[next(iter(self._learners))]
            found = self._learners[tenant] = Learner(self._config.max_error)
        return found

    async def learn(self, tenant: str, stored: Stored | None, label: Label | None) -> None:
        """Takes in what an answer taught, and tells the others."""
        message = Message(self._owner, tenant, time.time_ns(), stored, label)
        self._apply(message)
        if self.shared is not None:
            if stored is not None:
                self.shared.keep(stored)
            await self.shared.publish(message)

    # --- taking in

    def _apply(self, message: Message) -> None:
        """Takes in what this or another worker tells, unless it was forgotten since."""
        if message.at_ns <= self._forgotten_ns.get(message.tenant, 0):
            return
        stored = message.stored
        if stored is not None and stored.made_s + self._ttl_s > self._wall():
            room = self.rooms.add(stored)
            if self.loading:
                self._arrived.append(stored)
            self._grow(room)
        tenant = message.tenant
        if message.at_ns <= self._known_ns.get(tenant, 0):
            return  # it is part of what was restored
        if message.label is not None:
            self._learnt(tenant, message.label)
        if message.fit:
            self._spawn(self._adopt(tenant, message.fit), "adopt a score")

    def _learnt(self, tenant: str, label: Label) -> None:
        learner = self.learner(tenant)
        learner.learn(label)
        if learner.wants_fit and tenant not in self._fitting:
            self._fitting.add(tenant)
            self._spawn(self._fit(tenant), "fit a score")
        elif learner.wants_thought:
            self._spawn(self._think(tenant), "look for a threshold")

    async def _think(self, tenant: str) -> None:
        learner = self.learner(tenant)
        learner.conclude(await asyncio.to_thread(thought, learner.evidence()))
        self._count(tenant)

    def _grow(self, room: Room) -> None:
        """What a partition has grown big enough for."""
        if room.partition.wants_index and not room.building:
            room.building = True
            self._spawn(self._index(room), "build a graph")
        if room.partition.wants_lens:
            self._spawn(self._grind(room.partition, room.partition.to_lens()), "grind a lens")

    async def _index(self, room: Room) -> None:
        index = await asyncio.to_thread(built, *room.partition.to_index())
        while late := room.partition.late():
            await asyncio.to_thread(caught_up, index, *late)
        room.partition.take(index)
        room.building = False

    async def _grind(self, partition: Partition, entries: tuple[Vector, Groups, int]) -> None:
        partition.look_through(await asyncio.to_thread(ground, *entries))

    async def _fit(self, tenant: str) -> None:
        """Fits the score anew, for all workers."""
        try:
            learner = self.learner(tenant)
            examples = learner.examples()
            if self.shared is not None and not await self.shared.may_fit(tenant):
                return
            parts = fit_to_bytes(await asyncio.to_thread(fitted_by, examples))
            await self._adopt(tenant, parts)
            if self.shared is not None:
                now_ns = time.time_ns()
                await self.shared.publish(Message(self._owner, tenant, now_ns, fit=parts))
                await self.shared.save(tenant, {**learner.saved(), "at_ns": now_ns})
        finally:
            self._fitting.discard(tenant)

    async def _adopt(self, tenant: str, parts: tuple[bytes, ...]) -> None:
        learner, made = self.learner(tenant), fit_of(parts)
        if made.foreign:
            return
        learner.adopt(made, *await asyncio.to_thread(rescored, made, *learner.rows()))
        await self._think(tenant)

    # --- remembering

    async def _remember(self, shared: Shared) -> None:
        """Reads what was written before, then hears the others, and writes what is new."""
        entries, learnt = await shared.past()
        self._forgotten_ns.update(await shared.forgotten())
        now_s = self._wall()
        rooms = self.rooms
        fresh = [stored for stored in entries if stored.made_s + self._ttl_s > now_s]
        if fresh:
            rooms = Rooms(self._config.entries)
            await asyncio.to_thread(lambda: [rooms.add(stored) for stored in fresh])
            self.rooms = rooms
            for stored in self._arrived:
                rooms.add(stored)
        self.loading = False
        self._arrived.clear()
        for tenant, state in learnt:
            if self.learner(tenant).restored(state):
                self._known_ns[tenant] = int(state["at_ns"])
                self._count(tenant)
        for room in self.rooms:
            self._grow(room)
        self._count()
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(shared.follow(self._apply), name="semantic cache: the others"))
        while True:
            await asyncio.sleep(FLUSH_S)
            await shared.flush()

    def forget(self, told: Eviction) -> None:
        """Evicted entries, or a tenant: their vectors go too."""
        if told.keys:
            self.rooms.remove_keys(list(told.keys))
        if told.tag is not None and told.tag.startswith("tenant="):
            tenant = told.tag.removeprefix("tenant=")
            self.rooms.remove_tenant(tenant)
            self._forgotten_ns[tenant] = time.time_ns()
            if self.shared is not None:
                self.shared.drop(tenant)
            self._learners.pop(tenant, None)
            self._known_ns.pop(tenant, None)
            self._count(tenant)
            self._standing.pop(tenant, None)

    async def aclose(self) -> None:
        """Stops hearing, and writes what is known."""
        for task in self._tasks:
            task.cancel()
        await self.save()

    async def save(self) -> None:
        """Writes what is known."""
        if self.shared is None:
            return
        await self.shared.flush()
        for tenant, learner in list(self._learners.items()):
            if learner.labels:
                await self.shared.save(tenant, {**learner.saved(), "at_ns": time.time_ns()})

    # --- telling

    def status(self, tenant: str) -> dict[str, Any]:
        """How a tenant's guarantee stands."""
        learner = self.learner(tenant)
        rate, least, most = learner.realised()
        return {
            "policy": self._services.name,
            "status": learner.status,
            "max_error": learner.max_error,
            "threshold": min(learner.threshold, learner.alone) if learner.status == "certified" else None,
            "labels": learner.labels,
            "questions": learner.asked,
            "audited_error": rate,
            "audited_error_between": [least, most],
            "entries": sum(len(room.partition) for room in self.rooms if room.tenant == tenant),
        }

    def _count(self, tenant: str | None = None) -> None:
        """Metrics: how many tenants stand how, and what their audits found."""
        metrics, name = self._services.metrics, self._services.name
        if tenant is not None:
            learner = self._learners.get(tenant)
            before, after = self._standing.get(tenant, _NOTHING), _NOTHING if learner is None else _standing(learner)
            self._totals = tuple(all_ - was + now for all_, was, now in zip(self._totals, before, after, strict=True))
            self._standing[tenant] = after
        metrics.level(name, "cache_semantic_entries", self.rooms.entries)
        for level, amount in zip(_LEVELS, self._totals, strict=True):
            metrics.level(name, f"cache_semantic_{level}", amount)

    def _spawn(self, work: Any, name: str) -> None:
        assert self._services.spawn is not None
        self._services.spawn(work, name)


def _standing(learner: Learner) -> tuple[float, ...]:
    status, (rate, audits) = learner.status, learner.audited()
    stands = [float(status == each) for each in ("gathering", "certified", "suspended")]
    least = min(learner.threshold, learner.alone) if status == "certified" else 0.0
    return (*stands, least, audits, rate * audits)


_LEVELS: Final = ("gathering", "certified", "suspended", "threshold", "audits", "wrong")
_NOTHING: Final = (0.0,) * len(_LEVELS)
