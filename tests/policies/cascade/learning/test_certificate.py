"""What a certificate proves, when it gives up, and when it reverts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from policies.cascade.learning.certificate import FEW, Certificate

EPSILON, DELTA = 0.02, 0.05
GRID = [at / 10 for at in range(1, 11)]


def stream(seed: int, worse: float, better: float = 0.0) -> Iterator[tuple[float, float]]:
    """Scores and losses: the small one is worse more often the higher the score, on average `worse` of the time."""
    drawn = random.Random(seed)
    while True:
        score, chance = drawn.random(), drawn.random()
        lost = 2 * worse * score
        yield score, 1.0 if chance < lost else -1.0 if chance < lost + better else 0.0


def fed(seed: int, worse: float, pairs: int, better: float = 0.0) -> Certificate:
    made = Certificate(EPSILON, DELTA, GRID)
    for (score, loss), _ in zip(stream(seed, worse, better), range(pairs), strict=False):
        made.observe(score, loss)
    return made


def test_without_losses_all_is_proven_as_soon_as_that_can_be() -> None:
    """Not before (1 - ε)^n < δ, 148 pairs; and within twice as many."""
    assert fed(1, 0.0, 147).threshold is None
    proven = fed(1, 0.0, 296)
    assert proven.threshold == 1.0
    assert proven.status == "certified"
    assert proven.p_value <= DELTA


@pytest.mark.parametrize("squares", [None, (0.006, 0.022), (0.5, 0.001)])
def test_a_threshold_that_loses_more_is_seldom_proven(squares: tuple[float, float] | None) -> None:
    """Of 100 orders at most 5 %, however often one looks and whatever was guessed: the true loss of threshold t is
    `worse`·t²."""
    broken = 0
    for seed in range(100):
        made = Certificate(EPSILON, DELTA, [0.5, 1.0], squares=squares)
        for (score, loss), _ in zip(stream(seed, 0.0225), range(500), strict=False):
            made.observe(score, loss)
        broken += made.threshold == 1.0
    assert broken <= 5


def test_a_good_guess_at_the_variance_takes_fewer_pairs() -> None:
    """Of ten orders, those proven within 500 pairs; a bad one takes more."""
    proven = []
    for squares in ((0.00125, 0.005), None, (0.5, 0.5)):
        count = 0
        for seed in range(10):
            made = Certificate(EPSILON, DELTA, [0.5, 1.0], squares=squares)
            for (score, loss), _ in zip(stream(seed, 0.005), range(280), strict=False):
                made.observe(score, loss)
            count += made.threshold == 1.0
        proven.append(count)
    assert proven[0] > proven[1] > proven[2]


def test_what_is_proven_grows_from_conservative_to_aggressive() -> None:
    """More pairs, a more aggressive threshold; it stays within what is allowed."""
    few, many = fed(3, 0.06, 400, 0.02), fed(3, 0.06, 4000, 0.02)
    assert many.threshold is not None
    assert (few.threshold or 0) < many.threshold <= 0.8
    assert many.accepts(many.threshold)
    assert not many.accepts(many.threshold + 0.01)


def test_propensities_weigh_as_much_as_judging_all() -> None:
    """Judging half of the requests, each told with its chance, proves the same claim, a little later."""
    made, drawn = Certificate(EPSILON, DELTA, GRID, floor=0.5), random.Random(4)
    for (score, loss), _ in zip(stream(4, 0.004), range(2000), strict=False):
        if drawn.random() < 0.5:
            made.observe(score, loss, 0.5)
        else:
            made.observe_unjudged(score)
    assert made.threshold == 1.0
    assert made.pairs < 1100
    assert made.rows()[-1].loss == pytest.approx(0.004, abs=0.004)


def test_what_is_above_the_grid_is_no_pair() -> None:
    """It is escalated by every threshold: it counts as a request without loss."""
    made = Certificate(EPSILON, DELTA, [0.2, 0.4])
    for at in range(400):
        made.observe(0.3 if at % 4 == 0 else 0.9, 0.0)
    assert made.pairs == 100
    assert made.threshold == 0.4
    assert made.escalated(0.4) == 0.75
    assert made.escalated(0.2) == 1.0


def test_a_small_model_that_is_too_dear_or_too_bad_is_infeasible() -> None:
    """Where what pays surely loses too much; cheaper or better ones aren't given up."""
    found = {}
    for small, worse in ((300, 0.2), (300, 0.005), (1000, 0.005), (10, 0.03)):
        made = Certificate(EPSILON, DELTA, GRID)
        for (score, loss), _ in zip(stream(5, worse), range(FEW + 600), strict=False):
            made.observe(score, loss)
            made.observe_costs(small, 1000)
        found[small, worse] = made.status
    assert found[300, 0.2] == "infeasible"
    assert found[1000, 0.005] == "infeasible"
    assert found[300, 0.005] == found[10, 0.03] == "certified"


