"""The semantic tier as requests meet it: looks for an answer, gives it, and learns from the answers that come anyway.

Rules (what is known, and how it is learnt and shared, has its own in `knowledge.py`):
1. Looking and deciding take less than a millisecond and happen on the loop.
2. An answer given is an entry of the exact tier: what that has forgotten, this forgets too.
3. A miss teaches what its neighbours' answer would have been worth; a hit teaches only if it is audited: then upstream
   is asked as well, in an exchange that no client waits for.
4. Whatever fails here is a miss.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import msgspec
import orjson

from policies.cache.entry import Entry
from policies.cache.exact import ExactTier
from policies.cache.freshness import NOTHING, Wish
from policies.cache.key import Asked
from policies.cache.options import Config
from policies.cache.semantic import asking
from policies.cache.semantic.equality import Answer, answer_of
from policies.cache.semantic.features import Candidate, Question, candidate, question
from policies.cache.semantic.knowledge import Knowledge
from policies.cache.semantic.learner import Label
from policies.cache.semantic.partition import Near
from policies.cache.semantic.rated import Rated
from policies.cache.semantic.room import Room, Stored, half
from policies.cache.semantic.static import Static
from policies.cache.semantic.turn import Turn, said, turn_of
from policies.cache.semantic.vectors import embedder_of, kind_of, sentence_of
from policies.cache.tiers import Eviction, Tiers
from proxy.chain import Services
from proxy.exchange import Exchange, Forward, Request
from proxy.response import Response

FEWEST: Final = 5  # entries of a partition before its neighbours say anything
_AUDIT_S: Final = 600.0
_EXPECTED: Final = 10_000


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
        self._vary = frozenset(name.lower().encode() for name in config.exact.vary)
        self._services = services
        self._exact = exact
        self._tiers = tiers
        self._draw = draw
        self._static = Static()
        self._model = self._config.model if self._config.embedder == "upstream" else None
        self._sentence = sentence_of(self._config)
        self._embedder = embedder_of(self._static, self._config, self._sentence)
        self._expected: dict[str, Look] = {}
        self._rated = Rated(self._wrong)
        self._rating: asyncio.Task[None] | None = None
        kind = kind_of(self._embedder, self._config)
        self.knowledge = Knowledge(self._config, services, config.exact.ttl, wall, owner, kind)
        if services.store is not None:
            following = self._rated.follow(services.store)
            self._rating = asyncio.get_running_loop().create_task(following, name="semantic cache: ratings")

    def __repr__(self) -> str:
        rooms = self.knowledge.rooms
        return f"<SemanticTier {rooms.entries} entries in {len(rooms)} partitions>"

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
        room = self.knowledge.rooms.get(turn.partition, tenant)
        if room is None or len(room.partition) < FEWEST or room.partition.dimensions != len(asked.vector):
            return look
        learner = self.knowledge.learner(tenant)
        look.near = room.partition.nearest(asked.vector)
        if look.near is None:
            return look
        found = candidate(
            asked, look.near, room.partition, self._static, lambda group: learner.record(room.name(group))
        )
        held = room.partition.held[found.place]
        assert held is not None
        look.found, look.group, look.key = found, room.name(found.group), held.key
        look.score, look.threshold = learner.weights.score(found.features), learner.least(found.features)
        look.serves = learner.serves(found.features, look.score)
        return look

    async def answer(self, look: Look, told: Asked, wish: Wish, key: str) -> Response | None:
        """The neighbours' answer, if it may be given; it is then counted, and perhaps audited."""
        if not look.serves or not wish.read or look.found is None:
            return None
        found = await self._exact.find(look.request, told, look.key, wish)
        if found is None and wish == NOTHING:
            self.knowledge.rooms.remove(look.turn.partition, [look.key])  # it is gone
        if found is None or found.verdict != "fresh":
            return None
        response = self._exact.answer(look.request, told, found)
        if response is None:
            return None
        similarity = b"%.4f" % look.found.similarity
        headers = [(name, b"semantic" if name == b"x-weir-cache" else value) for name, value in response.headers]
        response.headers = [*headers, (b"x-weir-cache-similarity", similarity)]
        learner = self.knowledge.learner(look.request.exchange.identity.tenant)
        learner.seen(look.found.features, look.score, served=True)
        if self._rating is not None:
            wrong = Label(tuple(look.found.features.tolist()), look.score, right=False, group=look.group)
            self._rated.gave(look.request.exchange.id, look.request.exchange.identity.tenant, wrong)
        share = learner.audit_share(look.found.features, look.score)
        if self._draw() < share:
            look.audit = 1 / share
            self._audit(look, key)
        return response

    def missed(self, look: Look, key: str, *, kept: bool, observing: bool = False) -> None:
        """Nothing was given: the answer that comes will teach. Observing, that is an audit of what would have been."""
        if look.found is not None:
            learner = self.knowledge.learner(look.request.exchange.identity.tenant)
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
        room = self.knowledge.room(look.turn.partition, tenant)
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
        await self.knowledge.learn(tenant, stored, label)

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
        self._services.metrics.decision(self._services.name, "rated_wrong")
        await self.knowledge.learn(tenant, None, label)

    # --- from the policy

    def forget(self, told: Eviction) -> None:
        """Evicted entries, or a tenant."""
        self.knowledge.forget(told)

    def status(self, tenant: str) -> dict[str, Any]:
        """How a tenant's guarantee stands."""
        return self.knowledge.status(tenant)

    async def aclose(self) -> None:
        """Stops hearing, and writes what is known."""
        if self._rating is not None:
            self._rating.cancel()
        await self.knowledge.aclose()
