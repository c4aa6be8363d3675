"""Ridge regression on examples of many sparse words and a few numbers. Pure.

Rules:
1. How strong the ridge is, held-out examples decide; what is told of an example by fits without it comes along.
2. Up to `CLOSED` examples in closed form, in as many unknowns as there are examples: one eigendecomposition gives the
   fit for every ridge, and leaving one out needs no second fit. Nearly all of the time is spent without the
   interpreter's lock. Beyond that by conjugate gradients, which only need products with the sparse matrix, and folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
CLOSED: Final = 2000
_RIDGES: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_MANY_RIDGES: Final = (3.0, 10.0, 30.0)
_FOLDS: Final = 5
_GRADIENTS: Final = 30


class Rows:
    """Examples: numbers as they are, and of hashed words `places` of them, each example's of length 1."""

    def __init__(self, dense: Array, words: Sequence[npt.NDArray[np.int32]], places: int) -> None:
        self.dense = dense
        sizes = np.array([len(each) for each in words])
        self._places = places
        self._row = np.repeat(np.arange(len(words)), sizes)
        self._place = np.concatenate(words)
        self._shorter = 1 / np.sqrt(np.maximum(1, sizes))

    def __len__(self) -> int:
        return len(self.dense)

    def times(self, beta: Array) -> Array:
        """Of each example, the sum of what its numbers and words are worth."""
        cut = self.dense.shape[1]
        return np.asarray(self.dense @ beta[:cut] + self.worth(beta[cut:]))

    def worth(self, words: Array) -> Array:
        """Of each example, the sum of what its words are worth."""
        return np.asarray(np.bincount(self._row, words[self._place], minlength=len(self)) * self._shorter)

    def back(self, residual: Array) -> Array:
        """Of each number and word, the sum over its examples."""
        words = np.bincount(self._place, (residual * self._shorter)[self._row], minlength=self._places)
        return np.concatenate([self.dense.T @ residual, words])

    def alike(self) -> Array:
        """The product of each example with each."""
        words = np.zeros((len(self), self._places), np.float32)
        words[self._row, self._place] = self._shorter[self._row]
        return np.asarray(self.dense @ self.dense.T + words @ words.T)


class Ridge:
    """Fits to the same weighed rows, of whatever is told of them."""

    def __init__(self, rows: Rows, weights: Array) -> None:
        self._rows, self._weights, self._root = rows, weights, np.sqrt(weights)
        self._known: tuple[Array, Array] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def fitted(self, told: Array) -> tuple[Array, Array]:
        """What each number and word is worth; and what is told of each example by others."""
        return self._closed(told) if len(self) <= CLOSED else _by_folds(self._rows, told, self._weights)

    def _closed(self, told: Array) -> tuple[Array, Array]:
        """With the hat matrix H, the error at an example that is left out is that of the fit, over 1 - Hii."""
        root = self._root
        if self._known is None:
            self._known = np.linalg.eigh(self._rows.alike() * root[:, None] * root)
        sizes, ways = self._known
        along = ways.T @ (told * root)
        duals, held_out, least = told, told, math.inf
        for ridge in _RIDGES:
            kept = sizes / (sizes + ridge)
            errors = (told * root - ways @ (kept * along)) / (1 - ways**2 @ kept).clip(1e-6)
            if (error := float(errors @ errors)) < least:
                duals, held_out, least = root * (ways @ (along / (sizes + ridge))), told - errors / root, error
        return self._rows.back(duals), held_out


def _by_folds(rows: Rows, told: Array, weights: Array) -> tuple[Array, Array]:
    folds = np.arange(len(rows)) % _FOLDS

    def without(fold: int, ridge: float) -> Array:
        return rows.times(_solved(rows, told, weights * (folds != fold), ridge))

    first = folds == 0
    tried = {ridge: without(0, ridge) for ridge in _MANY_RIDGES}
    ridge = min(tried, key=lambda each: float((weights * (told - tried[each]) ** 2)[first].sum()))
    held_out = np.where(first, tried[ridge], 0.0)
    for fold in range(1, _FOLDS):
        held_out = np.where(folds == fold, without(fold, ridge), held_out)
    return _solved(rows, told, weights, ridge), held_out


def _solved(rows: Rows, told: Array, weights: Array, ridge: float) -> Array:
    """Conjugate gradients for (XᵀWX + ridge)·beta = XᵀW·told."""
    left = rows.back(weights * told)
    beta, way = np.zeros(len(left)), left
    size = first = float(left @ left)
    for _ in range(_GRADIENTS):
        bent = rows.back(weights * rows.times(way)) + ridge * way
        length = size / max(1e-30, float(way @ bent))
        beta, left = beta + length * way, left - length * bent
        size, before = float(left @ left), size
        if size < 1e-8 * first:
            break
        way = left + (size / before) * way
    return beta
