"""Quantiles of durations, counted while they come in, of which the older ones fade. Pure; no clock, no samples kept."""

from __future__ import annotations

import math
from typing import Final


class FadingQuantile:
    """Quantiles of durations: a histogram of logarithmic buckets, each 4.4 % wide, halved now and then.

    The answer is the upper edge of the bucket that holds the quantile, so it is at most 4.4 % too high, and never too
    low. A duration of which only a lower bound above the quantile is known may be added as that bound: for its rank, it
    makes no difference.
    """

    FASTEST_S: Final = 1e-4
    PER_DOUBLING: Final = 16
    BUCKETS: Final = 16 * 22  # up to 400 s
    WINDOW: Final = 2000  # at so many, all counts are halved
    FRESH: Final = 16  # the quantile is looked up anew after so many

    __slots__ = ("_counts", "_found_s", "_looked_up_at", "_total", "seen")

    def __init__(self) -> None:
        self._counts = [0] * self.BUCKETS
        self._total = 0
        self._found_s = 0.0
        self._looked_up_at = -self.FRESH
        self.seen = 0

    def add(self, seconds: float) -> None:
        """One more duration."""
        doublings = math.log2(max(seconds, self.FASTEST_S) / self.FASTEST_S)
        self._counts[min(int(doublings * self.PER_DOUBLING), self.BUCKETS - 1)] += 1
        self._total += 1
        self.seen += 1
        if self._total >= self.WINDOW:
            self._counts = [count // 2 for count in self._counts]
            self._total = sum(self._counts)

    def recent_s(self, share: float) -> float:
        """`value_s`, or what that was a few durations ago."""
        if self.seen - self._looked_up_at >= self.FRESH:
            self._looked_up_at, self._found_s = self.seen, self.value_s(share)
        return self._found_s

    def value_s(self, share: float) -> float:
        """The duration that the share of them stays below; 0 as long as none was added."""
        wanted, below = share * self._total, 0
        for bucket, count in enumerate(self._counts):
            below += count
            if count and below >= wanted:
                return float(self.FASTEST_S * 2.0 ** ((bucket + 1) / self.PER_DOUBLING))
        return 0.0
