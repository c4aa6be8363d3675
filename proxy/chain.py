"""The chain: policies around `dispatch`, compiled once for a configuration.

    async def policy(request: Request, forward: Forward) -> Response

What lives here: building policies, their common envelope (`match`, `unless`, `mode`, `rollout`, `holdout`, bypass),
and the order. A policy without conditions is bound to what follows it and costs nothing more than its own call.

Rules:
1. File order is onion order, outermost first.
2. A chain is swapped whole. An exchange keeps the chain that it began with; a policy whose entry did not change keeps
   its instance.
3. The bypass switch leaves what a policy module declares `ESSENTIAL` (access, hard budgets); everything else steps
   aside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from proxy.config import Configuration, PolicyEntry, PolicyModule, Registry, installed
from proxy.config.conditions import Predicate
from proxy.control import Lookup
from proxy.exchange import Forward, Request, Spawn
from proxy.gently import Steps
from proxy.matching import Matchable
from proxy.metrics import Metrics
from proxy.objects.makers import Objects
from proxy.ready import Answers
from proxy.remembered import Bodies
from proxy.response import Response
from proxy.rollout.observe import observed
from proxy.rollout.watched import Watched
from proxy.state.protocol import Store
from proxy.state.purse import Purse
from proxy.tokens import Estimator


class Policy(Protocol):
    """One onion layer. May also have `aclose()`, awaited when it is no longer part of any chain."""

    async def __call__(self, request: Request, /, forward: Forward) -> Response:
        """Answers the request itself, or by `forward`: once, several times, with a changed copy, or not at all."""


class Services(msgspec.Struct, frozen=True):
    """What a policy is built with, besides its own configuration."""

    name: str
    source: str
    observing: bool
    configuration: Configuration
    metrics: Metrics
    clock: Callable[[], float]
    log: Callable[..., object]
    objects: Objects
    store: Store | None = None  # what workers share; None where there is none, as in `weir explain`
    spawn: Spawn | None = None
    purse: Purse | None = None  # what this worker reserves from, in the same Store
    lookup: Lookup | None = None  # asks the supervisor
    tokens: Estimator | None = None  # of inputs, before they are counted
    bodies: Bodies | None = None  # where it may have bodies remembered that it expects again
    ready: Answers | None = None  # where it may offer answers that it would give again
    spares: Callable[[], bool] = lambda: True  # whether this worker has room for what no client waits for


class Built(msgspec.Struct, frozen=True):
    """A policy, its entry, and what its module says of it."""

    entry: PolicyEntry
    policy: Policy
    essential: bool
    watched: Watched | None = None  # where the entry has a guardrail


class Chain:
    """The compiled chain of one configuration. `forward` is its outermost call."""

    def __init__(self, built: list[Built], dispatch: Forward, bypass_names: frozenset[str]) -> None:
        self.built = built
        self.dispatch = dispatch
        self.outermost = built[0].policy if built and _always(built[0]) else None  # if it has its say of each request
        self.forward = compose(built, dispatch, bypass_names)
        self.essential = compose([item for item in built if item.essential], dispatch, frozenset())
        self.running = 0  # exchanges that began with this chain and have not ended
        self._idle: asyncio.Event | None = None

    def left(self) -> None:
        """An exchange that began with this chain has ended."""
        self.running -= 1
        if self._idle is not None and not self.running:
            self._idle.set()

    async def idle(self) -> None:
        """Waits until no exchange uses this chain any more; it must no longer be given to new ones."""
        self._idle = asyncio.Event()
        if self.running:
            await self._idle.wait()

    def __repr__(self) -> str:
        return f"<Chain {' ▸ '.join([item.entry.name for item in self.built] + ['dispatch'])}>"


def build(
    configuration: Configuration,
    dispatch: Forward,
    services: Callable[[PolicyEntry], Services],
    previous: Chain | None = None,
    registry: Registry | None = None,
    discard: Callable[[Policy], object] = lambda policy: None,
) -> Steps[Chain]:
    """Compiles the chain, a policy a step; those that `previous` has with an equal entry, wherever that stands, are
    taken over.

    Raises what a policy that can't be built raises; `discard` is then called with those that were built before it.
    """
    registry = installed() if registry is None else registry
    kept = {item.entry.name: item for item in (previous.built if previous else ())}
    built: list[Built] = []
    for entry in configuration.policies:
        if entry.mode == "off":
            continue
        old = kept.get(entry.name)
        try:
            taken = _taken(old, entry) if old else None
            built.append(taken or _build(entry, services(entry), registry))
            yield
        except BaseException:
            living = {id(item.policy) for item in kept.values()}
            for item in built:
                if id(item.policy) not in living:
                    discard(item.policy)
            raise
    return Chain(built, dispatch, frozenset(configuration.honour.bypass))


def _taken(old: Built, entry: PolicyEntry) -> Built | None:
    """The same policy for an equal entry; with its compiled conditions, if it stands where it stood."""
    if not old.entry.alike(entry):
        return None
    return old if old.entry.source == entry.source else Built(entry, old.policy, old.essential, old.watched)


def _build(entry: PolicyEntry, services: Services, registry: Registry) -> Built:
    module: PolicyModule = registry[entry.use]()
    config = module.Config.model_validate(entry.options)
    policy, essential = module.build(config, services), bool(getattr(module, "ESSENTIAL", False))
    watch = entry.guardrail is not None and entry.mode == "on"
    return Built(entry, policy, essential, Watched(entry, services.metrics) if watch else None)


def compose(built: list[Built], dispatch: Forward, bypass_names: frozenset[str]) -> Forward:
    """Nests the policies around `dispatch`."""
    forward = dispatch
    for item in reversed(built):
        forward = _layer(item, forward, bypassable=item.entry.name in bypass_names)
    return forward


def _always(item: Built) -> bool:
    """Whether a policy applies to all requests that don't name it in `x-weir-bypass`."""
    entry = item.entry
    return entry.predicate is None and not _drawn(entry) and entry.mode == "on" and item.watched is None


