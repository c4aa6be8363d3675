"""The policy file: which policies apply, to what, and how far. Every policy has the same envelope.

Rules: models only; a policy's own options are an opaque mapping here, checked by that policy's `Config`. In the file
they stand beside the envelope's keys; in the resolved configuration they are `options`.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from proxy.config.conditions import Conditions, Facts, Predicate, bucket
from proxy.config.guardrail import Guardrail
from proxy.config.scalars import OneOrList, Percent, Truth, Version, wrong
from proxy.config.strict import Strict

Arm = Literal["in", "out", "holdout"]
Chosen = Literal["none", "lower", "any"]


def _mode(value: object) -> object:
    """YAML 1.1 tools write `on` and `off` as booleans; both are understood."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found; malformed; a directory of the database
        raise wrong(f"{name!r} is no time zone", "write one such as Europe/Berlin or UTC") from None
    return name


Zone = Annotated[str, AfterValidator(_zone)]
Mode = Annotated[
    Literal["off", "observe", "on"],
    BeforeValidator(_mode),
    WithJsonSchema({"enum": ["off", "observe", "on", True, False]}),
]


class Envelope(Strict):
    """What every policy has."""

    use: str
    """The policy."""
    name: str = ""
    """Its name in headers, metrics and reports; without it, that of the policy. Unique."""
    match: Conditions = Conditions()
    """It applies only to requests that are all of this."""
    unless: Conditions = Conditions()
    """It doesn't apply to requests that are all of this."""
    mode: Mode = "on"
    """`off`; `observe` decides and records but changes nothing; `on`."""
    rollout: Percent = Field(default=1.0, json_schema_extra={"default": "100%"})
    """The share of keys or conversations that it applies to; the same ones each time."""
    holdout: Percent = Field(default=0.0, json_schema_extra={"default": "0%"})
    """The share that it never applies to: the control group that its effect is measured against."""
    guardrail: Guardrail | None = None
    """The bands that it must stay within; outside of them it steps back by itself."""

    def applies(self, zone: ZoneInfo | None = None) -> Predicate | None:
        """`match` and not `unless`, compiled; None where it always applies."""
        wanted, unwanted = self.match.compile(zone), self.unless.compile(zone)
        if unwanted is None:
            return wanted
        if wanted is None:
            return lambda facts: not unwanted(facts)

        def both(facts: Facts) -> bool:
            return wanted(facts) and not unwanted(facts)

        return both

    def arm(self, key: str) -> Arm:
        """Where a key or conversation falls: the policy applies, isn't rolled out to it yet, or is withheld as the
        control.

        The control group is drawn from the whole, so it stays the same while the rollout grows.
        """
        if self.holdout and bucket(key, f"holdout:{self.name}") < self.holdout:
            return "holdout"
        if self.rollout < 1 and bucket(key, f"rollout:{self.name}") >= self.rollout:
            return "out"
        return "in"


class PolicyEntry(Envelope):
    """A policy of the chain, resolved."""

    options: dict[str, Any] = Field(default={}, repr=False)
    """The policy's own keys, as written; its `Config` has accepted them."""
    source: str = ""
    """`policies/production.yaml:12`."""
    time_zone: Zone = "UTC"
    """The zone of its file."""

    @property
    def zone(self) -> ZoneInfo:
        """The zone in which its times are read."""
        return ZoneInfo(self.time_zone)

    def compile(self) -> Predicate | None:
        """`match` and not `unless`, in the file's zone; None where it always applies."""
        return self.applies(self.zone)

    @cached_property
    def predicate(self) -> Predicate | None:
        """`compile`, once: a reload that leaves it as it was compiles nothing."""
        return self.compile()

    def alike(self, other: PolicyEntry) -> bool:
        """Whether the fingerprints are the same, at a hundredth of the cost."""
        if self is other or self.options != other.options:  # what mostly is, and what mostly differs
            return self is other
        return all(getattr(self, name) == getattr(other, name) for name in type(self).model_fields if name != "source")

    @property
    def fingerprint(self) -> str:
        """The same as long as nothing that it was built from changes; where it stands doesn't count."""
        return digest(self.model_dump(mode="json", exclude={"source"}))


class Honour(Strict):
    """Which request headers of clients have a say."""

    tags: Truth = True
    """`x-weir-tags: name=value, …` adds tags."""
    deadline: Truth = True
    """`x-weir-deadline: 15m` says how long the answer may take."""
    bypass: Annotated[tuple[str, ...], OneOrList()] = ()
    """Policies, by name, that `x-weir-bypass` may skip."""
    feedback: Truth = True
    """`x-weir-feedback: ID=good` rates the answer of an earlier exchange."""
    priority: Chosen = "lower"
    """Which class `x-weir-priority: high|normal|low` may choose when a worker is overloaded: `none`, one `lower` than
    the key's, or `any`."""


class PolicyFile(Strict):
    """What is allowed and preferred; outermost policy first."""

    version: Version
    """The form of this file; write 1."""
    time_zone: Zone = "UTC"
    """The zone of times and of calendar days and months."""
    honour: Honour | None = None
    """Which request headers of clients have a say."""
    policies: tuple[PolicyEntry, ...] = ()
    """The policies, outermost first. `include: path` in the place of one puts those of another policy file there."""


class OverlayFile(Strict):
    """What is otherwise in one environment."""

    version: Version
    """The form of this file; write 1."""
    policies: dict[str, dict[str, Any]] = {}
    """By the name of a policy: its keys that are otherwise, envelope and options alike. Each replaces the key of that
    name, whole; `use` and `name` stay."""


def digest(value: object) -> str:
    """A short stable hash of JSON: 64 bits are enough to tell versions of a file apart."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
