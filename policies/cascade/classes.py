"""The classes of traffic of one cascade in one worker: found, told, kept, fitted.

Rules:
1. Evidence is about two models as they are deployed, a judge and a rule of acceptance: where any of them changes, it
   begins anew (`kind`).
2. There are `MOST` classes at most; what comes later shares one.
3. One worker has scores fitted and clusters learnt, for all, in processes of their own, and begins when it has room to
   spare.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

from policies.cascade.answers import Asked
from policies.cascade.config import Config
from policies.cascade.evidence import Evidence
from policies.cascade.learning.apart import fitted_apart
from policies.cascade.shared import FLUSH_S, Clustered, Fitted, Message, Order, Shared, Traffic, What, report_of
from proxy.chain import Services
from proxy.exchange import Exchange
from proxy.state.protocol import StateLost

if TYPE_CHECKING:
    from policies.cascade.clusters import Clusters

MOST: Final = 500
KEEP_S: Final = 30.0
OTHERS: Final = "others"
_CLUSTERS: Final = "clusters"  # under this name they are kept, among the classes
_STATUSES: Final = ("gathering", "certified", "infeasible", "reverted")


class Count(msgspec.Struct):
    """What this worker did in a class, and hasn't told yet."""

    requests: int = 0
    small: int = 0
    escalated: int = 0
    saved_nanos: int = 0
    spent_nanos: int = 0
    gates: dict[str, int] = {}


