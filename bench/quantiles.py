"""The few statistics that the benchmarks quote, exact: samples are kept and sorted, nothing is binned.

Pure functions of sequences of numbers. Percentiles are of the nearest rank, as HdrHistogram counts them: the smallest
sample that at least p % of the samples do not exceed.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; raises ValueError when there are no samples."""
    if not samples:
        raise ValueError("a percentile needs at least one sample")
    ordered = sorted(samples)
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def paired_ratio(subject: Sequence[float], reference: Sequence[float]) -> float:
    """The median over rounds of subject / reference: a slow spell of the machine hits both halves of a pair."""
    return statistics.median(mine / theirs for mine, theirs in zip(subject, reference, strict=True))


def paired_difference(subject: Sequence[float], reference: Sequence[float]) -> float:
    """The median over rounds of subject - reference."""
    return statistics.median(mine - theirs for mine, theirs in zip(subject, reference, strict=True))


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its confidence interval."""

    low: float
    point: float
    high: float


def bootstrap_ratio(
    subject: Sequence[float],
    reference: Sequence[float],
    *,
    confidence: float = 0.95,
    draws: int = 4000,
    seed: int = 1,
) -> Interval:
    """The median paired ratio with its percentile-bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Rounds are resampled, not requests: the latencies of one round share its queue and its neighbours, so they are not
    independent.
    """
    ratios = [mine / theirs for mine, theirs in zip(subject, reference, strict=True)]
    if not ratios:
        raise ValueError("a ratio needs at least one round")
    rng = random.Random(seed)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(draws))
    tail = (1 - confidence) / 2
    return Interval(
        medians[int(tail * draws)], statistics.median(ratios), medians[min(int((1 - tail) * draws), draws - 1)]
    )
