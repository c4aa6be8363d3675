"""How likely the neighbours' answer is right: a logistic regression on features and some of their products. Pure.

Until there are labels, and where there are few, a prior by hand stands in: nearer, more alike and more agreed upon is
better; other numbers, a negation or an opposite is worse. Labels move the weights away from it (ridge towards the
prior, not towards 0).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from policies.cache.semantic.features import CENTRES, NAMES, PRIOR, SPREADS

Array = npt.NDArray[np.floating[Any]]
_STEPS: Final = 12
_CLIP: Final = 6.0
_RIDGE: Final = 3.0
FOLDS: Final = 4
_PRODUCTS: Final = (
    ("best", "share"),
    ("best", "centroid_margin"),
    ("share", "centroid_margin"),
    ("margin", "centroid_margin"),
    ("centroid", "centroid_margin"),
    ("members", "centroid_margin"),
    ("best", "best"),
    ("centroid_margin", "centroid_margin"),
    ("share", "share"),
    ("words", "best"),
    ("record", "centroid_margin"),
    ("record", "share"),
    ("covered", "covered"),
    ("covered", "words"),
    ("covered", "share"),
    ("worst", "covered"),
    ("worst", "words"),
    ("members", "covered"),
    ("members", "worst"),
)
_LEFT: Final = np.array([NAMES.index(left) for left, _ in _PRODUCTS])
_RIGHT: Final = np.array([NAMES.index(right) for _, right in _PRODUCTS])
WIDTH: Final = 1 + len(NAMES) + len(_PRODUCTS)


class Weights(msgspec.Struct, frozen=True):
    """A fitted score: what features are centred and scaled by, and what each is worth."""

    centres: Array
    spreads: Array
    beta: Array

    def score(self, features: Array) -> float:
        """The probability that the answer is right."""
        logit = float(_expanded((features - self.centres) / self.spreads) @ self.beta)
        return float(1 / (1 + np.exp(-max(-30.0, min(30.0, logit)))))

    def scores(self, rows: Array) -> Array:
        """The same for many at once."""
        return _sigmoid(_expanded((rows - self.centres) / self.spreads) @ self.beta)

    def parts(self, features: Array) -> dict[str, float]:
        """What each feature adds to the logit, its products divided between both; for people."""
        terms = _expanded((features - self.centres) / self.spreads) * self.beta
        found = dict(zip(NAMES, terms[1 : 1 + len(NAMES)].tolist(), strict=True))
        for (left, right), term in zip(_PRODUCTS, terms[1 + len(NAMES) :].tolist(), strict=True):
            found[left] += term / 2
            found[right] += term / 2
        return found


class Fit(msgspec.Struct, frozen=True):
    """Weights of all labels, and those that left out a fold each, by which the labels of that fold are scored."""

    weights: Weights
    folds: tuple[Weights, ...]

    def held_out(self, rows: Array, numbers: Array) -> Array:
        """Scores of labels, each by weights that haven't seen it."""
        scores = np.empty(len(rows))
        for fold, weights in enumerate(self.folds):
            mine = numbers % FOLDS == fold
            scores[mine] = weights.scores(rows[mine])
        return scores


def _expanded(scaled: Array) -> Array:
    scaled = scaled.clip(-_CLIP, _CLIP)
    ones = np.ones((*scaled.shape[:-1], 1))
    return np.concatenate([ones, scaled, (scaled[..., _LEFT] * scaled[..., _RIGHT]).clip(-8, 8)], axis=-1)


def prior() -> Weights:
    """Before any label."""
    return Weights(CENTRES, SPREADS, _by_hand())


def _by_hand() -> Array:
    beta = np.zeros(WIDTH)
    beta[0] = -1.5
    beta[1 : 1 + len(NAMES)] = PRIOR
    return beta


def fit(rows: Array, right: Array, numbers: Array) -> Fit:
    """Fits all, and all but each fold. Some tenths of a second for thousands of labels: not for the loop."""
    folds = [numbers % FOLDS != fold for fold in range(FOLDS)]
    return Fit(fitted(rows, right), tuple(fitted(rows[others], right[others]) for others in folds))


def fitted(features: Array, right: Array) -> Weights:
    """Newton's method, each step bounded: without that, separable labels carry the weights away."""
    # The prior's scale holds where labels are few: spreads of few rows are no spreads.
    n, k = len(features), 100.0
    centres = (features.sum(0) + k * CENTRES) / (n + k)
    spreads = np.sqrt((((features - centres) ** 2).sum(0) + k * SPREADS**2) / (n + k)) + 1e-6
    rows = _expanded((features - centres) / spreads)
    origin = _by_hand()
    origin[1 : 1 + len(NAMES)] *= spreads / SPREADS
    ridge = _RIDGE * np.eye(rows.shape[1])
    ridge[0, 0] = 0.1  # how often answers are right at all is for the labels to say
    return Weights(centres, spreads, _newton(rows, right, origin, ridge))


def _newton(rows: Array, right: Array, origin: Array, ridge: Array) -> Array:
    beta = origin
    for _ in range(_STEPS):
        p = _sigmoid(rows @ beta)
        hessian = (rows * (p * (1 - p) + 1e-9)[:, None]).T @ rows + ridge
        step = np.linalg.solve(hessian, rows.T @ (right - p) - ridge @ (beta - origin))
        largest = float(np.abs(step).max())
        beta = beta + step * min(1.0, 2 / max(largest, 1e-9))
        if largest < 1e-3:
            break
    return beta


def _sigmoid(logits: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logits.clip(-30, 30))))
