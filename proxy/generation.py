"""All that follows from one configuration, and how one follows the other.

Rules:
1. A configuration is one `Generation`, built in small steps and swapped whole. An exchange keeps the one that it began
   with.
2. What a new one shares with the one before is taken over: upstreams with their connections, policies with what they
   have learnt, where nothing about them changed.
3. What can't be built changes nothing. What the old one alone had is closed once the last exchange that uses it has
   ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from proxy import chain as chains
from proxy.answer import AnswerLimits
from proxy.chain import Chain, Services
from proxy.clients.identity import Keys, Open, identities_of
from proxy.clients.keys import KeyRecord
from proxy.config import Configuration, PolicyEntry, Registry, globs
from proxy.control import Lookup
from proxy.cors import CorsRules
from proxy.deferred import Grounds, reached
from proxy.dispatch import Dispatch
from proxy.exchange import Exchange, Identity
from proxy.gently import Steps, at_once, gently
from proxy.journal import Journal
from proxy.metrics import Metrics
from proxy.models import Catalogue
from proxy.objects.makers import RemoteObjects
from proxy.pressure.priority import Ranks
from proxy.pricing import RateCards
from proxy.ready import Answers
from proxy.remembered import Bodies
from proxy.state.protocol import Store
from proxy.state.purse import Purse
from proxy.tasks import Tasks
from proxy.tokens import Estimator
from proxy.upstreams import Routes, Upstream
from proxy.wire.connect import Connector
from proxy.wire.ticker import Ticker

T = TypeVar("T")
_LEVELS: Final = {"deployment_closed": "info", "upstream_key_accepted": "info", "upstream_key_aside": "error"}


class Generation:
    """A configuration as a data plane acts on it."""

    def __init__(
        self,
        configuration: Configuration,
        chain: Chain,
        dispatch: Dispatch,
        keys: Open | Keys,
        tasks: Tasks,
        on_end: Callable[[str, Exchange], object],
    ) -> None:
        deployment = configuration.deployment
        self.configuration = configuration
        self.chain = chain
        self.dispatch = dispatch
        self.identities = keys
        self.limits = deployment.limits
        self.heartbeat_s = deployment.heartbeat_s
        self.catalogue = Catalogue(configuration)
        self.ranks = Ranks(deployment.overload.priorities)
        self.cors = CorsRules(deployment.cors) if deployment.cors else None
        self.on_end = partial(on_end, configuration.policy_hash)
        self._tasks = tasks
        self._allowed: dict[tuple[str, ...], Callable[[str], bool]] = {}

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Background work of an exchange: it uses the chain as long as it runs."""
        self.chain.running += 1
        task = self._tasks.spawn(work, name)
        task.add_done_callback(lambda _: self.chain.left())
        return task

    def may_use(self, identity: Identity, model: str) -> bool:
        """Whether the key's own list of models has this one."""
        assert identity.models is not None
        matches = self._allowed.get(identity.models)
        if matches is None:
            matches = self._allowed[identity.models] = globs(list(identity.models))
        return matches(model)


class Surroundings(msgspec.Struct, frozen=True):
    """What a worker has, whatever its configuration."""

    journal: Journal
    metrics: Metrics
    connector: Connector
    ticker: Ticker
    env: Mapping[str, str]
    lookup: Lookup
    log: Callable[..., object]
    registry: Registry
    store: Store | None
    purse: Purse | None
    tokens: Estimator
    bodies: Bodies
    ready: Answers
    spares: Callable[[], bool]
    tasks: Tasks
    on_end: Callable[[str, Exchange], object]  # told of each exchange that ended, and the hash of its policies


