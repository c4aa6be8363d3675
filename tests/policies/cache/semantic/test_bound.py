"""The threshold: what it bounds on simulated traffic, when it serves nothing, and that errors are made monotone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cache.semantic.bound import FEWEST, NEVER, WON, interval, monotone, threshold, won


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and whether each is wrong: surely not at 1, surely at 0."""
    random = np.random.default_rng(seed)
    scores = random.random(count)
    return scores, (random.random(count) > scores**0.3).astype(float)


@pytest.mark.parametrize("goal", [0.01, 0.02, 0.05])
def test_bounds_what_is_served(goal: float) -> None:
    """Over many draws, the true error of what would be served is about the goal at most; audits hold the rest."""
    errors, shares = [], []
    for seed in range(40):
        scores, wrong = drawn(3000, seed)
        least, _ = threshold(scores, wrong, scores, goal)
        fresh, truth = drawn(20_000, seed + 1000)
        served = fresh >= least
        shares.append(served.mean())
        if served.any():
            errors.append(truth[served].mean())
    assert np.mean(errors) <= 1.25 * goal
    assert np.mean(shares) > 0.2 * goal


def test_serves_nothing_without_evidence() -> None:
    """Too few labels, no traffic, or errors even at the top: no score is enough."""
    sure = np.ones(FEWEST - 1)
    assert threshold(sure, 0 * sure, sure, 0.02)[0] == NEVER
    many = np.linspace(0, 1, 500)
    assert threshold(many, 0 * many, np.array([]), 0.02)[0] == NEVER
    assert threshold(many, np.ones(500), many, 0.02)[0] == NEVER


def test_what_is_yet_to_be_proven_takes_more_labels() -> None:
    """A few dozen right labels are enough to go on, and not to begin; some hundred are."""
    for count, proven in ((60, False), (200, True)):
        scores, right = np.linspace(1, 0.5, count), np.zeros(count)
        assert threshold(scores, right, scores, 0.02)[0] < NEVER
        assert (threshold(scores, right, scores, 0.02, 0.02)[0] < NEVER) is proven


def test_who_is_mistaken_seldom_wins_a_bet() -> None:
    """However often one looks: twice the errors allowed win one time in twenty, a tenth of them nearly always."""
    random, labels = np.random.default_rng(3), np.arange(1, 1501)
    for error, often, least, most in ((0.1, 400, 0.0, 0.09), (0.005, 50, 0.9, 1.0)):  # 0.04 more for 400 draws
        wrong = (random.random((often, 1500)) < error).cumsum(1)
        assert least <= (won(labels, wrong, 0.05).max(1) >= WON).mean() <= most


def test_traffic_weighs_strata() -> None:
    """The same labels allow less where more of the traffic lies in the worse strata."""
    scores = np.linspace(1, 0, 1000)
    wrong = (np.arange(1000) % 25 == 0) & (scores < 0.6)
    good, _ = threshold(scores, wrong.astype(float), np.linspace(1, 0.61, 2000), 0.02)
    poor, _ = threshold(scores, wrong.astype(float), np.linspace(0.62, 0, 2000), 0.02)
    assert good < poor


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_monotone(rates: list[float]) -> None:
    """Never falls, keeps the mean, and leaves alone what already never falls."""
    given_rates = np.array(rates)
    weights = np.ones(len(rates))
    made = monotone(given_rates, weights)
    assert np.all(np.diff(made) >= -1e-9)
    assert made.mean() == pytest.approx(given_rates.mean())
    assert np.allclose(monotone(np.sort(given_rates), weights), np.sort(given_rates))


def test_intervals_hold_their_rate() -> None:
    """An interval contains the rate, and is all there is without audits."""
    assert interval(0.0, 0) == (0.0, 0.0, 1.0)
    for rate, n in ((0.0, 30), (0.02, 100), (0.5, 7)):
        seen, least, most = interval(rate, n)
        assert seen == rate
        assert 0 <= least <= rate <= most <= 1
