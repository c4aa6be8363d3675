"""Logged pairs played to what a cascade learns: the product's features, scores and certificates, nothing else.

Thresholds are chosen by what was seen before; what they cost and lose is told by pairs that had no part in choosing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.cascade.logs import Pair
from policies.cascade.evidence import FIT_AT, PARTS
from policies.cascade.learning.certificate import Certificate
from policies.cascade.learning.features import Features, answer_features, joined, prompt_features
from policies.cascade.learning.score import Example, Score, fit

EPSILON, DELTA = 0.02, 0.05
MARKS = (250, 500, 1000, 2000)
LOOK = 10  # requests between two looks at what is proven: it stays proven


@dataclass(slots=True)
class Log:
    """Pairs with what is known of them."""

    features: list[Features]
    small: np.ndarray
    large: np.ndarray
    small_nanos: np.ndarray
    large_nanos: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[Pair], answers: bool = True) -> Log:
        return cls(
            [features(pair, answers) for pair in pairs],
            *(np.array([getattr(pair, name) for pair in pairs]) for name in cls.__slots__[1:]),
        )

    def __len__(self) -> int:
        return len(self.features)

    def fitted(self, chosen: np.ndarray) -> Score:
        return fit([Example(self.features[at], float(self.small[at]), float(self.large[at])) for at in chosen])

    def scored(self, score: Score) -> np.ndarray:
        return np.array([score.benefit(each) for each in self.features])

    def cost(self, among: np.ndarray, accepted: np.ndarray) -> float:
        """Of a cascade, as a share of always-large: all small answers, and large ones."""
        large = self.large_nanos[among]
        return float((self.small_nanos[among].sum() + large[~accepted].sum()) / large.sum())


def features(pair: Pair, answers: bool = True) -> Features:
    """As the policy makes them."""
    prompt = prompt_features(pair.prompt)
    if pair.answer is None or not answers:
        return joined(prompt, None)
    return joined(prompt, answer_features(pair.answer, None, "stop", prompt=prompt))


def apgr(scores: np.ndarray, small: np.ndarray, large: np.ndarray) -> float:
    """The share of the gap that is recovered, on average over all shares of strong calls (RouteLLM's measure)."""
    gain = (large - small)[np.argsort(-scores, kind="stable")]
    return float(np.concatenate([[0.0], np.cumsum(gain)]).mean() / gain.sum())


@dataclass(slots=True)
class Certified:
    """Many orders of the same log."""

    orders: int = 0
    violations: int = 0
    costs: dict[int, list[float]] = field(default_factory=lambda: {mark: [] for mark in MARKS})
    statuses: dict[str, int] = field(default_factory=dict)
    first: list[int] = field(default_factory=list)  # pairs until something was certified
    hindsight: list[float] = field(default_factory=list)

    def mean(self, mark: int) -> float | None:
        found = self.costs[mark]
        return float(np.mean(found)) if len(found) >= self.orders * 0.9 else None


class _Line:
    """A score, fitted to the first pairs of a draw, and what each of its thresholds truly costs and loses."""

    def __init__(self, log: Log, drawn: np.ndarray, number: int, rest: np.ndarray) -> None:
        self.after, self.delta = FIT_AT[number - 1], DELTA * PARTS[number]
        score = log.fitted(drawn[: self.after])
        self.scores = log.scored(score)
        self.grid = score.grid(EPSILON)
        gap, mine = (log.large - log.small)[rest], self.scores[rest]
        accepted = [mine <= threshold for threshold in self.grid]
        self.loses = {at: float((gap * mask).mean()) for at, mask in zip(self.grid, accepted, strict=True)}
        self.costs = {at: log.cost(rest, mask) for at, mask in zip(self.grid, accepted, strict=True)}

    def begun(self) -> Certificate:
        return Certificate(EPSILON, self.delta, self.grid)


def certify(log: Log, draws: int, orders: int, most: int) -> Certified:
    """`draws` sets of pairs to fit to, `orders` orders of all others each, as the policy goes about it."""
    found = Certified()
    for draw in range(draws):
        drawn = np.random.default_rng(draw).permutation(len(log))
        last = FIT_AT[1]
        rest = drawn[last:]
        made = [_Line(log, drawn, number, rest) for number in (1, 2)]
        within = [line.costs[at] for line in made for at in line.grid if line.loses[at] <= EPSILON]
        found.hindsight.append(min([1.0, *within]))
        for order in range(orders):
            mixed = np.random.default_rng(1000 * draw + order)
            stream = np.concatenate([mixed.permutation(drawn[FIT_AT[0] : last]), mixed.permutation(rest)])
            _one(log, made, stream, most, found)
    return found


def _one(log: Log, made: list[_Line], stream: np.ndarray, most: int, found: Certified) -> None:
    """One order. Pairs that were fitted to count as pairs."""
    certificates = [line.begun() for line in made]
    gap = (log.large - log.small)[stream].tolist()
    scores = [line.scores[stream].tolist() for line in made]
    small, large = log.small_nanos[stream].tolist(), log.large_nanos[stream].tolist()
    judged, broken, served, price = FIT_AT[0], False, False, 1.0
    marks = [mark for mark in MARKS if mark <= most]
    for at, loss in enumerate(gap):
        seen = at + FIT_AT[0]
        asked = False
        price = 1.0 if at % LOOK == 0 else price
        for line, certificate, mine in zip(made, certificates, scores, strict=True):
            if seen < line.after:
                asked = True  # its examples are judged, whatever another score says
                continue
            wanted = mine[at] <= line.grid[-1]
            asked = asked or wanted
            certificate.observe(mine[at], loss if wanted else 0.0)
            certificate.observe_costs(small[at], large[at])
            threshold = certificate.threshold if at % LOOK == 0 else None
            if threshold is not None:
                broken = broken or line.loses[threshold] > EPSILON
                price = min(price, line.costs[threshold])
        judged += asked
        if price < 1 and not served:
            served = True
            found.first.append(judged)
        if marks and asked and judged >= marks[0]:
            found.costs[marks.pop(0)].append(price)
            if not marks:
                break
    told = [certificate.status for certificate in certificates]
    best = next((each for each in ("reverted", "certified", "gathering") if each in told), "infeasible")
    found.statuses[best] = found.statuses.get(best, 0) + 1
    found.orders += 1
    found.violations += broken


@dataclass(frozen=True, slots=True)
class Drifted:
    """What a drift did, and what came of it: losses of the threshold in force, pairs until the proof."""

    before: float
    after: float
    pairs: int | None


def drift(log: Log, seed: int, points: float, most: int) -> Drifted | None:
    """A certificate of a long while; then the small model is right less often. None: nothing was certified."""
    mixed = np.random.default_rng(seed)
    drawn = mixed.permutation(len(log))
    line = _Line(log, drawn, 2, drawn[FIT_AT[1] :])
    certificate, gap = Certificate(EPSILON, DELTA, line.grid), log.large - log.small
    for at in drawn[FIT_AT[1] :][:6000]:
        certificate.observe(float(line.scores[at]), float(gap[at]) if line.scores[at] <= line.grid[-1] else 0.0)
    threshold, pairs = certificate.threshold, certificate.pairs
    if threshold is None:
        return None
    rest = drawn[FIT_AT[1] :]
    worse = points / log.small.mean()
    after = float(((gap + log.small * worse)[rest] * (line.scores[rest] <= threshold)).mean())
    for at in mixed.choice(rest, most):
        lost = 1.0 if log.small[at] and mixed.random() < worse else 0.0
        judged = line.scores[at] <= line.grid[-1]
        certificate.observe(float(line.scores[at]), float(gap[at]) + lost if judged else 0.0)
        if certificate.status == "reverted":
            return Drifted(line.loses[threshold], after, certificate.pairs - pairs)
    return Drifted(line.loses[threshold], after, None)


def decided(pairs: Sequence[Pair], score: Score, certificate: Certificate) -> list[float]:
    """Milliseconds of each decision: features of prompt and answer, score, threshold."""
    times = []
    for pair in pairs:
        start = time.perf_counter_ns()
        certificate.accepts(score.benefit(features(pair)))
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times
