"""Texts divided by what they are about: k-means of unit vectors. Pure, and the same for the same vectors.

Lloyd's steps from several beginnings, each with centres drawn far from each other (Arthur and Vassilvitskii, k-means++,
SODA 2007); the tightest division is taken. Centres are unit vectors: the nearest has the largest product.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
_BEGINNINGS: Final = 4
_STEPS: Final = 25


def clustered(vectors: Array, count: int) -> tuple[Array, list[float]]:
    """At most `count` centres, the largest cluster's first, and the share of the vectors that each has."""
    drawn = np.random.default_rng(0)
    found = [_settled(vectors, _drawn(vectors, count, drawn)) for _ in range(_BEGINNINGS)]
    centres = max(found, key=lambda each: float((vectors @ each.T).max(1).sum()))
    sizes = np.bincount(nearest(vectors, centres), minlength=len(centres))
    order = [at for at in np.argsort(-sizes, kind="stable") if sizes[at]]
    return centres[order], [float(sizes[at]) / len(vectors) for at in order]


def nearest(vectors: Array, centres: Array) -> npt.NDArray[np.intp]:
    """The number of each vector's centre."""
    return np.asarray((vectors @ centres.T).argmax(1))


def _drawn(vectors: Array, count: int, drawn: np.random.Generator) -> Array:
    """Vectors as centres: each with a chance that grows with its distance from those before it."""
    chosen = [int(drawn.integers(len(vectors)))]
    while len(chosen) < count:
        far = (1 - (vectors @ vectors[chosen].T).max(1)).clip(0)
        far[chosen] = 0.0
        if not far.sum():
            break  # there are no more that differ
        chosen.append(int(drawn.choice(len(vectors), p=far / far.sum())))
    return vectors[chosen]


def _settled(vectors: Array, centres: Array) -> Array:
    for _ in range(_STEPS):
        mine = nearest(vectors, centres)
        sums = np.zeros_like(centres)
        np.add.at(sums, mine, vectors)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        moved = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres)
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return centres
