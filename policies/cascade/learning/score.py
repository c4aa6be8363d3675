"""How much escalating is worth: the gain expected of the large answer over the small one, by ridge regression. Pure.

Rules:
1. What is learnt is P(large right and small wrong) against P(small right and large wrong), not P(small wrong): a
   question that both get wrong isn't worth escalating. `benefit` is (1 + the expected gain)/2: 1/2 where it makes no
   difference. It orders; what may be accepted is for a `Certificate` to say. Since that takes the more pairs the more
   often answers differ, whichever is better, differing counts a little as if it were a loss (`_CAUTION`), and the less
   the more pairs there are: of two requests with the same gain, the one whose answers agree more often comes first.
   And where it is known what the large answers cost, that counts against escalating (`_worth`): a loss that is spent
   on a dear request saves more than one that is spent on a cheap one.
2. A score is immutable, has a version (a digest of all it is), and survives `loads(dumps())` bit by bit.
3. Fitting takes seconds for thousands of examples: in a process of its own (`apart`), never on the loop.
4. Before any label there is `prior()`: unsure tokens, refusals and answers cut off are to be distrusted.
5. Pairs that a score was fitted to prove nothing about it: certificates are for pairs that come later.

Ridge regression of the gain (`ridge`).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from policies.cascade.learning.certificate import Certificate
from policies.cascade.learning.features import NAMES, PLACES, VERSION, Features
from policies.cascade.learning.ridge import CLOSED, Array, Ridge, Rows

FEWEST: Final = 50
_NUMBERS: Final = 1.7  # how long a row of numbers is beside one of words: there are few of them, and each says more
# A threshold of mean loss μ and variance σ² is proven by n pairs where ε - μ > z·σ/√n: one more request pays for itself
# by its gain + z/(2σ√n) times its variance. With z = 2.5 and σ = 1/4, as of answers some tenths of which differ:
_CAUTION: Final = 5.0  # over the root of the number of pairs
_WORTHS: Final = (0.0, 0.05, 0.1, 0.15, 0.2)
_NO_MATTER: Final = 0.015  # of what is paid: of two that differ by less, the one that looks less at prices
_TELLING: Final = 1000  # examples from which on these can be told apart
_PROOF: Final = 1000  # pairs, and by so many standard errors a threshold is proven
_ERRORS: Final = 2.6
_LOGIT: Final = 2.0  # of a gain: (1 + gain)/2 where gains are small, and in the same order where they aren't
_CLIP: Final = 4.0
_HEADER: Final = struct.Struct("<4sBHHH")
_BIAS: Final = struct.Struct("<fI")  # and of how many pairs
_MAGIC: Final = b"wcs2"
STEPS: Final = 40  # thresholds of a grid
_HOPES: Final = 2.0  # standard errors: what loses ε only if luck was so good is left out
# What a logit rises by, before any label, for each.
_PRIOR: Final = {
    "answer_logprob_mean": -1.5,
    "answer_unsure": 3.0,
    "answer_refusal": 2.0,
    "answer_cut_off": 2.0,
    "answer_sums_wrong": 1.0,
    "answer_doubts": 0.3,
    "answer_self_doubt": 1.0,
}
_PRIOR_OFFSET: Final = -0.6


class Example(msgspec.Struct, frozen=True):
    """A judged pair: qualities in [0, 1]; `weight` is one over the chance that it was judged; `price`: what the large
    answer cost, in any unit (None: unknown)."""

    features: Features  # `joined(prompt, answer)`
    small: float
    large: float
    weight: float = 1.0
    price: float | None = None


class Score:
    """A fitted score: what numbers are centred and scaled by, what each and each place of the vocabulary is worth."""

    def __init__(
        self,
        centres: Array,
        spreads: Array,
        dense: Array,
        words: Array,
        bias: float,
        grid: Array,
        loses: Array,
        errors: Array,
        pairs: int = 0,
    ) -> None:
        self._centres, self._spreads, self._dense, self._words, self._bias, self._grid = (
            centres.astype(np.float32),
            spreads.astype(np.float32),
            dense.astype(np.float32),
            words.astype(np.float32),
            float(np.float32(bias)),
            grid.astype(np.float32),
        )
        self._pairs = pairs
        self._loses, self._errors = loses.astype(np.float32), errors.astype(np.float32)
        self.version = hashlib.sha256(self.dumps()).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"<Score {self.version}>"

    def benefit(self, features: Features) -> float:
        """(1 + expected gain)/2, in [0, 1]."""
        scaled = ((features.numbers - self._centres) / self._spreads).clip(-_CLIP, _CLIP)
        logit = self._bias + float(scaled @ self._dense)
        if len(features.words):
            logit += float(self._words[features.words].sum()) / math.sqrt(len(features.words))
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))

    def benefits(self, rows: Rows) -> Array:
        """The same of many: their numbers as they are."""
        scaled = ((rows.dense - self._centres) / self._spreads).clip(-_CLIP, _CLIP)
        return _sigmoid(self._bias + scaled @ self._dense + rows.worth(self._words))

    def gain(self, features: Features) -> float:
        """The expected quality of the large answer over the small one, in [-1, 1]."""
        return 2 * self.benefit(features) - 1

    def parts(self, features: Features) -> dict[str, float]:
        """What each number, and the words together, add to the logit; for people."""
        scaled = ((features.numbers - self._centres) / self._spreads).clip(-_CLIP, _CLIP)
        found = dict(zip(NAMES, (scaled * self._dense).tolist(), strict=True))
        found["words"] = float(self._words[features.words].sum()) / math.sqrt(max(1, len(features.words)))
        return found

    def grid(self, epsilon: float | None = None, share: float = 1.0) -> list[float]:
        """Thresholds for a `Certificate`, conservative first: quantiles of held-out scores of what it was fitted to.

        With ε: without those that surely lose more, by the held-out examples. What scores above the last one is
        escalated at every threshold and needs no judge, so that fewer pairs prove as much. `share`: of what it was
        fitted to, that the last threshold may accept; more where it was fitted to enough to tell that `_PROOF` pairs
        would prove it.
        """
        count = len(self._grid)
        most = max(1, round(count * share))
        if epsilon is not None:
            if self._pairs >= _TELLING:
                seen = _PROOF / np.linspace(1 / count, 1.0, count)  # requests, of which so many are pairs
                most = max(most, _last(self._loses + _ERRORS * self._errors * np.sqrt(self._pairs / seen) <= epsilon))
            most = min(most, max(1, _last(self._loses - _HOPES * self._errors <= epsilon)))
        return [float(each) for each in self._grid[:most]]

    def certificate(self, epsilon: float, delta: float, share: float = 1.0) -> Certificate:
        """An empty one for this score, with what the held-out examples say of how often answers differ."""
        grid, n = self.grid(epsilon, share), self._pairs
        if not n:
            return Certificate(epsilon, delta, grid)
        squares = n * self._errors.astype(float) ** 2 + self._loses.astype(float) ** 2
        careful = (n * squares + 1) / (n + 10)  # as if one of ten more had differed
        return Certificate(epsilon, delta, grid, squares=[float(each) for each in careful[: len(grid)]])

    def plausible(self, epsilon: float, errors: float = 1.0) -> float | None:
        """The most aggressive threshold that loses at most ε by the held-out examples, standard errors included.

        No certificate: it was looked for among many. None where there is none.
        """
        within = np.flatnonzero(self._loses + errors * self._errors <= epsilon)
        return float(self._grid[within[-1]]) if len(within) else None

    def dumps(self) -> bytes:
        """All of it."""
        head = _HEADER.pack(_MAGIC, VERSION, len(self._dense), len(self._words), len(self._grid))
        parts = (self._centres, self._spreads, self._dense, self._words, self._grid, self._loses, self._errors)
        return head + _BIAS.pack(self._bias, self._pairs) + b"".join(part.tobytes() for part in parts)

    @classmethod
    def loads(cls, data: bytes) -> Score:
        """Raises ValueError for what isn't a score, or is of another version of the features."""
        if len(data) < _HEADER.size + _BIAS.size:
            raise ValueError("not a score")
        magic, version, dense, words, grid = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError("not a score")
        if (version, dense, words) != (VERSION, len(NAMES), PLACES):
            raise ValueError("a score of other features")
        sizes = (dense, dense, dense, words, grid, grid, grid)
        if len(data) != _HEADER.size + _BIAS.size + 4 * sum(sizes):
            raise ValueError("a score cut short")
        bias, pairs = _BIAS.unpack_from(data, _HEADER.size)
        values = np.frombuffer(data, np.float32, sum(sizes), _HEADER.size + _BIAS.size)
        centres, spreads, numbers, places, at, loses, errors = np.split(values, np.cumsum(sizes)[:-1])
        return cls(centres, spreads, numbers, places, bias, at, loses, errors, pairs)


