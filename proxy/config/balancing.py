"""How a deployment that fails, or stands out, is left alone for a while.

Rules: models only. Counts and times are those of one worker; each finds out for itself.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from proxy.config.limits import Positive, Seconds
from proxy.config.scalars import Percent
from proxy.config.strict import Strict


def _share(text: str, value: float) -> float:
    field: float = Field(default=value, json_schema_extra={"default": text})
    return field


class Breaker(Strict):
    """When an upstream's deployment counts as broken, and how it comes back."""

    unreachable: Positive = 3
    """Calls in a row that found no connection."""
    server_errors: Positive = 5
    """Calls in a row that were answered by 5xx, by nonsense, or not to their end."""
    timeouts: Positive = 3
    """Calls in a row that were not answered in time."""
    ratio: Percent = _share("50%", 0.5)
    """The share of failures that counts as broken, too."""
    at_least: Positive = 20
    """So many calls must have been made for that share to count."""
    within_s: Seconds = 30.0
    """The time over which that share is taken."""
    open_s: Seconds = 5.0
    """How long it is left alone; twice as long each time that it fails again."""
    longest_s: Seconds = 120.0
    """Where that doubling ends."""
    probes: Positive = 1
    """How many calls may try it at a time after that."""
    successes: Positive = 2
    """So many of those must succeed for it to count as whole."""


class Outliers(Strict):
    """When a deployment stands out from the others of its model, so that it is left out for a while."""

    latency: Annotated[float, Field(gt=1)] | None = 3.0
    """So many times the others' time to the first token. Not judged with `balance: weighted`, where the weights are
    the choice."""
    failures: Percent = _share("30%", 0.3)
    """So much more of its calls fail than of the others'."""
    at_least: Positive = 5
    """So many calls must have been answered."""
    at_most: Percent = _share("50%", 0.5)
    """No more of a model's deployments are left out at a time."""
    eject_s: Seconds = 10.0
    """How long the first time; twice as long each time that it stands out again."""
    longest_s: Seconds = 300.0
    """Where that doubling ends."""
