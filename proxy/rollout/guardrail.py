"""Whether a policy has left its band: what is counted of its exchanges, and the verdict. Pure.

Rules:
- What is counted are totals of one arm (`treated` or `control`) of one version of a policy; a window is the difference
  of two of them.
- Chance doesn't step a policy back: a share must exceed its bound by three standard errors (Wilson's interval; for two
  groups, that of the difference), so one that stays within its band is taken for outside less than once in 700 looks
  that have nothing in common. A spend in a time is a fact, and compared as it is.
- Ninety-nine of a hundred within a time is the same as: at most one of a hundred above it. So the 99th percentile is a
  share, too. Durations are counted in buckets 19 % wide; only those that are wholly above a bound count as above it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from proxy.config.guardrail import Guardrail

FASTEST_S: Final = 0.001
PER_DOUBLING: Final = 4
BUCKETS: Final = 4 * 21  # up to 35 minutes
_ERRORS: Final = 3.0  # standard errors
_UNIT: Final = 10_000  # nano-dollars; `squares` is in these, squared
_HOUR_S: Final = 3600.0
_SLOW: Final = 0.01  # beyond the 99th percentile


class Tally(msgspec.Struct):
    """Exchanges of one arm. `slow` counts them by duration; `squares` sums (nanodollars / 10,000)² of attempts."""

    exchanges: int = 0
    failed: int = 0
    attempts: int = 0
    nanodollars: int = 0
    squares: float = 0.0
    slow: list[int] = msgspec.field(default_factory=lambda: [0] * BUCKETS)

    def exchange(self, seconds: float, failed: bool) -> None:
        """One has ended."""
        self.exchanges += 1
        self.failed += failed
        self.slow[_bucket(seconds)] += 1

    def attempt(self, nanodollars: int) -> None:
        """One of its calls has been settled."""
        self.attempts += 1
        self.nanodollars += nanodollars
        self.squares += (nanodollars / _UNIT) ** 2

    def add(self, other: Tally) -> None:
        """Those of another worker."""
        for name in ("exchanges", "failed", "attempts", "nanodollars", "squares"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.slow = [a + b for a, b in zip(self.slow, other.slow, strict=True)]

    def since(self, before: Tally) -> Tally:
        """What came after an earlier one of the same."""
        found = Tally(slow=[max(0, a - b) for a, b in zip(self.slow, before.slow, strict=True)])
        for name in ("exchanges", "failed", "attempts", "nanodollars", "squares"):
            setattr(found, name, max(0, getattr(self, name) - getattr(before, name)))
        return found

    def above(self, bound_s: float) -> int:
        """How many took longer, at least."""
        return sum(self.slow[_bucket(bound_s) + 1 :])

    def p99_s(self) -> float:
        """The upper edge of the bucket that the 99th percentile is in."""
        rest = self.exchanges * (1 - _SLOW)
        for bucket, count in enumerate(self.slow):
            rest -= count
            if rest <= 0:
                return float(FASTEST_S * 2 ** ((bucket + 1) / PER_DOUBLING))
        return 0.0


def _bucket(seconds: float) -> int:
    return min(BUCKETS - 1, int(PER_DOUBLING * math.log2(max(seconds, FASTEST_S) / FASTEST_S)))


def judge(bands: Guardrail, treated: Tally, control: Tally, window_s: float) -> dict[str, Any] | None:
    """None within all bands; else which was left, by what. `window_s` is how long the tallies were taken over."""
    if bands.spend is not None and treated.nanodollars * _HOUR_S > bands.spend * max(window_s, bands.window):
        return {"metric": "spend", "nanodollars": treated.nanodollars, "window_s": round(window_s)}
    if treated.exchanges < bands.at_least:
        return None
    return _absolute(bands, treated) or (
        _compared(bands, treated, control) if control.exchanges >= bands.at_least else None
    )


def _absolute(bands: Guardrail, treated: Tally) -> dict[str, Any] | None:
    count = treated.exchanges
    if bands.error_rate is not None and _at_least(treated.failed, count) > bands.error_rate:
        return {"metric": "error_rate", "share": _rounded(treated.failed / count), "bound": bands.error_rate}
    if bands.p99 is not None and _at_least(treated.above(bands.p99), count) > _SLOW:
        return {"metric": "p99", "seconds": _rounded(treated.p99_s()), "bound": bands.p99}
    return None


def _compared(bands: Guardrail, treated: Tally, control: Tally) -> dict[str, Any] | None:
    over = bands.over_control
    if over.error_rate is not None:
        with_it, without = treated.failed / treated.exchanges, control.failed / control.exchanges
        if with_it - without - over.error_rate > _ERRORS * _error(treated, control):
            return {"metric": "error_rate", "share": _rounded(with_it), "control": _rounded(without)}
    if over.p99 is not None and control.exchanges:
        bound_s = control.p99_s() * over.p99
        if _at_least(treated.above(bound_s), treated.exchanges) > _SLOW:
            return {"metric": "p99", "seconds": _rounded(treated.p99_s()), "control": _rounded(control.p99_s())}
    if over.spend is not None and _dearer(treated, control, over.spend):
        means = [round(tally.nanodollars / tally.exchanges) for tally in (treated, control)]
        return {"metric": "spend", "nanodollars": means[0], "control": means[1]}
    return None


def _dearer(treated: Tally, control: Tally, times: float) -> bool:
    """Whether an exchange costs more than so many times the control group's, by more than chance."""
    with_it, without = treated.nanodollars / treated.exchanges, control.nanodollars / control.exchanges
    variance = _variance(treated) + times**2 * _variance(control)
    return with_it - times * without > _ERRORS * math.sqrt(variance)


def _variance(tally: Tally) -> float:
    """Of the mean cost of an exchange; each attempt counts alone, which is a little too wide."""
    mean = tally.nanodollars / tally.exchanges
    return max(0.0, tally.squares * _UNIT**2 / tally.exchanges - mean**2) / tally.exchanges


def _at_least(count: int, of: int) -> float:
    """The lower end of Wilson's interval of a share."""
    share, z = count / of, _ERRORS
    middle = share + z * z / (2 * of)
    width = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - width) / (1 + z * z / of)


def _error(treated: Tally, control: Tally) -> float:
    """The standard error of the difference of two shares, each with one failure and one success more: with none at all
    it isn't known to be 0 (Agresti and Caffo)."""
    shares = [((tally.failed + 1) / (tally.exchanges + 2), tally.exchanges + 2) for tally in (treated, control)]
    return math.sqrt(sum(share * (1 - share) / count for share, count in shares))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
