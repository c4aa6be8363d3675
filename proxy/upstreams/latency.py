"""How long a deployment takes: the average of late, that rises at once and falls slowly.

Pure: the time is a value. A peak counts at once, because the next one waits behind it; below the peak each answer
counts by how long ago the one before was (an exponentially weighted moving average over time, not over answers).
While nobody is there the estimate fades, so that a slow deployment that nobody asks is asked again: by one call at a
time.
"""

from __future__ import annotations

import math
from typing import Final

FADING_S: Final = 10.0  # how fast old answers stop counting
SLOWEST_S: Final = 60.0
FAILED_S: Final = 2.0  # what a call without an answer counts at least


class PeakEwma:
    """Seconds, of late. 0 as long as nobody knows."""

    __slots__ = ("_at", "_s")

    def __init__(self) -> None:
        self._s = 0.0
        self._at = 0.0

    def __repr__(self) -> str:
        return f"<PeakEwma {self._s * 1000:.1f} ms>"

    def add(self, took_s: float, now: float) -> None:
        """An answer took so long."""
        if took_s >= self._s:
            self._s = min(took_s, SLOWEST_S)
        else:
            self._s = took_s + (self._s - took_s) * math.exp((self._at - now) / FADING_S)
        self._at = now

    def longer(self, than_s: float, now: float) -> None:
        """A call was given up without an answer after so long: it would have taken longer."""
        if than_s > self._s:
            self.add(than_s, now)

    def failed(self, now: float) -> None:
        """None came: that counts as slow, and slower each time, so that failing fast doesn't attract calls."""
        self.add(max(2 * self._s, FAILED_S), now)

    def estimate_s(self, now: float, idle: bool = True) -> float:
        """What the next answer may take. It fades only while it is `idle`: whoever waits there already will tell."""
        if not idle or not self._s:
            return self._s
        return self._s * math.exp((self._at - now) / FADING_S)
