"""The few statistics that reports need: quantiles of Student's t, robust spread, weighted means of whole numbers.

Rules: pure, and without a numerical library, since a report is written by a command that must start quickly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, median

import msgspec

_NORMAL = NormalDist()
MAD_TO_SIGMA = 1.4826  # of a normal distribution
CONFIDENCE = 0.95


class Mean(msgspec.Struct, frozen=True):
    """A mean, and how well it is known."""

    mean: float
    variance: float  # of the mean
    freedom: int


def half_interval(one: Mean, other: Mean) -> float | None:
    """Half the interval of the difference of two means (Welch and Satterthwaite); None where nothing can be said."""
    if min(one.freedom, other.freedom) < 1:
        return None
    variance = one.variance + other.variance
    if not variance:
        return 0.0
    freedom = variance**2 / (one.variance**2 / one.freedom + other.variance**2 / other.freedom)
    return t_quantile((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variance)


def t_quantile(share: float, freedom: float) -> float:
    """Student's t below which `share` lies. Exact for 1 and 2 degrees of freedom, else by the Cornish-Fisher expansion
    (Abramowitz and Stegun, 26.7.5), within 0.5 % from 3 on for shares up to 0.975."""
    if freedom <= 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom <= 2:
        return (2 * share - 1) * math.sqrt(2 / (4 * share * (1 - share)))
    z = _NORMAL.inv_cdf(share)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def spread(values: Sequence[float]) -> float:
    """A standard deviation that a few outliers can't move: the median distance from the median."""
    middle = median(values)
    return MAD_TO_SIGMA * median(abs(value - middle) for value in values)
