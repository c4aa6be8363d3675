"""What others do, on the same vectors: a fixed threshold of the cosine, and vCache's rule.

vCache (arXiv 2502.03771): each cached entry has observations of its own, pairs of similarity and whether its answer was
right. A logistic curve is fitted to them; with what confidence it can be trusted decides, at random, whether to ask
upstream (and observe) or to answer. Its bound holds for all requests, not for hits.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np

from bench.cache.asked import Asked
from policies.cache.semantic.static import Static

_EPSILONS = np.linspace(0.01, 0.5, 25)
_FEWEST = 6  # observations of an entry before its curve is trusted
_STEPS = 15


def vectors(stream: list[Asked]) -> np.ndarray:
    """Of all questions, by the product's embedder."""
    static = Static()
    return np.stack([_vector(static, one.text) for one in stream])


def _vector(static: Static, text: str) -> np.ndarray:
    return static.vector(static.rows(static.tokens(text)))


def near(stream: list[Asked], least: float) -> float:
    """The share of questions that differ by a word from an earlier one and have this similarity to it."""
    static = Static()
    similar = [_vector(static, one.text) @ _vector(static, one.after) for one in stream if one.after]
    return float(np.mean(np.array(similar) >= least)) if similar else 0.0


@dataclass(slots=True)
class Outcome:
    """Of a rule on a stream."""

    hits: int
    wrong: int
    requests: int


def fixed(stream: list[Asked], made: np.ndarray, least: float) -> Outcome:
    """Serves the nearest entry's answer from a similarity on; keeps what was asked upstream."""
    kept = np.zeros_like(made)
    rights: list[str] = []
    hits = wrong = 0
    for one, vector in zip(stream, made, strict=True):
        count = len(rights)
        if count:
            similar = kept[:count] @ vector
            nearest = int(similar.argmax())
            if similar[nearest] >= least:
                hits += 1
                wrong += rights[nearest] != one.right
                continue
        kept[count] = vector
        rights.append(one.right)
    return Outcome(hits, wrong, len(stream))


@dataclass(slots=True)
class _Entry:
    right: str
    seen: list[tuple[float, bool]] = field(default_factory=list)
    slope: float = 0.0
    middle: float = 0.0
    error: float = math.inf  # of `middle`


def vcache(stream: list[Asked], made: np.ndarray, bound: float, seed: int = 0) -> Outcome:
    """vCache's rule. Entries are added where the nearest one's answer was wrong."""
    drawn = random.Random(seed)
    kept = np.zeros_like(made)
    entries: list[_Entry] = []
    hits = wrong = 0
    for one, vector in zip(stream, made, strict=True):
        count = len(entries)
        if count:
            similar = kept[:count] @ vector
            nearest = int(similar.argmax())
            entry, similarity = entries[nearest], float(similar[nearest])
            right = entry.right == one.right
            if drawn.random() >= _explores(entry, similarity, bound):
                hits += 1
                wrong += not right
                continue
            entry.seen.append((similarity, right))
            _fit(entry)
            if right:
                continue
        kept[count] = vector
        entries.append(_Entry(one.right))
    return Outcome(hits, wrong, len(stream))


def _explores(entry: _Entry, similarity: float, bound: float) -> float:
    """The chance to ask upstream: the least over confidences 1-ε of (1 - δ - α)/(1 - α), α the surely right share."""
    if len(entry.seen) < _FEWEST or not math.isfinite(entry.error):
        return 1.0
    shifts = entry.middle + entry.error * _QUANTILES
    sure = (1 - _EPSILONS) / (1 + np.exp(np.clip(-entry.slope * (similarity - shifts), -50, 50)))
    return float(np.clip(((1 - bound - sure) / np.maximum(1 - sure, 1e-9)).min(), 0.0, 1.0))


def _fit(entry: _Entry) -> None:
    """Logistic regression of right on similarity, with a little ridge, and the standard error of its middle."""
    if len(entry.seen) < _FEWEST:
        return
    similar, right = np.array(entry.seen, float).T
    rows = np.stack([np.ones_like(similar), similar], 1)
    beta = np.array([-8.0, 10.0])
    ridge = np.diag([1e-3, 1e-3])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(rows @ beta, -30, 30)))
        hessian = (rows * (p * (1 - p) + 1e-9)[:, None]).T @ rows + ridge
        step = np.linalg.solve(hessian, rows.T @ (right - p) - ridge @ beta)
        beta = beta + step * min(1.0, 5 / max(float(np.abs(step).max()), 1e-9))
    slope = max(float(beta[1]), 1e-3)
    middle = -float(beta[0]) / slope
    gradient = np.array([-1 / slope, -middle / slope])
    entry.slope, entry.middle = slope, middle
    entry.error = float(np.sqrt(max(gradient @ np.linalg.inv(hessian) @ gradient, 0.0)))


def _quantile(p: float) -> float:
    """Of the standard normal distribution (bisection on erf: exact enough, and short)."""
    low, high = -8.0, 8.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 * (1 + math.erf(middle / math.sqrt(2))) < p else (low, middle)
    return (low + high) / 2


_QUANTILES = np.array([_quantile(1 - float(epsilon)) for epsilon in _EPSILONS])
