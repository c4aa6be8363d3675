"""Those that a policy is applied to, compared with those that it is withheld from: read from the ledger's rows.

Rules:
- Treated and control are what the chain drew (`rollout`, `holdout`): both groups come from the same requests, so a
  difference is the policy's. Only clients' exchanges are compared; what the policy spent in the background is added to
  the treated ones' cost.
- Where no key is in both arms, keys are what was drawn, and the intervals are those of ratios over keys (Cochran,
  Sampling Techniques, 6.3), else of exchanges (Welch). A draw by conversations lies between: its exchanges are alike,
  and the true interval is wider than the one told.
- Percentiles have the interval of their order statistics (Conover, Practical Nonparametric Statistics, 3.2).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, func, inspect, select, text

from proxy.ledger import tables
from proxy.ledger.records import decode_decisions
from proxy.ledger.reporting.savings import SERVING
from proxy.ledger.reporting.statistic import Mean, half_interval

_CONTROL: Final = ("holdout", "not_rolled_out")
_Z: Final = 1.959964  # of 95 %


class Measured(msgspec.Struct, frozen=True):
    """One arm. Costs are nano-dollars an exchange; percentiles come with the interval that encloses them."""

    arm: str
    exchanges: int
    keys: int
    mean_nanodollars: float
    mean_ns: float
    p50_ns: int
    p99_ns: int
    p99_low_ns: int
    p99_high_ns: int
    error_rate: float
    feedbacks: int = 0
    feedback: float | None = None


class Difference(msgspec.Struct, frozen=True):
    """Treated less control. `unit` is nanodollars, ns, share or score; None where nothing can be said."""

    measure: str
    unit: str
    difference: float
    low: float | None
    high: float | None


class Compared(msgspec.Struct, frozen=True):
    """What a policy did. `versions` are the hashes of the policy files, `actions` what it noted."""

    policy: str
    exchanges: int
    arms: tuple[Measured, ...]
    differences: tuple[Difference, ...]
    by_key: bool
    overhead: int
    actions: Mapping[str, int]
    versions: Mapping[str, int]
    has_feedback: bool


class _Key:
    """Sums of one key in one arm: exchanges, and of each measure the sum and the sum of squares."""

    __slots__ = ("count", "squares", "sums")

    def __init__(self) -> None:
        self.count = 0
        self.sums = [0.0, 0.0, 0.0]
        self.squares = [0.0, 0.0, 0.0]

    def add(self, values: Sequence[float]) -> None:
        self.count += 1
        for at, value in enumerate(values):
            self.sums[at] += value
            self.squares[at] += value * value


class _Arm:
    """What is gathered of one arm."""

    def __init__(self) -> None:
        self.keys: dict[str, _Key] = {}
        self.times = array("q")
        self.scores: dict[str, list[float]] = {}

    @property
    def count(self) -> int:
        return len(self.times)

    def sum(self, at: int) -> float:
        return sum(key.sums[at] for key in self.keys.values())

    def add(self, who: str, nanodollars: int, total_ns: int, failed: bool) -> None:
        self.keys.setdefault(who, _Key()).add((float(nanodollars), float(total_ns), float(failed)))
        self.times.append(total_ns)


def compared(db: Connection, policy: str, first_ns: int, end_ns: int, version: str = "") -> Compared:
    """The exchanges of a time, under one policy-file hash (or its beginning) if given."""
    arms: dict[str, _Arm] = {}
    actions: dict[str, int] = {}
    versions: dict[str, int] = {}
    scores = _scores(db, first_ns)
    exchanges = 0
    for row in _rows(db, policy, first_ns, end_ns, version):
        noted = [one.action for one in decode_decisions(row.decisions) if one.policy == policy]
        if not noted:
            continue
        exchanges += 1
        versions[row.policies_hash] = versions.get(row.policies_hash, 0) + 1
        for action in noted:
            actions[action] = actions.get(action, 0) + 1
        drawn = "control" if noted[0] in _CONTROL else "treated" if "treated" in noted else None
        if drawn is None:
            continue
        arm, who = arms.setdefault(drawn, _Arm()), row.key or row.tenant or ""
        arm.add(who, row.nanodollars or 0, row.total_ns, row.status >= 400 or not row.status)
        if (score := scores.get(row.exchange)) is not None:
            arm.scores.setdefault(who, []).append(score)
    return _compared(policy, exchanges, arms, actions, versions, _overhead(db, policy, first_ns, end_ns))


def _rows(db: Connection, policy: str, first_ns: int, end_ns: int, version: str) -> Iterator[Any]:
    e, d = tables.exchanges.c, tables.dimensions.c
    columns = (e.exchange, e.decisions, e.policies_hash, e.nanodollars, e.total_ns, e.status, d.key, d.tenant)
    query = select(*columns).join_from(tables.exchanges, tables.dimensions, e.dimension == d.id)
    query = query.where(e.at_ns >= first_ns, e.at_ns < end_ns, d.kind == "client")
    query = query.where(e.decisions.contains(f'"{policy}"', autoescape=True))
    if version:
        query = query.where(e.policies_hash.startswith(version, autoescape=True))
    yield from db.execution_options(stream_results=True).execute(query)


def _overhead(db: Connection, policy: str, first_ns: int, end_ns: int) -> int:
    """What the policy spent on exchanges that it started for itself."""
    a, d = tables.attempts.c, tables.dimensions.c
    query = select(func.coalesce(func.sum(a.nanodollars), 0)).join_from(
        tables.attempts, tables.dimensions, a.dimension == d.id
    )
    query = query.where(a.quarter >= first_ns // (tables.QUARTER_S * 10**9))  # an index has it
    query = query.where(d.started_by == policy, d.kind.not_in(SERVING), a.at_ns >= first_ns, a.at_ns < end_ns)
    return int(db.scalar(query) or 0)


def _scores(db: Connection, first_ns: int) -> dict[str, float]:
    """What clients said of exchanges: the mean of each exchange's ratings."""
    if not inspect(db).has_table("feedback"):  # an older ledger, opened for reading only
        return {}
    query = text("SELECT exchange, AVG(rating) FROM feedback WHERE at_ns >= :first GROUP BY exchange")
    return {exchange: float(rating) for exchange, rating in db.execute(query, {"first": first_ns})}


