"""How likely the neighbours' answer is right: a logistic regression on features. Pure.

Until there are labels, and where there are few, a prior by hand stands in: nearer, more alike and more agreed upon is
better; other numbers, a negation or an opposite is worse. Labels move the weights away from it (ridge towards the
prior, not towards 0). No products of features: they ranked worse, above all with few labels, and what lay far out was
surely right to them.
"""

from __future__ import annotations

from math import exp
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from policies.cache.semantic.features import CENTRES, NAMES, PRIOR, SPREADS

Array = npt.NDArray[np.floating[Any]]
_STEPS: Final = 12
_CLIP: Final = 3.0  # what lies further out says no more: beyond it nothing was learnt
_RIDGE: Final = 3.0
FOLDS: Final = 4
WIDTH: Final = 1 + len(NAMES)


class Weights(msgspec.Struct, frozen=True):
    """A fitted score: what features are centred and scaled by, and what each is worth."""

    centres: Array
    spreads: Array
    beta: Array

    def score(self, features: Array) -> float:
        """The probability that the answer is right."""
        scaled = np.minimum(np.maximum((features - self.centres) / self.spreads, -_CLIP), _CLIP)
        logit = float(self.beta[0] + scaled @ self.beta[1:])
        return 1 / (1 + exp(-max(-30.0, min(30.0, logit))))

    def scores(self, rows: Array) -> Array:
        """The same for many at once."""
        return _sigmoid(_expanded((rows - self.centres) / self.spreads) @ self.beta)

    def parts(self, features: Array) -> dict[str, float]:
        """What each feature adds to the logit; for people."""
        terms = _expanded((features - self.centres) / self.spreads) * self.beta
        return dict(zip(NAMES, terms[1:].tolist(), strict=True))


class Fit(msgspec.Struct, frozen=True):
    """Weights of all labels, and those that left out a fold each, by which the labels of that fold are scored."""

    weights: Weights
    folds: tuple[Weights, ...]

    @property
    def foreign(self) -> bool:
        """Whether it is of other features: another version's."""
        return len(self.weights.beta) != WIDTH

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
    return np.concatenate([ones, scaled], axis=-1)


def prior() -> Weights:
    """Before any label."""
    return Weights(CENTRES, SPREADS, _by_hand())


def _by_hand() -> Array:
    return np.concatenate([[-1.5], PRIOR])


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
    origin[1:] *= spreads / SPREADS
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
