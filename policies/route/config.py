"""What a policy file says about routing: rules, models, preference, constraints.

Rules: what a rule doesn't say, the policy says for all of them (`Config.complete`). Every mistake that shows in the
options alone is an error here, at its own place.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from policies.target import ModelTarget
from proxy.config import Conditions
from proxy.config.conditions import tokens_of
from proxy.config.scalars import Duration, OneOrList, Percent, wrong

ASKED: Final = "asked"
Feature = Literal["tools", "vision", "audio", "files", "json"]
Prefer = Literal["order", "cost", "latency", "balanced", "score"]
Sticky = Literal["priced", "always", "off"]


def _tokens(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if not isinstance(value, str):
        raise wrong(f"expected a number of tokens such as 128k, found {value!r}")
    return tokens_of(value)


def _off(value: object) -> object:
    """YAML 1.1 tools write `off` as false."""
    return "off" if value is False else value


TokenCount = Annotated[int, BeforeValidator(_tokens)]


class Target(ModelTarget):
    """A model that may be chosen; written as its name alone, it can do everything."""

    model: str
    """Its name, as clients would ask for it; `asked` is the one that the client asked for."""
    lacks: Annotated[tuple[Feature, ...], OneOrList()] = ()
    """What it can't do: it gets no request that needs it."""
    context: TokenCount | None = None
    """How many tokens it takes, input and output together; without it, what the price list knows."""


class Choice(BaseModel):
    """Among which models is chosen, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: Annotated[tuple[Target, ...], OneOrList()] = ()
    """Models; `{model: llama, lacks: [tools]}` where one can't do everything."""
    prefer: Prefer = "order"
    """`order`: the first that fits; `cost`; `latency`; `balanced` between the two; `score`: the first, or the last
    where that is likely to be better."""
    max_usd: Annotated[Decimal, Field(gt=0)] | None = None
    """What the call may be expected to cost at most."""
    max_latency: Duration | None = None
    """How long the model may have taken of late: to the first token of a stream, or to a whole answer."""
    min_context: TokenCount | None = None
    """How many tokens the model must be known to take."""
    escalate_at: Percent = Field(default=0.1, json_schema_extra={"default": "10%"})
    """With `score`: how much better the last model is expected to be, from which on it is chosen: of 100 answers, so
    many more that are right."""
    sticky: Annotated[Sticky, BeforeValidator(_off)] = "priced"
    """Whether a conversation stays at its model: `priced`, unless a switch pays for the prompt cache that it loses;
    `always`, as long as the model fits; `off`."""
    pays_within: Annotated[int, Field(ge=1, le=1000)] = 1
    """In how many turns, the present one included, a switch must have paid for itself."""
    warm_for: Duration = 300.0
    """How long the upstream keeps a prompt that nobody asks for."""

    @field_validator("to")
    @classmethod
    def _once(cls, to: tuple[Target, ...]) -> tuple[Target, ...]:
        names = [target.model for target in to]
        for name in names:
            if names.count(name) > 1:
                raise wrong(f"{name!r} is there more than once", "name each model once")
        return to


class Rule(Choice):
    """A choice for some requests."""

    match: Conditions = Conditions()
    """It is for requests that are all of this."""
    unless: Conditions = Conditions()
    """It isn't for requests that are all of this."""

    @property
    def total(self) -> bool:
        """Whether every request meets it."""
        return self.match.empty and self.unless.empty


class Config(Choice):
    """Which model answers which request."""

    rules: Annotated[tuple[Rule, ...], OneOrList()] = ()
    """The first that a request meets decides; without one, what the policy itself says; without `to`, nothing
    changes."""

    @field_validator("rules")
    @classmethod
    def _reachable(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        for number, rule in enumerate(rules[:-1], 1):
            if rule.total:
                raise wrong(
                    f"rule {number} is for every request: no later one is ever met", "put it last, or add match"
                )
        return rules

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.rules and not self.to:
            raise wrong("says no model", "write to: [gpt-4o-mini, gpt-4o], or rules")
        for number, choice in enumerate(self.complete, 1):
            where = f"rule {number}: " if number <= len(self.rules) else ""
            if not choice.to:
                raise wrong(f"{where}says no model", "write to: gpt-4o-mini, in the rule or for all of them")
            if choice.prefer == "score" and any(target.model == ASKED for target in choice.to):
                raise wrong(f"{where}prefer: score needs to know both models", f"name the model in place of {ASKED}")
            if choice.prefer == "score" and len(choice.to) != 2:
                hint = "write to: [small, large]"
                raise wrong(f"{where}prefer: score is between two models, not {len(choice.to)}", hint)
        return self

    @property
    def complete(self) -> list[Rule]:
        """The rules with all that they leave to the policy; the last one, if it names models, is the policy's own."""
        own = {name: getattr(self, name) for name in Choice.model_fields}
        found = [
            rule.model_copy(update={name: value for name, value in own.items() if name not in rule.model_fields_set})
            for rule in self.rules
        ]
        return [*found, Rule(**own)] if self.to else found
