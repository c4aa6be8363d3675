"""The semantic tier as requests meet it: looks for an answer, gives it, and learns from the answers that come anyway.

Rules:
1. Looking and deciding take less than a millisecond and happen on the loop; building graphs, fitting scores and reading
   the past happen in threads.
2. An answer given is an entry of the exact tier: what that has forgotten, this forgets too.
3. A miss teaches what its neighbours' answer would have been worth; a hit teaches only if it is audited: then upstream
   is asked as well, in an exchange that no client waits for.
4. Whatever fails here is a miss.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from policies.cache.entry import Entry
from policies.cache.exact import ExactTier
from policies.cache.freshness import NOTHING, Wish
from policies.cache.key import Asked
from policies.cache.options import Config, Semantic
from policies.cache.semantic import asking
from policies.cache.semantic.equality import Answer, answer_of
from policies.cache.semantic.features import Candidate, Question, candidate, question
from policies.cache.semantic.learner import Label, Learner, fitted_by, rescored, thought
from policies.cache.semantic.partition import Near, built
from policies.cache.semantic.rated import Rated
from policies.cache.semantic.room import Room, Rooms, Stored, half
from policies.cache.semantic.sentence import Sentence
from policies.cache.semantic.shared import FLUSH_S, Message, Shared, fit_of, fit_to_bytes
from policies.cache.semantic.static import Static
from policies.cache.semantic.turn import Turn, said, turn_of
from policies.cache.tiers import Eviction, Tiers
from proxy.chain import Services
from proxy.exchange import Exchange, Forward, Request
from proxy.response import Response

FEWEST: Final = 5  # entries of a partition before its neighbours say anything
_AUDIT_S: Final = 600.0
_EXPECTED: Final = 10_000
_MOST_LEARNERS: Final = 2000


class Look(msgspec.Struct):
    """What was found for one request."""

    request: Request
    forward: Forward
    turn: Turn
    asked: Question
    near: Near | None
    found: Candidate | None
    group: bytes  # the name of the candidate's group
    key: str  # of the entry whose answer would be given
    score: float
    threshold: float
    serves: bool
    audit: float = 0.0

    @property
    def numbers(self) -> dict[str, object]:
        """For the decision's record."""
        if self.found is None:
            return {"semantic": "no neighbours"}
        return {
            "entry": self.key,
            "similarity": round(self.found.similarity, 4),
            "score": round(self.score, 6),
            "threshold": None if self.threshold > 1 else round(self.threshold, 6),
        }