def prior() -> Score:
    """Before any label."""
    dense = np.array([_PRIOR.get(name, 0.0) for name in NAMES])
    n = len(NAMES)
    grid = np.linspace(0.05, 0.95, 19)
    return Score(
        np.zeros(n), np.ones(n), dense, np.zeros(PLACES), _PRIOR_OFFSET, grid, np.zeros(len(grid)), np.ones(len(grid))
    )


def fit(examples: Sequence[Example], epsilon: float | None = None) -> Score:
    """With ε, the loss that is to be proven, prices count.

    Raises ValueError where there is nothing to learn from (fewer than `FEWEST`).
    """
    if len(examples) < FEWEST:
        raise ValueError(f"{len(examples)} pairs are too few to learn from: {FEWEST} are needed")
    gaps = np.array([each.large - each.small for each in examples])
    weights = np.array([each.weight for each in examples])
    weights /= weights.mean()
    numbers = np.stack([each.features.numbers for each in examples]).astype(float)
    centres, spreads = numbers.mean(0), numbers.std(0)
    spreads = np.where(spreads < 1e-4, 1e4, spreads)  # what never varied says nothing, also when it does later
    scale = _NUMBERS / math.sqrt(numbers.shape[1])
    dense = ((numbers - centres) / spreads).clip(-_CLIP, _CLIP) * scale
    told = gaps + _CAUTION / math.sqrt(len(examples)) * gaps**2
    words, n = [each.features.words for each in examples], len(NAMES)
    ridge = few = Ridge(Rows(dense, words, PLACES), weights)
    if epsilon is not None:
        if len(examples) > CLOSED:
            few = Ridge(Rows(dense[:CLOSED], words[:CLOSED], PLACES), weights[:CLOSED])
        prices = _prices(examples)
        told = told - _worth(few, told, gaps, prices, epsilon) * prices
    mean = float((weights * told).mean())
    beta, held_out = ridge.fitted(told - mean)
    seen = _thresholds(_LOGIT * (held_out + mean), gaps, weights)
    return Score(
        centres, spreads, _LOGIT * beta[:n] * scale, _LOGIT * beta[n:], _LOGIT * mean, *seen, pairs=len(examples)
    )


