"""What a request would meet, without sending it: every layer with its reason, where it would go, what it could cost.

Rules: pure functions over a `Configuration` and what is known of a request; no I/O, no clock but the one in the facts.
The answer comes from the compiled conditions, draws, routes and rate cards that the data plane uses, never from a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from proxy.config.conditions import Conditions
from proxy.config.configuration import Configuration
from proxy.config.policies import PolicyEntry

Verdict = Literal["applies", "observes", "off", "unmatched", "excluded", "not rolled out", "held out", "bypassed"]

_FACTS = {"tag": "tags", "size": "size_bytes"}
"""Conditions whose fact has another name."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a request before it is sent; the facts that conditions ask for."""

    endpoint: str
    model: str | None = None
    team: str | None = None
    project: str | None = None
    key: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    served_model: str | None = None
    tools: bool = False
    stream: bool = False
    size_bytes: int = 0
    bypass: frozenset[str] = frozenset()
    """Policies that `x-weir-bypass` names."""
    draw: str = ""
    """What `rollout` and `holdout` draw by."""
    time: Callable[[], datetime] = _now


@dataclass(frozen=True, slots=True)
class Layer:
    """One policy of the chain, and what it has to do with the request."""

    name: str
    use: str
    source: str
    verdict: Verdict
    reason: str

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
class Route:
    """The offered name or pattern that the model falls under, and its deployments, likeliest first."""

    pattern: str
    balance: str
    targets: tuple[Target, ...]


def layers(configuration: Configuration, asked: Asked) -> list[Layer]:
    """All policies, outermost first, each with the reason why the request meets it or doesn't."""
    honoured = asked.bypass.intersection(configuration.honour.bypass)
    return [_layer(entry, asked, honoured) for entry in configuration.policies]


def route(configuration: Configuration, model: str) -> Route | None:
    """Where a request for this model would go; None where no deployment offers it."""
    found = configuration.model_for(model)
    if found is None:
        return None
    pattern, offer = found
    total = sum(deployment.weight for deployment in offer.deployments)
    upstreams = configuration.deployment.upstreams
    targets = [
        Target(each.upstream, upstreams[each.upstream].url, each.model or model, each.weight / total)
        for each in offer.deployments
    ]
    return Route(pattern, offer.balance, tuple(sorted(targets, key=lambda target: -target.share)))


def _layer(entry: PolicyEntry, asked: Asked, bypassed: frozenset[str]) -> Layer:
    verdict, reason = _verdict(entry, asked, bypassed)
    return Layer(entry.name, entry.use, entry.source, verdict, reason)


def _verdict(entry: PolicyEntry, asked: Asked, bypassed: frozenset[str]) -> tuple[Verdict, str]:
    if entry.mode == "off":
        return "off", "mode is off"
    failed = _failing(entry.match, entry, asked)
    if failed:
        return "unmatched", "; ".join(f"match.{each}" for each in failed)
    if not entry.unless.empty and not _failing(entry.unless, entry, asked):
        return "excluded", "; ".join(f"unless.{each}" for each in _holding(entry.unless, asked))
    if entry.name in bypassed:
        return "bypassed", "x-weir-bypass names it, and the policy file honours that"
    arm = entry.arm(asked.draw)
    if arm == "holdout":
        return "held out", f"in the control group of {100 * entry.holdout:g}%"
    if arm == "out":
        return "not rolled out", f"rolled out to {100 * entry.rollout:g}%, not to this key"
    matched = "; ".join(f"match.{each}" for each in _holding(entry.match, asked)) or "no conditions"
    return ("observes" if entry.mode == "observe" else "applies"), matched


def _failing(conditions: Conditions, entry: PolicyEntry, asked: Asked) -> list[str]:
    """The named conditions that don't hold, each compiled alone, with what they met."""
    found = []
    for name in _named(conditions):
        alone = Conditions.model_construct(**{name: getattr(conditions, name)})
        predicate = alone.compile(entry.zone)
        if predicate is not None and not predicate(asked):
            found.append(f"{name} is {_written(getattr(conditions, name))}, here {_met(name, entry, asked)}")
    return found


def _holding(conditions: Conditions, asked: Asked) -> list[str]:
    return [f"{name} {_written(getattr(conditions, name))}" for name in _named(conditions)]


def _named(conditions: Conditions) -> list[str]:
    return [name for name in type(conditions).model_fields if getattr(conditions, name) is not None]


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " or ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _met(name: str, entry: PolicyEntry, asked: Asked) -> str:
    if name == "time":
        return f"{asked.time().astimezone(entry.zone):%a %H:%M}".lower()
    met = getattr(asked, _FACTS.get(name, name))
    if isinstance(met, Mapping):
        met = tuple(f"{tag}={value}" for tag, value in met.items())
    if met is None or met == ():
        return "none"
    return f"{met:,} B" if name == "size" else _written(met)
