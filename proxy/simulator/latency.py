"""Latency distributions: how long until the first token, and between tokens.

Written as `20ms` (constant), `exponential(20ms)` with its mean, or `lognormal(300ms, 0.5)` with its median and sigma.
Durations take `us`, `ms` or `s`; a bare number is milliseconds. The caller brings the random source, so
a seed fixes every draw.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from random import Random
from typing import Literal

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s)?\s*")
_CALL = re.compile(r"\s*(constant|exponential|lognormal)\s*\(\s*([^,()]+)(?:,\s*([0-9.]+)\s*)?\)\s*")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, None: 1e-3}


def seconds(text: str) -> float:
    """A duration in seconds. Raises ValueError."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a duration: write 20ms, 1.5s or 300us")
    return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class Latency:
    """One distribution. `scale_s` is the constant, the mean or the median, by kind."""

    kind: Literal["constant", "exponential", "lognormal"] = "constant"
    scale_s: float = 0.0
    sigma: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Latency:
        """Read the written form. Raises ValueError."""
        called = _CALL.fullmatch(text)
        if not called:
            return cls("constant", seconds(text))
        kind, scale, sigma = called.groups()
        if (kind == "lognormal") != (sigma is not None):
            raise ValueError(f"{text!r}: lognormal takes a median and a sigma, the others one duration")
        return cls(kind, seconds(scale), float(sigma or 0))  # type: ignore[arg-type]

    def draw(self, random: Random) -> float:
        """One sample in seconds."""
        if self.kind == "constant":
            return self.scale_s
        if self.kind == "exponential":
            return random.expovariate(1 / self.scale_s) if self.scale_s else 0.0
        return self.scale_s * math.exp(random.gauss(0, self.sigma))

    def __str__(self) -> str:
        scale = f"{self.scale_s * 1000:g}ms"
        if self.kind == "constant":
            return scale
        return f"lognormal({scale}, {self.sigma:g})" if self.kind == "lognormal" else f"exponential({scale})"


NONE = Latency()
