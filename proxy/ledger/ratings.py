"""What clients said of answers, summed: by model, team, policy, …

Rules: reads only, and only the table `feedback`; the last word of each key on each answer counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import orjson
from sqlalchemy import Engine, inspect, select

from proxy.ledger.tables import feedback

COLUMNS: Final = ("served", "asked", "team", "project", "endpoint")
BY: Final = (*COLUMNS, "policy")
"""What ratings are summed by; `policy` is what policies had done, as `cache=semantic`: an answer counts for each."""
BAD: Final = 0.5  # below it, an answer counts as a bad one


class Ratings(msgspec.Struct):
    """Those of one model, team, …; `value` is None where it isn't known."""

    value: str | None
    count: int = 0
    bad: int = 0
    sum: float = 0.0

    @property
    def mean(self) -> float:
        """From 0 (bad) to 1 (good)."""
        return self.sum / self.count


def ratings(engine: Engine, by: str, since_ns: int = 0) -> list[Ratings]:
    """The sums, those with most ratings first."""
    found: dict[str | None, Ratings] = {}
    with engine.connect() as db:
        if not inspect(db).has_table(feedback.name):
            return []
        column = feedback.c.decisions if by == "policy" else feedback.c[by]
        query = select(column, feedback.c.rating).where(feedback.c.at_ns >= since_ns)
        for value, rating in db.execute(query):
            for name in _values(by, value):
                one = found.setdefault(name, Ratings(name))
                one.count += 1
                one.bad += rating < BAD
                one.sum += rating
    return sorted(found.values(), key=lambda one: (-one.count, one.value or ""))


def _values(by: str, value: Any) -> Iterator[str | None]:
    if by != "policy":
        yield value
        return
    yield from dict.fromkeys(orjson.loads(value or "[]")) or (None,)
