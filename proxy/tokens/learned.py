"""What usage has taught about one model's estimates: a correction, and how far beyond it one request in a hundred goes.

Rules (pure; an observation is a few additions, whatever came before):
1. Requests are judged by size class: framing weighs on small ones, samples on large ones.
2. The correction is the mean of observed / estimated, begun with two observations such as the other classes have: so
   the first requests move it, and none can throw it far. Ratios beyond 8 are somebody else's fault and count as 8.
3. The 99th percentile is that of a histogram whose steps are 4.4 % wide. Below 99 observations it is the larger of what
   the family promises and of the largest seen.
4. Old observations fade: at `MOST` of a class, all its counts are halved.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

MOST: Final = 4096
STEPS: Final = 96
_PER_OCTAVE: Final = 16
_LOWEST: Final = -3.0  # octaves
_FARTHEST: Final = 8.0
_BEFORE: Final = 2.0  # observations that the other classes' correction counts for
CLASSES: Final = (96, 1536)
"""Where the size classes end, in estimated tokens; the last has no end."""


class SizeClass(msgspec.Struct):
    """Observations of requests of one size: how many, the sum of their ratios, and the histogram of them."""

    count: float = 0
    ratios: float = 0.0
    steps: list[float] = msgspec.field(default_factory=lambda: [0] * STEPS)

    def add(self, ratio: float) -> None:
        """One observation."""
        self.count += 1
        self.ratios += ratio
        step = int((math.log2(ratio) - _LOWEST) * _PER_OCTAVE)
        self.steps[step if step < STEPS else STEPS - 1] += 1
        if self.count >= MOST:
            self.fade()

    def fade(self) -> None:
        """Halves what it knows."""
        self.count /= 2
        self.ratios /= 2
        self.steps = [n / 2 for n in self.steps]

    def p99(self, promised: float) -> float:
        """The ratio that 99 of 100 don't exceed, by the upper edge of its step."""
        rank, seen = math.ceil((self.count + 1) * 0.99), 0.0
        enough = rank <= self.count
        for step in range(STEPS - 1, -1, -1):
            seen += self.steps[step]
            if seen > (self.count - rank if enough else 0):
                edge = 2 ** ((step + 1) / _PER_OCTAVE + _LOWEST)
                return edge if enough else max(promised, edge)
        return promised

    def merge(self, other: SizeClass, sign: int = 1) -> None:
        """Adds (or takes away) what another has seen."""
        self.count = max(0.0, self.count + sign * other.count)
        self.ratios = max(0.0, self.ratios + sign * other.ratios)
        self.steps = [max(0.0, a + sign * b) for a, b in zip(self.steps, other.steps, strict=True)]


class Learned(msgspec.Struct):
    """All that is known of one model."""

    sizes: list[SizeClass] = msgspec.field(default_factory=lambda: [SizeClass() for _ in range(len(CLASSES) + 1)])

    def add(self, raw: float, observed: int) -> None:
        """A request that was estimated at `raw` tokens, uncorrected, had `observed`."""
        ratio = observed / raw
        ratio = _FARTHEST if ratio > _FARTHEST else 1 / _FARTHEST if ratio < 1 / _FARTHEST else ratio
        self.sizes[size_of(raw)].add(ratio)

    def correction(self, size: int) -> float:
        """What an uncorrected estimate of this size class is multiplied by."""
        own, count, ratios = self.sizes[size], _BEFORE, _BEFORE
        for other in self.sizes:
            if other is not own:
                count += other.count
                ratios += other.ratios
        return (own.ratios + _BEFORE * ratios / count) / (own.count + _BEFORE)

    def p99(self, size: int, promised: float) -> float:
        """What an uncorrected estimate is multiplied by so that 99 of 100 requests have no more."""
        return self.sizes[size].p99(promised * self.correction(size))

    @property
    def count(self) -> float:
        """Observations, faded."""
        return sum([size.count for size in self.sizes])

    def merge(self, other: Learned, sign: int = 1) -> None:
        """Adds (or takes away) what another has seen."""
        for own, more in zip(self.sizes, other.sizes, strict=True):
            own.merge(more, sign)
            while own.count >= MOST:
                own.fade()


def size_of(raw: float) -> int:
    """The size class of an estimate."""
    return 0 if raw < CLASSES[0] else 1 if raw < CLASSES[1] else 2


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Learned).decode


def dumped(learned: Learned) -> bytes:
    """As bytes, to be kept."""
    return _encode(learned)


def loaded(data: bytes) -> Learned | None:
    """From bytes; None where they were written by another version."""
    try:
        learned = _decode(data)
    except msgspec.DecodeError:
        return None
    whole = len(learned.sizes) == len(CLASSES) + 1 and all(len(size.steps) == STEPS for size in learned.sizes)
    return learned if whole else None