class Generations:
    """The configurations of one worker, one after the other."""

    def __init__(
        self,
        surroundings: Surroundings,
        configuration: Configuration,
        keys: list[KeyRecord],
        cards: RateCards | None,
    ) -> None:
        self._with = surroundings
        self._clock = asyncio.get_running_loop().time
        self._keys = keys
        self._cards = cards
        self._signing: Mapping[str, list[dict[str, Any]]] = {}  # public keys of issuers
        self._chains: list[Chain] = []  # the present one, and those that running exchanges still use
        self.upstreams: dict[str, Upstream] = {}
        self.version = object()  # changes with whatever is found out of a request before its body is read
        self.now = at_once(self._build(configuration, keys, cards, None))

    async def replace(self, configuration: Configuration, keys: list[KeyRecord], cards: RateCards | None) -> None:
        """Swaps in another configuration; raises, and changes nothing, if it can't be built. One at a time."""
        old, old_upstreams = self.now, self.upstreams
        cards = cards if cards is not None else self._cards
        self.now = await gently(self._build(configuration, keys, cards, old))
        self._keys, self._cards = keys, cards
        self.version = object()
        self.warm()
        for name, upstream in old_upstreams.items():
            if self.upstreams.get(name) is not upstream:
                upstream.pool.close()
        self._with.tasks.spawn(self._retire(old), "retire chain")

    # --- building

    def _build(
        self,
        configuration: Configuration,
        keys: list[KeyRecord],
        cards: RateCards | None,
        previous: Generation | None,
    ) -> Steps[Generation]:
        around, upstreams = self._with, {}
        try:
            for name, config in configuration.deployment.upstreams.items():
                upstreams[name] = self._kept(name, configuration, previous) or Upstream(
                    name, config, configuration, around.connector, around.ticker, around.env, self._tell
                )
                yield
            dispatch = self._dispatch(configuration, upstreams, cards)
            made = yield from self._compiled(configuration, keys, dispatch, previous)
        except BaseException:
            for name, upstream in upstreams.items():
                if self.upstreams.get(name) is not upstream:
                    upstream.pool.close()
            raise
        self.upstreams = upstreams
        return made

    def _kept(self, name: str, configuration: Configuration, previous: Generation | None) -> Upstream | None:
        """The upstream of the generation before, with its connections, if nothing about it changed."""
        if previous is None or name not in self.upstreams:
            return None
        old, new = previous.configuration.deployment, configuration.deployment
        same = (old.upstreams[name], old.timeouts, old.keys) == (new.upstreams[name], new.timeouts, new.keys)
        return self.upstreams[name] if same else None

    def _compiled(
        self,
        configuration: Configuration,
        keys: list[KeyRecord],
        dispatch: Dispatch,
        previous: Generation | None,
    ) -> Steps[Generation]:
        around, tasks = self._with, self._with.tasks
        before = None if previous is None else previous.identities
        identities = yield from identities_of(configuration, keys, before, self._signing, self._unknown_key)
        chain = yield from chains.build(
            configuration,
            dispatch,
            lambda entry: self._services(entry, configuration),
            previous.chain if previous else None,
            around.registry,
            discard=lambda policy: tasks.spawn(chains.close(policy), "close policy"),
        )
        around.metrics.adopt(configuration.deployment.models)
        made = Generation(configuration, chain, dispatch, identities, tasks, around.on_end)
        self._chains.append(chain)
        for at, item in enumerate(chain.built):
            begin: Any = getattr(item.policy, "begin", None)
            if begin is not None:  # it works in the background too, by the layers inside of it
                inside = chains.compose(chain.built[at + 1 :], dispatch, frozenset())
                joining = [item for item in chain.built[:at] if item.essential]
                begin(Grounds(inside, chains.compose(joining, reached, frozenset()), dispatch, made.on_end))
                yield
        return made

    def _dispatch(
        self, configuration: Configuration, upstreams: dict[str, Upstream], cards: RateCards | None
    ) -> Dispatch:
        around, limits = self._with, configuration.deployment.limits
        return Dispatch(
            Routes(configuration, upstreams, self._clock),
            around.journal,
            around.metrics,
            AnswerLimits(
                limits.unary_buffer_bytes, limits.stream_buffer_bytes, limits.event_bytes, limits.unparsed_event_bytes
            ),
            cards,
            configuration.deployment.keys == "required",
            around.tokens,
            around.log,
            configuration.policy_hash,
        )

    def _services(self, entry: PolicyEntry, configuration: Configuration) -> Services:
        around = self._with
        return Services(
            entry.name,
            entry.source,
            entry.mode == "observe",
            configuration,
            around.metrics,
            self._clock,
            around.log,
            RemoteObjects(around.lookup),
            around.store,
            around.tasks.spawn,
            around.purse,
            around.lookup,
            around.tokens,
            around.bodies,
            around.ready,
            around.spares,
        )

    def _tell(self, event: str, **fields: Any) -> None:
        """Something happened to a deployment that operators want to know of."""
        self._with.metrics.count(event)
        self._with.log(_LEVELS.get(event, "warning"), event, **fields)

    # --- who may ask

    def set_keys(self, keys: list[KeyRecord]) -> None:
        """Takes over another table of virtual keys, from the next request on."""
        self._keys = keys
        self.version = object()
        if isinstance(self.now.identities, Keys):
            self.now.identities.replace(keys)

    def set_signing(self, signing: Mapping[str, list[dict[str, Any]]]) -> None:
        """Takes over other public keys of issuers: what was signed by those that are gone counts no longer."""
        if signing == self._signing:
            return
        self._signing = signing
        self.version = object()
        if isinstance(self.now.identities, Keys) and self.now.identities.tokens is not None:
            self.now.identities.tokens.adopt(signing)

    def _unknown_key(self, issuer: str) -> None:
        self._with.lookup("signing", issuer=issuer)

    # --- connections and ends

    def warm(self) -> None:
        """Opens the connections that the configuration wants ahead of the first request."""
        for upstream in self.upstreams.values():
            if upstream.config.pool.warm:
                self._with.tasks.spawn(upstream.pool.warm(upstream.config.pool.warm), "warm")

    @property
    def upstream_connections(self) -> int:
        """Open connections to all upstreams."""
        return sum(upstream.pool.open for upstream in self.upstreams.values())

    async def _retire(self, old: Generation) -> None:
        """Closes what no later chain took over, once the last exchange that uses it has ended."""
        await old.chain.idle()
        self._chains.remove(old.chain)
        await chains.close_dropped(old.chain, self._chains)

    async def aclose(self) -> None:
        """Ends connections and policies."""
        for upstream in self.upstreams.values():
            upstream.pool.close()
        while self._chains:
            await chains.close_dropped(self._chains.pop(), self._chains)
