"""What a request would meet, without sending it: every layer with its reason, where it would go, what it could cost.

Rules: pure functions over a `Configuration` and a `Request`; no I/O. The answer comes from the compiled conditions,
draws, routes and rate cards that the data plane uses, never from a copy of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from proxy.accounting import BYTES_A_TOKEN
from proxy.body import Body, scan
from proxy.chain import sticky
from proxy.config.conditions import Conditions, Facts
from proxy.config.globs import globs
from proxy.config.registry import PolicyModule, Registry, installed
from proxy.dialects.request import RequestFacts, facts
from proxy.endpoints import endpoint_of
from proxy.errors import PERMISSION, WeirError
from proxy.exchange import Exchange, Identity, Request
from proxy.intake import model_of, wishes
from proxy.matching import Matchable
from proxy.pricing import RateCards, is_regional, provider_of

if TYPE_CHECKING:
    from proxy.config.configuration import Configuration
    from proxy.config.policies import PolicyEntry
    from proxy.wire.headers import Headers

Verdict = Literal["applies", "observes", "off", "unmatched", "excluded", "not rolled out", "held out", "bypassed"]

_FACTS = {"tag": "tags", "size": "size_bytes"}
"""Conditions whose fact has another name."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One policy of the chain, and what it has to do with the request."""

    name: str
    use: str
    source: str
    verdict: Verdict
    reason: str
    foretold: str = ""
    """What the policy would do, where it can say so without running: its module's `foretell(config, request)`."""

    @property
    def met(self) -> bool:
        """Whether the request passes through it."""
        return self.verdict in ("applies", "observes")


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment that the request may go to, and how likely."""

    upstream: str
    url: str
    model: str
    share: float


@dataclass(frozen=True, slots=True)
class WorstCase:
    """What an attempt could cost. `output_cap` is per choice; None is no cap, and `nanodollars` then the input's alone.

    `nanodollars` is None where the price isn't known.
    """

    input_tokens: int
    output_cap: int | None
    choices: int
    nanodollars: int | None


@dataclass(frozen=True, slots=True)
class Route:
    """The offered name or pattern that the model falls under, and its deployments, likeliest first."""

    pattern: str
    balance: str
    targets: tuple[Target, ...]


def asked(
    configuration: Configuration, identity: Identity, path: str, headers: Headers, raw: bytes, method: str = "POST"
) -> Request:
    """The request that the chain would be given. Raises the `WeirError` that a client would get instead."""
    endpoint = endpoint_of(method, path)
    if endpoint is None:
        raise WeirError(404, f"There is no endpoint {path}; they begin with /v1/.", code="unknown_path")
    wished = wishes(headers, configuration, identity.tags)
    body = scan(raw, configuration.deployment.limits.nesting) if endpoint.parsed else raw
    model = None if isinstance(body, bytes) else model_of(body)
    if identity.models is not None and model is not None and not globs(identity.models)(model):
        raise WeirError(403, f"This key may not use the model `{model[:200]}`.", type=PERMISSION, param="model")
    exchange = Exchange(identity, endpoint=endpoint.name, asked=model, tags=wished.tags, bypass=wished.bypass)
    return Request(exchange, endpoint, method, path.encode(), path.partition("?")[0], headers, body, model)


def met(configuration: Configuration, request: Request, registry: Registry | None = None) -> list[Layer]:
    """The layers of the chain as this request would meet them."""
    modules = installed() if registry is None else registry
    found = layers(configuration, Matchable(request), draw=sticky(request), bypass=request.exchange.bypass)
    return [
        replace(layer, foretold=_foretold(modules[entry.use](), entry, request)) if layer.met else layer
        for entry, layer in zip(configuration.policies, found, strict=True)
    ]


def _foretold(module: PolicyModule, entry: PolicyEntry, request: Request) -> str:
    foretell = getattr(module, "foretell", None)
    return "" if foretell is None else str(foretell(module.Config.model_validate(entry.options), request))


def worst_case(configuration: Configuration, cards: RateCards, request: Request, target: Target) -> WorstCase:
    """What one attempt there is reserved at: the body as input, and as many tokens for each choice as it allows."""
    upstream = configuration.deployment.upstreams[target.upstream]
    provider, regional = upstream.provider or provider_of(upstream.url), is_regional(upstream.url)
    card = cards.card(provider, target.model, datetime.now(UTC), upstream=target.upstream, regional=regional)
    body = request.body
    asked = facts(request.endpoint.name, body) if isinstance(body, Body) else RequestFacts()
    tokens = Matchable(request).size_bytes // BYTES_A_TOKEN
    if card is None or not request.endpoint.metered:
        return WorstCase(tokens, asked.output_cap, asked.n, None if request.endpoint.metered else 0)
    return WorstCase(
        tokens, asked.output_cap, asked.n, card.reserve(tokens, asked.output_cap or 0, asked.n, asked.service_tier)
    )


def layers(
    configuration: Configuration, known: Facts, *, draw: str, bypass: frozenset[str] = frozenset()
) -> list[Layer]:
    """All policies, outermost first, each with the reason why the request meets it or doesn't.

    `draw` is what `rollout` and `holdout` draw by (`proxy.chain.sticky`), `bypass` what `x-weir-bypass` names.
    """
    honoured = bypass.intersection(configuration.honour.bypass)
    return [_layer(entry, known, draw, honoured) for entry in configuration.policies]


def route(configuration: Configuration, model: str | None) -> Route | None:
    """Where a request for this model would go (one without a model: as `*`); None where no deployment offers it."""
    found = configuration.model_for("*" if model is None else model)
    if found is None:
        return None
    pattern, offer = found
    total = sum(deployment.weight for deployment in offer.deployments)
    upstreams = configuration.deployment.upstreams
    targets = [
        Target(each.upstream, upstreams[each.upstream].url, each.model or model or "", each.weight / total)
        for each in offer.deployments
    ]
    return Route(pattern, offer.balance, tuple(sorted(targets, key=lambda target: -target.share)))


def _layer(entry: PolicyEntry, facts: Facts, draw: str, bypassed: frozenset[str]) -> Layer:
    verdict, reason = _verdict(entry, facts, draw, bypassed)
    return Layer(entry.name, entry.use, entry.source, verdict, reason)


def _verdict(entry: PolicyEntry, facts: Facts, draw: str, bypassed: frozenset[str]) -> tuple[Verdict, str]:
    """In the order in which the chain asks."""
    if entry.mode == "off":
        return "off", "mode is off"
    if entry.name in bypassed:
        return "bypassed", "x-weir-bypass names it, and the policy file honours that"
    if failed := _failing(entry.match, entry, facts):
        return "unmatched", "; ".join(f"match.{each}" for each in failed)
    if not entry.unless.empty and not _failing(entry.unless, entry, facts):
        return "excluded", _holding("unless", entry.unless)
    arm = entry.arm(draw)
    if arm == "holdout":
        return "held out", f"in the control group of {100 * entry.holdout:g}%"
    if arm == "out":
        return "not rolled out", f"rolled out to {100 * entry.rollout:g}%, not to this one"
    return ("observes" if entry.mode == "observe" else "applies"), _holding("match", entry.match) or "no conditions"


def _failing(conditions: Conditions, entry: PolicyEntry, facts: Facts) -> list[str]:
    """The named conditions that don't hold, each compiled alone, with what they met."""
    found = []
    for name in _named(conditions):
        wanted = getattr(conditions, name)
        predicate = Conditions.model_construct(**{name: wanted}).compile(entry.zone)
        if predicate is not None and not predicate(facts):
            found.append(f"{name} is {_written(wanted)}, here {_met(name, entry, facts)}")
    return found


def _holding(side: str, conditions: Conditions) -> str:
    return "; ".join(f"{side}.{name} {_written(getattr(conditions, name))}" for name in _named(conditions))


def _named(conditions: Conditions) -> list[str]:
    return [name for name in type(conditions).model_fields if getattr(conditions, name) is not None]


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " or ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _met(name: str, entry: PolicyEntry, facts: Facts) -> str:
    if name == "time":
        return f"{facts.time().astimezone(entry.zone):%a %H:%M}".lower()
    met = getattr(facts, _FACTS.get(name, name))
    if isinstance(met, Mapping):
        met = tuple(f"{tag}={value}" for tag, value in met.items())
    if met is None or met == ():
        return "none"
    return f"{met:,} B" if name == "size" else _written(met)