class SemanticTier:
    """One policy's. `draw` gives numbers between 0 and 1: which hits are audited."""

    def __init__(
        self,
        config: Config,
        services: Services,
        exact: ExactTier,
        tiers: Tiers,
        wall: Callable[[], float],
        owner: str,
        draw: Callable[[], float] = random.random,
    ) -> None:
        assert config.semantic is not None
        self._config = config.semantic
        self._share = config.exact.share
        self._ttl_s = config.exact.ttl
        self._vary = frozenset(name.lower().encode() for name in config.exact.vary)
        self._services = services
        self._exact = exact
        self._tiers = tiers
        self._wall = wall
        self._owner = owner
        self._draw = draw
        self._static = Static()
        self._model = self._config.model if self._config.embedder == "upstream" else None
        self._sentence = sentence_of(self._config)
        self._embedder = embedder_of(self._static, self._config, self._sentence)
        self._rooms = Rooms(self._config.entries, self._room)
        self._learners: dict[str, Learner] = {}
        self._known_ns: dict[str, int] = {}  # until when a restored learner knows labels
        self._expected: dict[str, Look] = {}
        self._fitting: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._shared: Shared | None = None
        self._forgotten_ns: dict[str, int] = {}  # tenants of which nothing older may come back
        self._standing: dict[str, tuple[float, ...]] = {}
        self._totals: tuple[float, ...] = _NOTHING
        self._loading = services.store is not None
        self._arrived: list[Stored] = []  # while the past is being read
        self._rated = Rated(self._wrong)
        if services.store is not None:
            kind = kind_of(self._embedder, self._config)
            self._shared = Shared(services.store, services.name, owner, kind, config.exact.ttl)
            loop = asyncio.get_running_loop()
            self._tasks.append(loop.create_task(self._remember(self._shared), name="semantic cache: the past"))
            self._tasks.append(loop.create_task(self._rated.follow(services.store), name="semantic cache: ratings"))

    def __repr__(self) -> str:
        return f"<SemanticTier {self._rooms.entries} entries in {len(self._rooms)} partitions>"

    # --- looking

    async def look(self, request: Request, forward: Forward) -> Look | str:
        """What the neighbours say; or in a word why this request isn't compared."""
        turn = turn_of(request, self._share, self._vary, self._embedder, self._config.longest)
        if isinstance(turn, str):
            return turn
        vector = None
        if self._model is not None:
            vector = await asking.embedded(request, forward, self._model, turn.text, self._services.name)
            if vector is None:
                return "no vector"
        elif self._sentence is not None:
            vector = await asyncio.to_thread(self._sentence.vector, turn.text)
        asked = question(turn.text, self._static, vector)
        tenant = request.exchange.identity.tenant
        look = Look(request, forward, turn, asked, None, None, b"", "", 0.0, 2.0, False)
        room = self._rooms.get(turn.partition, tenant)
        if room is None or len(room.partition) < FEWEST or room.partition.dimensions != len(asked.vector):
            return look
        learner = self.learner(tenant)
        look.near = room.partition.nearest(asked.vector)
        if look.near is None:
            return look
        found = candidate(
            asked, look.near, room.partition, self._static, lambda group: learner.record(room.name(group))
        )
        held = room.partition.held[found.place]
        assert held is not None
        look.found, look.group, look.key = found, room.name(found.group), held.key
        look.score, look.threshold = learner.weights.score(found.features), learner.threshold
        look.serves = learner.serves(look.score)
        return look

    def learner(self, tenant: str) -> Learner:
        """What a tenant's traffic has taught."""
        found = self._learners.get(tenant)
        if found is None:
            if len(self._learners) >= _MOST_LEARNERS:
                del self._learners[next(iter(self._learners))]
            found = self._learners[tenant] = Learner(self._config.max_error)
        return found

    async def answer(self, look: Look, told: Asked, wish: Wish, key: str) -> Response | None:
        """The neighbours' answer, if it may be given; it is then counted, and perhaps audited."""
        if not look.serves or not wish.read or look.found is None:
            return None
        found = await self._exact.find(look.request, told, look.key, wish)
        if found is None and wish == NOTHING:
            self._rooms.remove(look.turn.partition, [look.key])  # it is gone
        if found is None or found.verdict != "fresh":
            return None
        response = self._exact.answer(look.request, told, found)
        if response is None:
            return None
        similarity = b"%.4f" % look.found.similarity
        headers = [(name, b"semantic" if name == b"x-weir-cache" else value) for name, value in response.headers]
        response.headers = [*headers, (b"x-weir-cache-similarity", similarity)]
        learner = self.learner(look.request.exchange.identity.tenant)
        learner.seen(look.found.features, look.score, served=True)
        if self._shared is not None:
            wrong = Label(tuple(look.found.features.tolist()), look.score, right=False, group=look.group)
            self._rated.gave(look.request.exchange.id, look.request.exchange.identity.tenant, wrong)
        share = learner.audit_share(look.score)
        if self._draw() < share:
            look.audit = 1 / share
            self._audit(look, key)
        return response

    def missed(self, look: Look, key: str, *, kept: bool, observing: bool = False) -> None:
        """Nothing was given: the answer that comes will teach. Observing, that is an audit of what would have been."""
        if look.found is not None:
            learner = self.learner(look.request.exchange.identity.tenant)
            learner.seen(look.found.features, look.score, served=look.serves)
            look.audit = float(observing and look.serves)
        if kept:
            self._expect(look, key)

    def _expect(self, look: Look, key: str) -> None:
        if len(self._expected) >= _EXPECTED:
            del self._expected[next(iter(self._expected))]
        self._expected[key] = look

    def _audit(self, look: Look, key: str) -> None:
        request, name = look.request, self._services.name

        async def run(background: Exchange) -> None:
            asked = request.using(exchange=background)
            response = await look.forward(asked)
            self._expect(look, key)
            self._exact.watch(background, response, key, asked, 0)
            if response.whole:
                response.held()
            else:
                await response.read()

        asking.detached(request.exchange, "audit", name, _AUDIT_S, run)
        self._services.metrics.decision(name, "audited")

    # --- learning

    def kept(self, entry: Entry) -> None:
        """The exact tier has kept an answer: if it is one that was waited for, learns from it."""
        look = self._expected.pop(entry.key, None)
        if look is not None and self._services.spawn is not None:
            self._services.spawn(self._learn(look, entry), "learn from an answer")

    async def _learn(self, look: Look, entry: Entry) -> None:
        try:
            text = said(entry.dialect, orjson.loads(entry.body))
        except ValueError:
            return
        if text is None:
            return
        tenant = look.request.exchange.identity.tenant
        room = self._rooms.get(look.turn.partition, tenant) or self._room(tenant)
        answer, (group, joined) = await asyncio.to_thread(self._compared, text, room, look.near)
        right: bool | None = look.group == group or look.group in joined
        if look.found is not None and not right and self._config.judge is not None:
            right = await self._judged(look, text)
            if right:
                group, joined = look.group, (*joined, group)
        label = None
        if look.found is not None and right is not None:
            label = Label(tuple(look.found.features.tolist()), look.score, right, look.group, look.audit)
        stored = self._stored(look, entry, answer, group, joined, room.beside(look.near))
        message = Message(self._owner, tenant, time.time_ns(), stored, label)
        self._apply(message)
        if self._shared is not None:
            self._shared.keep(stored)
            await self._shared.publish(message)

    def _compared(self, text: str, room: Room, near: Near | None) -> tuple[Answer, tuple[bytes, tuple[bytes, ...]]]:
        answer = answer_of(text)
        return answer, room.grouped(answer, near, similar=self._config.equal != "text")

    async def _judged(self, look: Look, fresh: str) -> bool | None:
        """What the judge says of the fresh answer and the neighbours'."""
        made = self._tiers.near(look.key) or await self._tiers.find(look.key)
        if made is None or self._config.judge is None:
            return None
        old = said(made.entry.dialect, orjson.loads(made.entry.body))
        if old is None:
            return None
        name = self._services.name
        return await asking.judged(look.request, look.forward, self._config.judge, look.turn.text, (old, fresh), name)

    def _stored(
        self, look: Look, entry: Entry, answer: Answer, group: bytes, joined: tuple[bytes, ...], beside: bytes | None
    ) -> Stored:
        asked = look.asked
        return Stored(
            look.request.exchange.identity.tenant,
            look.turn.partition,
            entry.key,
            look.turn.text,
            asked.tokens.tobytes(),
            half(asked.vector),
            entry.made_s,
            group,
            answer,
            beside,
            joined,
        )

    async def _wrong(self, tenant: str, label: Label) -> None:
        """A client says that an answer which was given was wrong."""
        message = Message(self._owner, tenant, time.time_ns(), None, label)
        self._services.metrics.decision(self._services.name, "rated_wrong")
        self._apply(message)
        if self._shared is not None:
            await self._shared.publish(message)

    def _apply(self, message: Message) -> None:
        """Takes in what this or another worker tells, unless it was forgotten since."""
        if message.at_ns <= self._forgotten_ns.get(message.tenant, 0):
            return
        stored = message.stored
        if stored is not None and stored.made_s + self._ttl_s > self._wall():
            room = self._rooms.add(stored)
            if self._loading:
                self._arrived.append(stored)
            if room.partition.wants_index and not room.building:
                room.building = True
                self._spawn(self._index(room), "build a graph")
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
        self._tell(tenant)

    async def _index(self, room: Room) -> None:
        room.partition.take(await asyncio.to_thread(built, *room.partition.to_index()))
        room.building = False

    async def _fit(self, tenant: str) -> None:
        """Fits the score anew, for all workers."""
        try:
            learner = self.learner(tenant)
            examples = learner.examples()
            if self._shared is not None and not await self._shared.may_fit(tenant):
                return
            parts = fit_to_bytes(await asyncio.to_thread(fitted_by, examples))
            await self._adopt(tenant, parts)
            if self._shared is not None:
                now_ns = time.time_ns()
                await self._shared.publish(Message(self._owner, tenant, now_ns, fit=parts))
                await self._shared.save(tenant, {**learner.saved(), "at_ns": now_ns})
        finally:
            self._fitting.discard(tenant)

    async def _adopt(self, tenant: str, parts: tuple[bytes, ...]) -> None:
        learner, made = self.learner(tenant), fit_of(parts)
        learner.adopt(made, *await asyncio.to_thread(rescored, made, *learner.rows()))
        await self._think(tenant)

    # --- remembering

    async def _remember(self, shared: Shared) -> None:
        """Reads what was written before, then hears the others, and writes what is new."""
        entries, learnt = await shared.past()
        self._forgotten_ns.update(await shared.forgotten())
        now_s = self._wall()
        rooms = self._rooms
        fresh = [stored for stored in entries if stored.made_s + self._ttl_s > now_s]
        if fresh:
            rooms = Rooms(self._config.entries, self._room)
            await asyncio.to_thread(lambda: [rooms.add(stored) for stored in fresh])
            self._rooms = rooms
            for stored in self._arrived:
                rooms.add(stored)
        self._loading = False
        self._arrived.clear()
        for tenant, state in learnt:
            if self.learner(tenant).restored(state):
                self._known_ns[tenant] = int(state["at_ns"])
                self._tell(tenant)
        for room in self._rooms:
            if room.partition.wants_index:
                room.building = True
                self._spawn(self._index(room), "build a graph")
        self._tell()
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(shared.follow(self._apply), name="semantic cache: the others"))
        while True:
            await asyncio.sleep(FLUSH_S)
            await shared.flush()

    def forget(self, told: Eviction) -> None:
        """Evicted entries, or a tenant: their vectors go too."""
        if told.keys:
            self._rooms.remove_keys(list(told.keys))
        if told.tag is not None and told.tag.startswith("tenant="):
            tenant = told.tag.removeprefix("tenant=")
            self._rooms.remove_tenant(tenant)
            self._forgotten_ns[tenant] = time.time_ns()
            if self._shared is not None:
                self._shared.drop(tenant)
            self._learners.pop(tenant, None)
            self._known_ns.pop(tenant, None)
            self._tell(tenant)
            self._standing.pop(tenant, None)

    async def aclose(self) -> None:
        """Stops hearing, and writes what is known."""
        for task in self._tasks:
            task.cancel()
        await self.save()

    async def save(self) -> None:
        """Writes what is known."""
        if self._shared is None:
            return
        await self._shared.flush()
        for tenant, learner in list(self._learners.items()):
            if learner.labels:
                await self._shared.save(tenant, {**learner.saved(), "at_ns": time.time_ns()})

    # --- telling

    def status(self, tenant: str) -> dict[str, Any]:
        """How a tenant's guarantee stands."""
        learner = self.learner(tenant)
        rate, least, most = learner.realised()
        return {
            "policy": self._services.name,
            "status": learner.status,
            "max_error": learner.max_error,
            "threshold": learner.threshold if learner.status == "certified" else None,
            "labels": learner.labels,
            "questions": learner.asked,
            "audited_error": rate,
            "audited_error_between": [least, most],
            "entries": sum(len(room.partition) for room in self._rooms if room.tenant == tenant),
        }

    def _tell(self, tenant: str | None = None) -> None:
        """Metrics: how many tenants stand how, and what their audits found."""
        metrics, name = self._services.metrics, self._services.name
        if tenant is not None:
            learner = self._learners.get(tenant)
            before, after = self._standing.get(tenant, _NOTHING), _NOTHING if learner is None else _standing(learner)
            self._totals = tuple(all_ - was + now for all_, was, now in zip(self._totals, before, after, strict=True))
            self._standing[tenant] = after
        metrics.level(name, "cache_semantic_entries", self._rooms.entries)
        for level, amount in zip(_LEVELS, self._totals, strict=True):
            metrics.level(name, f"cache_semantic_{level}", amount)

    def _room(self, tenant: str) -> Room:
        return Room(tenant)

    def _spawn(self, work: Any, name: str) -> None:
        assert self._services.spawn is not None
        self._services.spawn(work, name)


def _standing(learner: Learner) -> tuple[float, ...]:
    status, (rate, audits) = learner.status, learner.audited()
    stands = [float(status == each) for each in ("gathering", "certified", "suspended")]
    return (*stands, learner.threshold if status == "certified" else 0.0, audits, rate * audits)


_LEVELS: Final = ("gathering", "certified", "suspended", "threshold", "audits", "wrong")
_NOTHING: Final = (0.0,) * len(_LEVELS)


def sentence_of(config: Semantic) -> Sentence | None:
    """The small transformer, where it is asked for."""
    return Sentence(Path(config.model)) if config.embedder == "minilm" and config.model is not None else None


def embedder_of(static: Static, config: Semantic, sentence: Sentence | None) -> str:
    """The name and version of what makes the vectors: part of every partition."""
    if sentence is not None:
        return sentence.name
    return static.name if config.embedder == "static" else f"upstream:{config.model}"


def kind_of(embedder: str, config: Semantic) -> str:
    """What entries and labels of different kinds must not be mixed by."""
    return f"{embedder}/{config.equal}/{config.max_error:g}"