def _compared(
    policy: str,
    exchanges: int,
    arms: Mapping[str, _Arm],
    actions: Mapping[str, int],
    versions: Mapping[str, int],
    overhead: int,
) -> Compared:
    told = tuple(_measured(name, arms[name]) for name in ("treated", "control") if name in arms)
    differences: list[Difference] = []
    by_key = False
    if len(told) == 2:
        treated, control = arms["treated"], arms["control"]
        by_key = not treated.keys.keys() & control.keys.keys() and min(len(treated.keys), len(control.keys)) > 1
        own = overhead / treated.count
        for at, (measure, unit) in enumerate((("cost", "nanodollars"), ("latency", "ns"), ("errors", "share"))):
            means = [_mean(arm, at, by_key) for arm in (treated, control)]
            differences.append(_difference(measure, unit, means[0], means[1], own if at == 0 else 0.0))
        if treated.scores and control.scores:
            differences.append(_difference("feedback", "score", _score(treated), _score(control), 0.0))
    return Compared(
        policy,
        exchanges,
        told,
        tuple(differences),
        by_key,
        overhead,
        actions,
        versions,
        any(arm.scores for arm in arms.values()),
    )


def _measured(name: str, arm: _Arm) -> Measured:
    times, count = sorted(arm.times), arm.count
    width = _Z * math.sqrt(count * 0.99 * 0.01)
    low, high = math.floor(0.99 * count - width), math.ceil(0.99 * count + width)
    scores = [score for said in arm.scores.values() for score in said]
    return Measured(
        name,
        count,
        len(arm.keys),
        arm.sum(0) / count,
        arm.sum(1) / count,
        times[count // 2],
        times[min(count - 1, int(0.99 * count))],
        times[max(0, low)],
        times[min(count - 1, high)],
        arm.sum(2) / count,
        len(scores),
        sum(scores) / len(scores) if scores else None,
    )


def _difference(measure: str, unit: str, treated: Mean, control: Mean, more: float) -> Difference:
    found = treated.mean + more - control.mean
    width = half_interval(treated, control)
    return Difference(
        measure, unit, found, None if width is None else found - width, None if width is None else found + width
    )


def _mean(arm: _Arm, at: int, by_key: bool) -> Mean:
    count, total = arm.count, arm.sum(at)
    mean = total / count
    if by_key:
        squares = sum((key.sums[at] - mean * key.count) ** 2 for key in arm.keys.values())
        keys = len(arm.keys)
        return Mean(mean, squares * keys / (keys - 1) / count**2, keys - 1)
    if count < 2:
        return Mean(mean, 0.0, 0)
    squares = sum(key.squares[at] for key in arm.keys.values())
    return Mean(mean, max(0.0, squares - total * mean) / (count - 1) / count, count - 1)


def _score(arm: _Arm) -> Mean:
    scores = [score for said in arm.scores.values() for score in said]
    count, mean = len(scores), sum(scores) / len(scores)
    if count < 2:
        return Mean(mean, 0.0, 0)
    return Mean(mean, sum((score - mean) ** 2 for score in scores) / (count - 1) / count, count - 1)
