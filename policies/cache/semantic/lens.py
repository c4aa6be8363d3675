"""What tells one answer's questions from another's, learnt from the entries themselves. Pure.

The cosine weighs all directions of a vector alike. Where several questions share an answer, they show in which
directions such questions differ (those say little) and in which answers do (those say much): a linear discriminant,
`RANK` directions of the ratio of all scatter to that within answers. Neighbours are found by the cosine as ever, and
then looked at through the lens: its similarities are features beside the others, and labels say what they are worth.

Rules:
1. Nothing but entries is looked at, so every worker that has the same entries grinds the same lens; none is kept.
2. Where few answers have two questions the scatter within them is filled up by a part of all scatter.
3. Grinding takes tenths of a second, and looks at all entries: for a thread. A look looks at the question only.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from policies.cache.semantic.static import Vector

Groups = npt.NDArray[np.int64]
RANK: Final = 64
FEWEST: Final = 100  # entries before there is a lens
WIDEST: Final = 512  # dimensions: the time grows with their cube
MOST: Final = 5000  # entries that it is made of, the last ones
_GROWN: Final = 0.25  # a new one after so many additions, by those before,
_AT_LAST: Final = 2500  # but not more than this
_FILLED: Final = 150.0  # as many differences are supposed to be like all scatter,
_PART: Final = 0.3  # as far as this
_FLOOR: Final = 1e-2  # of the mean scatter: no direction is surer than that


class Lens(msgspec.Struct, frozen=True):
    """The directions, what of them is seen of the middle of all entries, and what is seen of each entry."""

    middle: Vector
    directions: Vector
    seen: Vector

    def through(self, vectors: Vector) -> Vector:
        """A vector, or some, a row each, as unit vectors of the lens."""
        return _through(vectors, self.middle, self.directions)


def _through(vectors: Vector, middle: Vector, directions: Vector) -> Vector:
    seen = vectors @ directions
    seen -= middle
    seen /= np.sqrt(np.vecdot(seen, seen)[..., None]) + np.float32(1e-9)
    return seen


def due(ground_at: int) -> int:
    """How many entries must have been added for the next lens, when there were so many for the last."""
    return ground_at + max(FEWEST, int(min(_AT_LAST, ground_at * _GROWN)))


def ground(vectors: Vector, groups: Groups, room: int = 0) -> Lens:
    """A lens for vectors, a row each, of answers; a group below 0 is none. What changes meanwhile doesn't matter.
    `room`: for how many entries what is seen of them is to have room."""
    places = np.flatnonzero(groups >= 0)[-MOST:]
    groups = groups[places]
    order = np.argsort(groups, kind="stable")
    rows = vectors[places[order]]
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    middles = np.add.reduceat(rows, starts, axis=0) / counts[:, None].astype(np.float32)
    of = np.repeat(counts, counts)
    several = of > 1
    apart = (rows - np.repeat(middles, counts, axis=0))[several]
    apart *= np.sqrt(of[several] / (of[several] - 1))[:, None].astype(np.float32)
    centre = rows.mean(0)
    rows -= centre
    scatter = (rows.T @ rows).astype(np.float64) / len(rows)
    within = (apart.T @ apart + _FILLED * _PART * scatter) / (len(apart) + _FILLED)
    within += (_FLOOR * np.trace(scatter) / len(scatter) + 1e-9) * np.eye(len(scatter))
    directions = _directions(within, scatter).astype(np.float32)
    middle = centre @ directions
    seen = np.zeros((max(room, len(vectors)), directions.shape[1]), np.float32)
    seen[: len(vectors)] = _through(vectors, middle, directions)
    return Lens(middle, directions, seen)


def _directions(within: npt.NDArray[Any], scatter: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Those with the largest ratio of scatter to scatter within, as columns of length 1 by the latter."""
    white = np.linalg.inv(np.linalg.cholesky(within))
    _, turned = np.linalg.eigh(white @ scatter @ white.T)
    found: npt.NDArray[Any] = white.T @ turned[:, -RANK:]
    return found
