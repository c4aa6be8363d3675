"""How likely escalating benefits: P(the large answer is right and the small one is wrong), a logistic regression. Pure.

Rules:
1. A score is immutable, has a version (a digest of all it is), and survives `loads(dumps())` bit by bit.
2. Fitting takes seconds for thousands of examples: in the supervisor or a thread, never on the loop.
3. Before any label there is `prior()`: unsure tokens, refusals and answers cut off are to be distrusted.
4. Pairs that a score was fitted to prove nothing about it: certificates are for pairs that come later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from policies.cascade.learning.features import Features

Array = npt.NDArray[np.floating[Any]]


class Example(msgspec.Struct, frozen=True):
    """A judged pair: qualities in [0, 1]; `weight` is one over the chance that it was judged."""

    features: Features  # `joined(prompt, answer)`
    small: float
    large: float
    weight: float = 1.0


class Score:
    """A fitted score."""

    version: str

    def benefit(self, features: Features) -> float:
        """P(large right and small wrong), in [0, 1]."""
        raise NotImplementedError

    def grid(self) -> list[float]:
        """Thresholds for a `Certificate`, conservative first: quantiles of held-out scores of what it was fitted to."""
        raise NotImplementedError

    def dumps(self) -> bytes:
        """All of it."""
        raise NotImplementedError

    @classmethod
    def loads(cls, data: bytes) -> Score:
        """Raises ValueError for what isn't a score, or is of another version of the features."""
        raise NotImplementedError


def prior() -> Score:
    """Before any label."""
    raise NotImplementedError


def fit(examples: Sequence[Example]) -> Score:
    """Raises ValueError where there is nothing to learn from (fewer than `FEWEST`)."""
    raise NotImplementedError
