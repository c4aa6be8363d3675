"""When a policy has left its band."""

from __future__ import annotations

import random

import pytest

from proxy.config.guardrail import Guardrail
from proxy.rollout.guardrail import Tally, judge


def tally(count: int, failed: int = 0, seconds: float = 1.0, slow: int = 0, nanodollars: int = 0) -> Tally:
    """So many exchanges, some of which failed or took a minute."""
    found = Tally()
    for index in range(count):
        found.exchange(60.0 if index < slow else seconds, index < failed)
        found.attempt(nanodollars)
    return found


@pytest.mark.parametrize(
    ("bands", "treated", "control", "metric"),
    [
        ({"error_rate": 0.05}, tally(100, 40), tally(0), "error_rate"),
        ({"error_rate": 0.05}, tally(100, 8), tally(0), None),  # as likely by chance
        ({"error_rate": 0.05}, tally(49, 49), tally(0), None),  # too few
        ({"p99": "10s"}, tally(200, slow=20), tally(0), "p99"),
        ({"p99": "10s"}, tally(200, slow=3), tally(0), None),
        ({"p99": "2m"}, tally(200, slow=200), tally(0), None),
        ({"spend": "1 USD/hour"}, tally(10, nanodollars=10**7), tally(0), "spend"),  # 10 cents in 5 minutes
        ({"spend": "24 USD/day"}, tally(10, nanodollars=8 * 10**6), tally(0), None),
        ({"over_control": {"error_rate": "1%"}}, tally(200, 60), tally(200, 20), "error_rate"),
        ({"over_control": {"error_rate": "1%"}}, tally(200, 60), tally(200, 55), None),
        ({"over_control": {"error_rate": "1%"}}, tally(200, 60), tally(10), None),
        ({"over_control": {"p99": 1.5}}, tally(200, seconds=4), tally(200, seconds=1), "p99"),
        ({"over_control": {"p99": 1.5}}, tally(200, seconds=4), tally(200, seconds=4), None),
        ({"over_control": {"spend": 1.2}}, tally(200, nanodollars=2000), tally(200, nanodollars=1000), "spend"),
        ({"over_control": {"spend": 1.2}}, tally(200, nanodollars=1100), tally(200, nanodollars=1000), None),
    ],
)
def test_bands(bands: dict[str, object], treated: Tally, control: Tally, metric: str | None) -> None:
    """Each band by itself: left, kept, and not to be told from chance."""
    found = judge(Guardrail.model_validate(bands), treated, control, 300.0)
    assert (found or {}).get("metric") == metric


def test_spend_isnt_extrapolated() -> None:
    """A burst in the first second of a window is compared with what the whole window may cost."""
    bands = Guardrail.model_validate({"spend": "12 USD/hour"})
    assert judge(bands, tally(1, nanodollars=9 * 10**8), tally(0), 1.0) is None
    assert judge(bands, tally(1, nanodollars=11 * 10**8), tally(0), 1.0) is not None


def test_chance_rarely_steps_back() -> None:
    """A policy that is as good as its control group, and exactly at its bound, stays on in almost all windows."""
    draw = random.Random(7)
    bands = Guardrail.model_validate({"error_rate": "5%", "over_control": {"error_rate": "0%"}})
    out = 0
    for _ in range(400):
        arms = [tally(0), tally(0)]
        for arm in arms:
            for _ in range(200):
                arm.exchange(1.0, draw.random() < 0.05)
        out += judge(bands, arms[0], arms[1], 300.0) is not None
    assert out <= 6


def test_windows_of_totals() -> None:
    """The difference of two totals is what came between them; of several workers, they add up."""
    early, late = tally(10, 2, nanodollars=5), tally(30, 5, nanodollars=5)
    between = late.since(early)
    assert (between.exchanges, between.failed, between.nanodollars, sum(between.slow)) == (20, 3, 100, 20)
    between.add(early)
    assert between == late