def _prices(examples: Sequence[Example]) -> Array:
    """What each large answer cost, as a share of their mean, which stands for what isn't known."""
    told = np.array([math.nan if each.price is None else each.price for each in examples])
    known = told[~np.isnan(told)]
    mean = float(known.mean()) if len(known) else 0.0
    return np.where(np.isnan(told), 1.0, told / mean) if mean > 0 else np.ones(len(told))


def _worth(few: Ridge, told: Array, gaps: Array, prices: Array, epsilon: float) -> float:
    """The loss that a large answer of mean price is worth, by those examples that `few` is of: the least of what pays
    least. Where they are too few to tell, the more the fewer they are: they say less of gains than of prices."""
    count = len(few)
    if count < _TELLING:
        return 1 / math.sqrt(count)
    paid = {}
    for worth in _WORTHS:
        aims = (told - worth * prices)[:count]
        paid[worth] = _paid(few.fitted(aims - aims.mean())[1] + aims.mean(), gaps[:count], prices[:count], epsilon)
    least = min(paid.values())
    return next(worth for worth, each in paid.items() if each <= least + _NO_MATTER)


def _paid(held_out: Array, gaps: Array, prices: Array, epsilon: float) -> float:
    """The share of the price of all large answers that is paid at the last threshold that `_PROOF` pairs prove."""
    order = np.argsort(held_out, kind="stable")
    share = np.arange(1, len(order) + 1) / len(order)
    lost, square = np.cumsum(gaps[order]) / len(order), np.cumsum(gaps[order] ** 2) / len(order)
    provable = _last((epsilon - lost).clip(0) ** 2 * _PROOF >= _ERRORS**2 * (square - lost**2) * share)
    return 1.0 - float(prices[order][:provable].sum() / prices.sum())


def _last(true: npt.NDArray[np.bool_]) -> int:
    """How many there are up to the last that is true."""
    return int(np.flatnonzero(true).max(initial=-1)) + 1


def _thresholds(logits: Array, gaps: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Quantiles of scores; of each as a threshold what it loses, and the standard error of that."""
    scores = _sigmoid(logits)
    grid = np.unique(np.quantile(scores, np.linspace(0.05, 1.0, STEPS)).astype(np.float32))
    lost = np.where(scores[None, :] <= grid[:, None], gaps * weights, 0.0)
    return grid, lost.mean(1), lost.std(1) / math.sqrt(len(gaps))


def _sigmoid(logits: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logits.clip(-30, 30))))