def _drawn(entry: PolicyEntry) -> bool:
    """Whether some requests are left out by lot."""
    return entry.rollout < 1 or entry.holdout > 0


def _layer(item: Built, forward: Forward, bypassable: bool) -> Forward:
    entry, policy = item.entry, item.policy
    call: Policy = policy
    if entry.mode == "observe":
        call = partial(observed, policy, entry.name, entry.source)
    applies = entry.predicate
    drawn = _drawn(entry)
    if applies is None and not drawn and not bypassable and item.watched is None:
        return partial(call, forward=forward)
    return _enveloped(call, forward, item, applies, drawn, bypassable)


def _enveloped(
    call: Policy,
    forward: Forward,
    item: Built,
    applies: Predicate | None,
    drawn: bool,
    bypassable: bool,
) -> Forward:
    """A layer that first asks whether its policy applies."""
    entry, watched = item.entry, item.watched
    name, source = entry.name, entry.source
    measured = drawn and entry.mode == "on"

    async def layer(request: Request) -> Response:
        exchange = request.exchange
        if bypassable and name in exchange.bypass:
            exchange.note(name, "bypassed", source)
            return await forward(request)
        if applies is not None and not applies(Matchable(request)):
            return await forward(request)
        if drawn and (arm := entry.arm(sticky(request))) != "in":
            exchange.note(name, "holdout" if arm == "holdout" else "not_rolled_out", source)
            if watched is not None:
                watched.control(exchange)
            return await forward(request)
        if measured:  # the ledger sums both groups
            exchange.note(name, "treated", source)
        if watched is not None:
            watched.treated(exchange)
        return await call(request, forward=forward)

    return layer


_STICKY_HEADER: Final = b"x-weir-conversation"


def sticky(request: Request) -> str:
    """What `rollout` and `holdout` are stable by: the conversation where the client names one, else its key."""
    identity = request.exchange.identity
    for name, value in request.headers:
        if name == _STICKY_HEADER:
            return f"{identity.tenant}:{value.decode('latin-1')}"
    for field in ("prompt_cache_key", "conversation", "user"):
        if isinstance(value := request.field(field), str):
            return f"{identity.tenant}:{value}"
    return identity.key or identity.tenant


async def close_dropped(old: Chain, living: Iterable[Chain]) -> None:
    """Closes the policies of `old` that no living chain has. One that fails to close doesn't keep the others open."""
    kept = {id(item.policy) for chain in living for item in chain.built}
    failures = []
    for item in old.built:
        if id(item.policy) not in kept:
            try:
                await close(item.policy)
            except Exception as error:
                failures.append(error)
    if failures:
        raise failures[0]


async def close(policy: Policy) -> None:
    """Closes a policy that is part of no chain any more, if it wants to know."""
    closing: Any = getattr(policy, "aclose", None)
    if closing is not None:
        await closing()
