"""When a worker has too much to do, and whose requests come first then.

Rules: models only, as in `proxy.config.deployment`. What they do is `proxy.pressure.overload`'s matter.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from proxy.config.conditions import Tags
from proxy.config.scalars import Duration, Names, Size
from proxy.config.strict import Strict

Priority = Literal["high", "normal", "low"]


class Callers(Strict):
    """Who belongs to a class: one named condition that holds is enough. Values may be lists and patterns."""

    key: Names | None = None
    """The id of the key, never the key itself."""
    project: Names | None = None
    """The project of the key."""
    team: Names | None = None
    """The team of the key."""
    tag: Tags | None = None
    """A tag of the key, as `name=value`. Tags that clients send don't count."""


class Priorities(Strict):
    """Whose requests are refused last, and whose first. All others are of the class between."""

    high: Callers = Callers()
    """Refused last."""
    low: Callers = Callers()
    """Refused first."""


class Overload(Strict):
    """What one worker may have to do before it refuses requests."""

    lag_s: Annotated[Duration, Field(gt=0)] = 0.05
    """How long a turn of the worker's event loop may take, which is what it adds to an answer; beyond it, requests
    are refused until it keeps up again."""
    exchanges: PositiveInt | None = None
    """Most requests that run at a time, whatever the load; without it only the load decides."""
    queue: Annotated[int, Field(ge=0)] = 128
    """Requests that may wait for a place."""
    queue_s: Annotated[Duration, Field(gt=0)] = 1.0
    """How long one waits before it is refused. Far shorter while the queue doesn't get empty."""
    memory_bytes: Annotated[Size, Field(gt=0)] | None = None
    """Resident memory that a worker should stay below; without it, four fifths of its share of the container's or the
    machine's."""
    priorities: Priorities = Priorities()
    """Whose requests come first."""
