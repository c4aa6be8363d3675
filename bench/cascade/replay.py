"""Logged pairs played to what a cascade learns: the product's features, scores and certificates, nothing else.

Thresholds are chosen by what was seen before; what they cost and lose is told by pairs that had no part in choosing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.cascade.logs import Pair
from bench.cascade.spread import spread
from policies.cascade.evidence import ASPIRES, FIT_AT, PARTS
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

    def add(self, other: Certified) -> None:
        """Those of another one, too."""
        self.orders += other.orders
        self.violations += other.violations
        for mark, costs in other.costs.items():
            self.costs[mark] += costs
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        self.first += other.first
        self.hindsight += other.hindsight

    def mean(self, mark: int) -> float | None:
        found = self.costs[mark]
        return float(np.mean(found)) if len(found) >= self.orders * 0.9 else None


class _Line:
    """A score, fitted to pairs of a draw, and what each of its thresholds truly costs and loses of all others."""

    def __init__(self, log: Log, pairs: np.ndarray, number: int, rest: np.ndarray) -> None:
        self.number, self.delta = number, DELTA * PARTS[number]
        score = log.fitted(pairs)
        self.scores, self.grid = log.scored(score), score.grid(EPSILON, ASPIRES[number])
        gap, mine = (log.large - log.small)[rest], self.scores[rest]
        accepted = [mine <= threshold for threshold in self.grid]
        self.loses = {at: float((gap * mask).mean()) for at, mask in zip(self.grid, accepted, strict=True)}
        self.costs = {at: log.cost(rest, mask) for at, mask in zip(self.grid, accepted, strict=True)}

    def begun(self) -> Certificate:
        return Certificate(EPSILON, self.delta, self.grid)

    def wants(self) -> np.ndarray:
        """Of which requests the judge is asked."""
        return self.scores <= self.grid[-1]


class Draw:
    """One set of pairs to fit to, as the policy comes by them: every pair is judged until there is a first fitted score
    (the one before it can't prove anything by then), then those that this score might have accepted."""

    def __init__(self, log: Log, number: int) -> None:
        self.log, self.number = log, number
        drawn = np.random.default_rng(number).permutation(len(log))
        first, others = drawn[: FIT_AT[0]], drawn[FIT_AT[0] :]
        line = _Line(log, first, 1, others)
        judged = line.wants()[others]
        cut = int(np.searchsorted(np.cumsum(judged), FIT_AT[1] - FIT_AT[0])) + 1
        self.between, self.rest = others[:cut], others[cut:]
        pairs = np.concatenate([first, self.between[judged[:cut]]])
        self.lines = [line, _Line(log, pairs, 2, self.rest)] if len(self.rest) else [line]

    @property
    def hindsight(self) -> float:
        """The cheapest of all thresholds that keep within the bound."""
        within = [line.costs[at] for line in self.lines for at in line.grid if line.loses[at] <= EPSILON]
        return min([1.0, *within])

    def played(self, order: int, most: int) -> Certified:
        """All other pairs in an order of their own. Pairs that were fitted to count as pairs."""
        mixed = np.random.default_rng(1000 * self.number + order)
        stream = np.concatenate([mixed.permutation(self.between), mixed.permutation(self.rest)])
        found = Certified(orders=1, hindsight=[self.hindsight])
        log, gap = self.log, self.log.large - self.log.small
        certificates = [line.begun() for line in self.lines]
        scores = [line.scores.tolist() for line in self.lines]
        judged, broken, served, price = FIT_AT[0], False, 0, 1.0
        marks = [mark for mark in MARKS if mark <= most]
        for seen, at in enumerate(stream.tolist()):
            asked = False
            for line, certificate, mine in zip(self.lines, certificates, scores, strict=True):
                if (line.number == 2 and seen < len(self.between)) or line.number < served:
                    continue  # not fitted yet; or a later one is in force, and it rests
                wanted = mine[at] <= line.grid[-1]
                asked = asked or wanted
                certificate.observe(mine[at], float(gap[at]) if wanted else 0.0)
                certificate.observe_costs(int(log.small_nanos[at]), int(log.large_nanos[at]))
            judged += asked
            if seen % LOOK == 0:
                before, (served, price, lost) = served, self._in_force(certificates)
                broken = broken or lost > EPSILON
                if served and not before and not found.first:
                    found.first.append(judged)
            if marks and asked and judged >= marks[0]:
                found.costs[marks.pop(0)].append(price)
                if not marks:
                    break
        told = [certificate.status for certificate in certificates]
        best = next((each for each in ("reverted", "certified", "gathering") if each in told), "infeasible")
        found.statuses[best], found.violations = 1, int(broken)
        return found

    def _in_force(self, certificates: list[Certificate]) -> tuple[int, float, float]:
        """The score whose certificate escalates least; what its threshold truly costs and loses."""
        found: list[tuple[float, int, float, float]] = []
        for line, certificate in zip(self.lines, certificates, strict=True):
            if (threshold := certificate.threshold) is not None:
                told = certificate.escalated(threshold), line.number, line.costs[threshold], line.loses[threshold]
                found.append(told)
        return min(found)[1:] if found else (0, 1.0, 0.0)


def certify(log: Log, draws: int, orders: int, most: int) -> Certified:
    """`draws` sets of pairs to fit to, `orders` orders of all others each."""
    found = Certified()

    def played(number: int) -> list[Certified]:
        draw = Draw(log, number)
        return [draw.played(order, most) for order in range(orders)]

    for each in spread(played, range(draws)):
        for one in each:
            found.add(one)
    return found


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
    line = _Line(log, drawn[: FIT_AT[1]], 2, drawn[FIT_AT[1] :])
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
