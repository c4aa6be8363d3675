"""Latency distributions: their written form and their draws."""

from __future__ import annotations

import statistics
from random import Random

import pytest

from proxy.simulator.latency import Latency


@pytest.mark.parametrize(
    ("text", "kind", "scale", "sigma"),
    [
        ("20ms", "constant", 0.02, 0.0),
        ("20", "constant", 0.02, 0.0),
        ("1.5s", "constant", 1.5, 0.0),
        ("exponential(300us)", "exponential", 0.0003, 0.0),
        ("lognormal(300ms, 0.5)", "lognormal", 0.3, 0.5),
    ],
)
def test_written_forms(text: str, kind: str, scale: float, sigma: float) -> None:
    """Each form is read, and written as it can be read again."""
    latency = Latency.parse(text)
    assert (latency.kind, latency.sigma) == (kind, sigma)
    assert latency.scale_s == pytest.approx(scale)
    assert Latency.parse(str(latency)) == latency


@pytest.mark.parametrize("text", ["", "fast", "-3ms", "lognormal(3ms)", "exponential(3ms, 2)", "uniform(3ms)"])
def test_what_is_no_latency(text: str) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError, match=r"duration|takes"):
        Latency.parse(text)


def test_draws_follow_the_distribution() -> None:
    """The mean of the exponential and the median of the lognormal are as written; a constant never varies."""
    random = Random(1)
    exponential = [Latency.parse("exponential(20ms)").draw(random) for _ in range(4000)]
    lognormal = [Latency.parse("lognormal(300ms, 0.5)").draw(random) for _ in range(4000)]
    assert statistics.mean(exponential) == pytest.approx(0.02, rel=0.1)
    assert statistics.median(lognormal) == pytest.approx(0.3, rel=0.1)
    assert {Latency.parse("5ms").draw(random) for _ in range(9)} == {0.005}
