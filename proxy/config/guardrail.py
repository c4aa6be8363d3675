"""The bands that a policy must stay within, or it steps back by itself.

Rules: models only. What is measured and how it is judged: `proxy.rollout.guardrail`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from proxy.config.limits import Positive
from proxy.config.scalars import Duration, Percent, wrong
from proxy.config.strict import Strict

NANODOLLARS: Final = 10**9
_SPEND: Final = re.compile(r"(\d+(?:\.\d+)?)\s*USD\s*/\s*(hour|day)")
_HOURS: Final = {"hour": 1, "day": 24}


def _spend(value: object) -> object:
    """Nano-dollars an hour; a number is one already, as between our processes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SPEND.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise wrong(f"expected an amount in a time, found {value!r}", "write 20 USD/hour")
    return int(Decimal(found[1]) * NANODOLLARS / _HOURS[found[2]])


def _times(value: float) -> float:
    if value <= 1:
        raise wrong(f"must be above 1, found {value:g}", "1.5 is half as much again as the control group")
    return value


Spend = Annotated[
    int,
    BeforeValidator(_spend),
    PlainSerializer(lambda value: f"{Decimal(value) / NANODOLLARS:f} USD/hour", return_type=str, when_used="json"),
    WithJsonSchema({"title": "spend", "type": "string", "examples": ["20 USD/hour", "100 USD/day"]}),
]
Times = Annotated[float, AfterValidator(_times)]


class OverControl(Strict):
    """How much worse than the control group it may be. Needs a `rollout` below 100% or a `holdout`."""

    error_rate: Percent | None = None
    """So many points more of its exchanges fail."""
    p99: Times | None = None
    """So many times the control group's 99th percentile."""
    spend: Times | None = None
    """So many times the control group's cost of an exchange."""


class Guardrail(Strict):
    """When a policy steps back by itself, in all workers, until an operator or a changed entry brings it back."""

    error_rate: Percent | None = None
    """The share of its exchanges that may fail: whose client gets a status of 400 or above, or none."""
    p99: Duration | None = None
    """Ninety-nine of a hundred of its exchanges must end within this."""
    spend: Spend | None = None
    """What its exchanges may cost in a time, such as `20 USD/hour`, calls in the background included."""
    over_control: OverControl = OverControl()
    """The same by comparison with the exchanges that it isn't applied to."""
    window: Duration = Field(default=300.0, gt=0)
    """The time that is looked back on."""
    at_least: Positive = 50
    """So many exchanges must have ended in it, in the control group too where that is compared with."""
    then: Literal["off", "observe"] = "off"
    """The `mode` that it steps back to. YAML's `off` may be written with or without quotes."""

    @model_validator(mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return {**value, "then": "off"} if isinstance(value, dict) and value.get("then") is False else value

    @property
    def compares(self) -> bool:
        """Whether a control group is needed."""
        return self.over_control != OverControl()

    @property
    def counts_spend(self) -> bool:
        """Whether costs are looked at."""
        return self.spend is not None or self.over_control.spend is not None