class Classes:
    """All of them. `wall` gives Unix time in seconds."""

    def __init__(self, config: Config, services: Services, owner: str, wall: Callable[[], float] = time.time) -> None:
        self._config, self._services, self._wall = config, services, wall
        self.kind = kind_of(config, services)
        self.clusters = None if config.clusters is None else _clusters(config.clusters)
        self._known: dict[str, Evidence] = {}
        self._counts: dict[str, Count] = {}
        self._changed: set[str] = set()
        self._fitting: set[tuple[str, int]] = set()
        self._at = self._divided_at = ""
        self._knows: dict[str, tuple[int, ...]] = {}  # restored classes, and the position up to which they know
        self._kept_s = -KEEP_S
        self._told = {
            "rungs": list(config.rungs),
            "shadow_rate": config.shadow_rate,
            "observing": services.observing,
            "until_certified": config.until_certified,
            "judge": config.judge.equality or config.judge.model or "feedback",
        }
        self._shared = Shared(services.store, services.name, owner, self._hear)
        self._tasks: list[asyncio.Task[None]] = []
        if services.store is not None:
            loop = asyncio.get_running_loop()
            self._tasks.append(loop.create_task(self._remember(), name="cascade: the past"))
            self._tasks.append(loop.create_task(self._rounds(), name="cascade: telling"))

    def __repr__(self) -> str:
        return f"<Classes {list(self._known.values())}>"

    def __iter__(self) -> Any:
        return iter(list(self._known.values()))

    def name_of(self, exchange: Exchange, asked: Asked, how: str) -> str:
        """The class of a request: how its answer is looked at, what `per` names, and what it asks."""
        identity, parts = exchange.identity, [how]
        for each in self._config.per:
            if each == "template":
                parts.append(hashlib.blake2b(asked.template.encode("utf-8", "replace"), digest_size=4).hexdigest())
            else:
                parts.append(str(getattr(identity, each) or "-"))
        if self.clusters is not None:
            parts.append(self.clusters.name_of(asked.question))
            if self._services.spawn is not None and self._services.spares() and self.clusters.due():
                self._services.spawn(self._learn(self.clusters), "learn a cascade's clusters")
        return "/".join(parts)

    @property
    def sorted(self) -> bool:
        """Whether classes are what they are going to be: of others nothing is learnt."""
        return self.clusters is None or bool(self.clusters.version)

    def of(self, name: str) -> Evidence:
        """What is known of a class."""
        found = self._known.get(name)
        if found is None:
            if len(self._known) >= MOST:
                name = OTHERS
            found = self._known.setdefault(name, self._new(name))
        return found

    def _new(self, name: str) -> Evidence:
        return Evidence(name, self.kind, self._config.max_quality_loss, 1 - self._config.confidence)

    def count(self, evidence: Evidence) -> Count:
        """Where this worker counts what it does."""
        return self._counts.setdefault(evidence.name, Count())

    # --- telling and hearing

    async def tell(self, evidence: Evidence, what: What) -> None:
        """Tells all workers."""
        await self._shared.tell(Message(evidence.name, self.kind, what))

    def _hear(self, message: Message, position: str) -> None:
        self._at = position
        if message.kind not in (self.kind, ""):
            return  # of an entry as it was before, or is elsewhere
        if self.clusters is not None and self._hear_of_clusters(self.clusters, message, position):
            return
        if isinstance(message.what, Order):
            named = [each for each in self._known.values() if message.name in ("", each.name)]
        else:
            named = [self.of(message.name)]
        at = _order(position)
        for evidence in named:
            if at > self._knows.get(evidence.name, ()):
                try:
                    self._apply(evidence, message.what)
                except (
                    ArithmeticError,
                    LookupError,
                    TypeError,
                    ValueError,
                ) as error:  # one message mustn't end learning
                    name = self._services.name
                    self._services.log("error", "cascade_message_failed", policy=name, error=type(error).__name__)
        self.measure()

    def _hear_of_clusters(self, clusters: Clusters, message: Message, position: str) -> bool:
        """Whether a message was about these alone, or about a class that isn't any more."""
        what = message.what
        if isinstance(what, Clustered):
            if clusters.take(what):
                self._services.log("info", "cascade_clusters", policy=self._services.name, version=clusters.version)
                self._sort(clusters)
            return True
        if isinstance(what, Order):
            if what.what == "reset" and not message.name and _order(position) > self._knows.get(_CLUSTERS, ()):
                clusters.forget()
                self._divided_at = position
                self._sort(clusters)
            return False
        return not self._current(message.name)

    def _current(self, name: str) -> bool:
        """Whether a class is one of the present division."""
        return self.clusters is None or name == OTHERS or self.clusters.current(name)

    def _sort(self, clusters: Clusters) -> None:
        """Forgets the classes of another division."""
        gone = [name for name in self._known if not self._current(name)]
        for name in gone:
            self._known.pop(name)
            self._counts.pop(name, None)
            self._changed.discard(name)
        gone += [] if clusters.version else [_CLUSTERS]
        if gone and self._services.spawn is not None:
            self._services.spawn(self._shared.forget(gone), "forget a cascade's classes")

    async def _learn(self, clusters: Clusters) -> None:
        try:
            if await self._shared.may_fit(f"{_CLUSTERS}/{self.kind}/{self._divided_at}"):
                found = await clusters.learnt()
                if found is not None:
                    await self._shared.tell(Message("", self.kind, found))
        finally:
            clusters.over()

    def _apply(self, evidence: Evidence, what: What) -> None:
        before = evidence.status
        evidence.hear(what)
        self._changed.add(evidence.name)
        if evidence.status != before:
            level = "warning" if evidence.status in ("reverted", "infeasible") else "info"
            name = self._services.name
            self._services.log(level, f"cascade_{evidence.status}", policy=name, traffic=evidence.name)
        number, services = evidence.wants_fit, self._services
        if number is None or (evidence.name, number) in self._fitting or services.spawn is None:
            return
        if services.spares():  # else when the next one tells
            self._fitting.add((evidence.name, number))
            services.spawn(self._fit(evidence, number), "fit a cascade's score")

    async def _fit(self, evidence: Evidence, number: int) -> None:
        begun = evidence.begun
        try:
            if not await self._shared.may_fit(f"{evidence.name}/{self.kind}/{begun}/{number}"):
                return
            dumped = await fitted_apart(evidence.fitting())
            if dumped is not None and evidence.begun == begun:
                await self.tell(evidence, Fitted(number, dumped))
        finally:
            self._fitting.discard((evidence.name, number))

    # --- remembering

    async def _remember(self) -> None:
        """Reads what was known, then hears all workers."""
        while True:
            try:
                past = await self._shared.past()
                break
            except StateLost:
                await asyncio.sleep(1.0)
        for state in past:
            if state.get("kind") != self.kind:
                continue
            try:
                name, evidence = str(state["name"]), self._new(str(state["name"]))
                evidence.restore(state)
                self._knows[name] = _order(str(state["at"]))
            except (ValueError, KeyError, TypeError):
                continue  # another version's
            self._known[name] = evidence
        if self.clusters is not None:
            self._divide(self.clusters, past)
        self.measure()
        others = [name for state in past if (name := str(state.get("name"))) not in self._known]
        await self._shared.forget(others, (report_of,))  # of an entry as it was; whoever still goes by it tells again
        oldest = min(self._knows.values(), default=())
        await self._shared.follow("-".join(map(str, oldest)))

    def _divide(self, clusters: Clusters, past: list[dict[str, Any]]) -> None:
        """Takes over the division that was known, and only the classes that are of it."""
        for state in past:
            if state.get("kind") == self.kind and state.get("name") == _CLUSTERS:
                try:
                    clusters.take(msgspec.convert(state, Clustered))
                    self._knows[_CLUSTERS] = _order(str(state["at"]))
                except (msgspec.ValidationError, ValueError, KeyError):
                    continue  # another version's
        self._known = {name: each for name, each in self._known.items() if self._current(name)}

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self, over: bool = False) -> None:
        """Tells what was counted, and writes what has changed: how it stands, and from time to time all of it."""
        counts, self._counts = self._counts, {}
        for name, count in counts.items():
            told = Traffic(self._wall(), **{field: getattr(count, field) for field in Count.__struct_fields__})
            await self._shared.tell(Message(name, self.kind, told))
        if self._services.store is None or not self._changed:
            return
        whole = over or self._services.clock() - self._kept_s >= KEEP_S
        changed = [each for name, each in self._known.items() if name in self._changed]
        reports = {each.name: {**self._told, **each.report(), **self._cluster(each.name)} for each in changed}
        states = {each["name"]: {**each, "at": self._at} for each in self._states(changed)} if whole else {}
        if await self._shared.keep(reports, states) and whole:
            self._kept_s = self._services.clock()
            self._changed -= reports.keys()

    def _cluster(self, name: str) -> dict[str, Any]:
        return {} if self.clusters is None else self.clusters.report(name)

    def _states(self, changed: list[Evidence]) -> list[dict[str, Any]]:
        """What is to be kept; what classes are divided by comes first."""
        divided = None if self.clusters is None else self.clusters.state()
        first = [] if divided is None else [{"name": _CLUSTERS, "kind": self.kind, **divided}]
        return [*first, *[each.state() for each in changed]]

    async def aclose(self) -> None:
        """Tells and writes what is left, and hears no more."""
        await self.flush(over=True)
        for task in self._tasks:
            task.cancel()
        await self._shared.resign()

    # --- metrics

    def measure(self) -> None:
        """How many classes stand how, and what they stand on."""
        metrics, name = self._services.metrics, self._services.name
        known = list(self._known.values())
        for status in _STATUSES:
            metrics.level(name, f"cascade_{status}", sum(each.status == status for each in known))
        metrics.level(name, "cascade_pairs", sum(each.judged for each in known))


def _clusters(count: int) -> Clusters:
    try:
        from policies.cache.semantic.static import MissingPackageError
        from policies.cascade.clusters import Clusters

        return Clusters(count)
    except (ImportError, MissingPackageError) as error:
        raise ValueError(f"clusters need more packages: pip install 'weir-proxy[semantic]' ({error})") from None


def kind_of(config: Config, services: Services) -> str:
    """The digest of all that evidence must not be mixed by: the models as they are deployed, the judge, what is to be
    proven, of which traffic, and how answers are looked at."""
    judge = config.judge.model_dump(exclude={"labelled", "pairs"})
    models = {}
    for name in (*config.rungs, config.checker or config.small):
        found = services.configuration.deployment.models.get(name)
        models[name] = None if found is None else found.model_dump(mode="json")
    parts = [models, judge, config.max_quality_loss, config.confidence, config.tools, config.clusters]
    parts += [config.per, config.prefix_tokens, config.prefix_time, config.check]
    return hashlib.blake2b(orjson.dumps(parts, default=str, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


def _order(position: str) -> tuple[int, ...]:
    """Positions of a feed in their order: `12`, or `1700000000000-3`."""
    return tuple([int(part) if part.isdigit() else 0 for part in position.split("-")])
