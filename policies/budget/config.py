"""The options of a budget, as a policy file writes them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from policies.budget import ladder as ladders
from policies.budget.limits import Limit
from policies.budget.table import Row
from policies.webhook import Webhook
from proxy.config.problems import suggestion
from proxy.config.scalars import Duration, OneOrList, Truth, wrong

DIMENSIONS: Final = ("org", "team", "project", "key", "model", "tenant", "tag:NAME")
_TAG: Final = re.compile(r"tag:[^\s:,=]+")


def _dimension(value: str) -> str:
    if value not in DIMENSIONS[:-1] and not _TAG.fullmatch(value):
        raise wrong(f"{value!r} is nothing that a budget can be per", suggestion(value, DIMENSIONS))
    return value


Dimension = Annotated[str, AfterValidator(_dimension)]
Limits = Annotated[tuple[Limit, ...], Field(min_length=1), OneOrList()]
_STEP: Final = {"anyOf": [{"enum": ["warn", "batch", "queue", "refuse"]}, {"type": "object"}]}
Ladder = Annotated[
    tuple[ladders.Step, ...],
    PlainValidator(ladders.parse),
    PlainSerializer(ladders.written),
    WithJsonSchema({"title": "ladder", "type": "object", "additionalProperties": _STEP}),
]


class Config(BaseModel):
    """How much may be used, by whom, in which time; and what happens on the way there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per: Annotated[tuple[Dimension, ...], OneOrList()] = ()
    """`org`, `team`, `project`, `key`, `model`, `tenant`, `tag:NAME`, or a list: one budget for each combination."""
    limit: Limits
    """`500 USD/month`, `2M tokens/day`, `500 USD/rolling 30d`, or a list; all of them hold."""
    overrides: dict[str, Limits] = {}
    """Limits of single subjects; those of a combination are written `search/gpt-4o`."""
    limits_from: str | None = None
    """A CSV file of limits and top-ups, reloaded when it changes."""
    rows: tuple[Row, ...] = ()
    """What that file says; it may be written here instead."""
    hard: Truth = True
    """Whether the limit can't be passed; a soft one counts, and refuses nobody."""
    max_wait: Duration = 10.0
    """How long a request waits for others to settle what they have reserved."""
    send_cap: Truth = False
    """Sends the cap that was counted on to the upstream, also where the client gave none."""
    max_output: int | None = Field(default=None, ge=1)
    """Tokens of an answer at most, where neither the request nor what is known of the model says so."""
    shrink: Truth = False
    """At the very end, asks for a shorter answer instead of refusing."""
    least_output: int = Field(default=256, ge=1)
    """Tokens below which `shrink` doesn't go."""
    unobserved: Literal["worst", "estimate"] = "worst"
    """What an attempt counts for whose usage nobody told: what was reserved, or the estimate."""
    ladder: Ladder = ()
    """What happens at which share: `{80%: warn, 90%: {use_model: gpt-4o-mini}, 95%: {tier: flex}}`."""
    webhook: Webhook | None = None
    """Told once for each step, window and subject."""

    @model_validator(mode="after")
    def _fits(self) -> Any:
        if not self.hard and any(step.action in ("queue", "refuse") for step in self.ladder):
            raise wrong("a soft budget refuses nobody", "leave out queue and refuse, or hard: false")
        if self.shrink and not self.hard:
            raise wrong("shrink is for hard budgets", "leave it out, or hard: false")
        if self.webhook is not None and not self.ladder:
            raise wrong("a webhook is told of the ladder's steps", "add a ladder such as {80%: warn}")
        if any(subject.count("/") + 1 < len(self.per) for subject in self.overrides):
            raise wrong(f"an override of a combination is written {'/'.join(self.per)}")
        return self