def test_a_drift_reverts_for_good_and_its_absence_does_not() -> None:
    """Evidence from before it doesn't hold the proof back for long."""
    made = fed(6, 0.005, 2000)
    assert made.status == "certified"
    for (score, loss), _ in zip(stream(7, 0.08), range(1500), strict=False):
        made.observe(score, loss)
        if made.status == "reverted":
            break
    for (score, loss), _ in zip(stream(8, 0.0), range(500), strict=False):
        made.observe(score, loss)
    assert made.status == "reverted"
    assert made.threshold is None
    assert all(fed(seed, 0.015, 1500).status != "reverted" for seed in range(5))
    dear = Certificate(EPSILON, DELTA, GRID)
    for at in range(2000):
        dear.observe(0.1, float(at > 1000 and at % 5 == 0))
        dear.observe_costs(1000, 1000)
    assert dear.status == "infeasible"  # proven, and broken since, but never served


def test_a_drift_is_noticed_as_soon_late_as_early() -> None:
    """New gamblers join all the time: what was seen before doesn't count against them."""
    took = []
    for before in (1000, 6000):
        made = fed(6, 0.005, before)
        for at, (score, loss) in enumerate(stream(7, 0.08)):
            made.observe(score, loss)
            if made.status == "reverted":
                took.append(at)
                break
    assert max(took) <= 1.5 * min(took)


def test_it_survives_json() -> None:
    """The same state goes on in the same way; another version is refused."""
    made = Certificate(EPSILON, DELTA, GRID, squares=[0.01] * len(GRID))
    for (score, loss), _ in zip(stream(9, 0.05), range(333), strict=False):
        made.observe(score, loss)
    made.observe_costs(10, 100)
    again = Certificate.restore(json.loads(json.dumps(made.state())))
    for (score, loss), _ in zip(stream(10, 0.05), range(100), strict=False):
        made.observe(score, loss)
        again.observe(score, loss)
    assert json.dumps(again.state()) == json.dumps(made.state())
    assert repr(again) == repr(made)
    with pytest.raises(ValueError, match="version"):
        Certificate.restore({**made.state(), "version": 0})


def test_what_is_needed_is_told_roughly() -> None:
    """Before the first pair and on the way; None where nothing grows."""
    assert 150 <= (Certificate(EPSILON, DELTA, GRID).pairs_needed_estimate() or 0) <= 300
    made = fed(11, 0.0, 100)
    assert 30 <= (made.pairs_needed_estimate() or 0) <= 150
    losing = Certificate(EPSILON, DELTA, [0.5, 1.0])
    for (score, loss), _ in zip(stream(12, 0.5), range(300), strict=False):
        losing.observe(score, loss)
    assert losing.pairs_needed_estimate() is None


@pytest.mark.parametrize(("loss", "propensity"), [(1.5, 1.0), (float("nan"), 1.0), (0.0, 0.5), (0.0, 1.5)])
def test_what_is_out_of_range_is_refused(loss: float, propensity: float) -> None:
    """Nothing of it is counted."""
    made = Certificate(EPSILON, DELTA, GRID)
    with pytest.raises(ValueError, match="propensity"):
        made.observe(0.1, loss, propensity)
    assert made.pairs == 0


@pytest.mark.parametrize("grid", [[], [0.2, 0.1], [0.1, 0.1]])
def test_a_grid_is_ascending(grid: list[float]) -> None:
    """Fixed-sequence testing needs the order."""
    with pytest.raises(ValueError, match="grid"):
        Certificate(EPSILON, DELTA, grid)


@pytest.mark.parametrize("squares", [[0.1], [0.1, 0.0]])
def test_a_guess_is_for_each_threshold(squares: list[float]) -> None:
    """And above 0."""
    with pytest.raises(ValueError, match="guess"):
        Certificate(EPSILON, DELTA, [0.1, 0.2], squares=squares)
