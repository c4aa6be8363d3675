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
from policies.cascade.learning.features import PLACES, Features, answer_features, joined, prompt_features
from policies.cascade.learning.ridge import Rows
from policies.cascade.learning.score import Example, Score, fit

EPSILON, DELTA = 0.02, 0.05
MARKS = (250, 500, 1000, 2000)
SETS = 20
LOOK = 10  # requests between two looks at what is proven: it stays proven


@dataclass(slots=True)
class Log:
    """Pairs with what is known of them."""

    features: list[Features]
    rows: Rows  # the same, to score all of them at once
    small: np.ndarray
    large: np.ndarray
    small_nanos: np.ndarray
    large_nanos: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[Pair], answers: bool = True) -> Log:
        made = [features(pair, answers) for pair in pairs]
        return cls(
            made,
            Rows(np.stack([each.numbers for each in made]), [each.words for each in made], PLACES),
            *(np.array([getattr(pair, name) for pair in pairs]) for name in cls.__slots__[2:]),
        )

    def __len__(self) -> int:
        return len(self.features)

    def fitted(self, chosen: np.ndarray, epsilon: float | None = None) -> Score:
        """As the policy fits a cascade's score, where ε is given; without it prices don't count."""
        told = (
            Example(self.features[at], float(self.small[at]), float(self.large[at]), price=float(self.large_nanos[at]))
            for at in chosen
        )
        return fit(list(told), epsilon)

    def scored(self, score: Score) -> np.ndarray:
        return score.benefits(self.rows)

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
    ended: list[int] = field(default_factory=list)  # pairs that there were
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
        self.ended += other.ended
        self.hindsight += other.hindsight

    def mean(self, mark: int) -> float | None:
        found = self.costs[mark]
        return float(np.mean(found)) if len(found) >= self.orders * 0.9 else None


class _Line:
    """A score, and what each of its thresholds truly costs and loses of pairs that it wasn't fitted to. `part`: of the
    chance to be wrong; `share`: of requests, that the last threshold may accept."""

    def __init__(self, log: Log, score: Score, rest: np.ndarray, part: float, share: float) -> None:
        self.certificate = score.certificate(EPSILON, DELTA * part, share)
        self.scores, self.grid = log.scored(score), self.certificate.grid
        self.wanted = self.scores <= self.grid[-1]  # of which requests the judge is asked
        gap, mine = (log.large - log.small)[rest], self.scores[rest]
        accepted = [mine <= threshold for threshold in self.grid]
        self.loses = {at: float((gap * mask).mean()) for at, mask in zip(self.grid, accepted, strict=True)}
        self.costs = {at: log.cost(rest, mask) for at, mask in zip(self.grid, accepted, strict=True)}


class Course:
    """What a cascade learns of one order of all pairs, as the policy does: every pair is judged until there is a first
    fitted score (the one before it can't prove anything by then), then those that a score might have accepted. All
    judged pairs count, those that were fitted to among them.

    `known`: instead, the first of all pairs were of long ago: a score is fitted to them, and they don't count.
    """

    def __init__(self, log: Log, order: np.ndarray, known: Score | None = None, older: int = 0) -> None:
        self._log, self._gap = log, log.large - log.small
        begun = older or FIT_AT[0]
        first, self._others = order[:begun], order[begun:]
        if known is not None:
            self._begins = [0]
            self._lines = [_Line(log, known, self._others, 1.0, ASPIRES[-1])]
        else:
            line = _Line(log, log.fitted(first, EPSILON), self._others, PARTS[1], ASPIRES[1])
            judged = line.wanted[self._others]
            cut = int(np.searchsorted(np.cumsum(judged), FIT_AT[1] - FIT_AT[0])) + 1
            pairs, rest = np.concatenate([first, self._others[:cut][judged[:cut]]]), self._others[cut:]
            self._begins, self._lines = [0], [line]
            if len(rest):  # else the log ended before there was a second fit
                self._begins.append(cut)
                self._lines.append(_Line(log, log.fitted(pairs, EPSILON), rest, PARTS[2], ASPIRES[2]))
        self._judged = 0 if known is not None else begun

    def played(self, most: int) -> Certified:
        """Until so many pairs were judged."""
        found, log = Certified(orders=1, hindsight=[self._hindsight()]), self._log
        broken, served, price, judged = False, 0, 1.0, self._judged
        marks = [mark for mark in MARKS if mark <= most]
        for seen, at in enumerate(self._others.tolist()):
            asked = False
            for number, line in enumerate(self._lines):
                if seen < self._begins[number] or number + 1 < served:
                    continue  # not fitted yet; or a later one is in force, and it rests
                wanted = bool(line.wanted[at])
                asked = asked or wanted
                line.certificate.observe(float(line.scores[at]), float(self._gap[at]) if wanted else 0.0)
                line.certificate.observe_costs(int(log.small_nanos[at]), int(log.large_nanos[at]))
            judged += asked
            if seen % LOOK == 0:
                before, (served, price, lost) = served, self._in_force()
                broken = broken or lost > EPSILON
                if served and not before and not found.first:
                    found.first.append(judged)
            if marks and asked and judged >= marks[0]:
                found.costs[marks.pop(0)].append(price)
                if not marks:
                    break
        if marks:
            found.costs[marks[0]].append(price)  # after fewer pairs, which is harder
        found.ended.append(judged)
        told = [line.certificate.status for line in self._lines]
        best = next((each for each in ("reverted", "certified", "gathering") if each in told), "infeasible")
        found.statuses[best], found.violations = 1, int(broken)
        return found

    def _hindsight(self) -> float:
        """The cheapest of all thresholds that keep within the bound."""
        within = [line.costs[at] for line in self._lines for at in line.grid if line.loses[at] <= EPSILON]
        return min([1.0, *within])

    def _in_force(self) -> tuple[int, float, float]:
        """The score whose certificate escalates least, counted from 1; what its threshold truly costs and loses."""
        found: list[tuple[float, int, float, float]] = []
        for number, line in enumerate(self._lines, 1):
            if (threshold := line.certificate.threshold) is not None:
                escalated = line.certificate.escalated(threshold)
                found.append((escalated, number, line.costs[threshold], line.loses[threshold]))
        return min(found)[1:] if found else (0, 1.0, 0.0)


def certify(log: Log, orders: int, most: int, older: int = 0) -> Certified:
    """So many orders of the log, with scores of their own each; or, where scores are fitted to `older` pairs that don't
    count, with one of `SETS` of these."""
    sets = [np.random.default_rng(number).permutation(len(log)) for number in range(min(SETS, orders))]
    known = spread(lambda pairs: log.fitted(pairs[:older], EPSILON), sets) if older else []

    def played(number: int) -> Certified:
        mixed = np.random.default_rng(1000 + number)
        if not older:
            return Course(log, mixed.permutation(len(log))).played(most)
        pairs = sets[number % len(sets)]
        order = np.concatenate([pairs[:older], mixed.permutation(pairs[older:])])
        return Course(log, order, known[number % len(sets)], older).played(most)

    found = Certified()
    for one in spread(played, range(orders)):
        found.add(one)
    return found


@dataclass(frozen=True, slots=True)
class Drifted:
    """What a drift did, and what came of it: losses of the threshold in force; how many pairs were judged, of how many
    requests that were drawn for it, until the proof."""

    before: float
    after: float
    pairs: int | None = None
    drawn: int | None = None


def drift(log: Log, seed: int, points: float, most: int) -> Drifted | None:
    """A certificate of a long while; then the small model is right less often. None: nothing was certified."""
    mixed = np.random.default_rng(seed)
    order = mixed.permutation(len(log))
    first, rest = order[: FIT_AT[1]], order[FIT_AT[1] :]
    line, gap = _Line(log, log.fitted(first, EPSILON), rest, 1.0, ASPIRES[2]), log.large - log.small
    certificate = line.certificate
    for at in rest[:6000]:
        certificate.observe(float(line.scores[at]), float(gap[at]) if line.wanted[at] else 0.0)
    threshold, pairs = certificate.threshold, certificate.pairs
    if threshold is None:
        return None
    worse = points / log.small.mean()
    after = float(((gap + log.small * worse)[rest] * (line.scores[rest] <= threshold)).mean())
    for drawn, at in enumerate(mixed.choice(rest, most), 1):
        lost = 1.0 if log.small[at] and mixed.random() < worse else 0.0
        certificate.observe(float(line.scores[at]), float(gap[at]) + lost if line.wanted[at] else 0.0)
        if certificate.status == "reverted":
            return Drifted(line.loses[threshold], after, certificate.pairs - pairs, drawn)
    return Drifted(line.loses[threshold], after)


@dataclass(frozen=True, slots=True)
class Decided:
    """How long each turn of the loop was that a decision takes, in milliseconds: by the clock; of processor time."""

    clock: tuple[float, float]
    processor: tuple[float, float]


def decided(pairs: Sequence[Pair], score: Score, certificate: Certificate) -> list[Decided]:
    """Features of the prompt, while the upstream thinks; then those of the answer, score and threshold."""
    return [_decided(pair, score, certificate) for pair in pairs]


def _decided(pair: Pair, score: Score, certificate: Certificate) -> Decided:
    told = [_now()]
    prompt = prompt_features(pair.prompt)
    told.append(_now())
    answer = None if pair.answer is None else answer_features(pair.answer, None, "stop", prompt=prompt)
    certificate.accepts(score.benefit(joined(prompt, answer)))
    told.append(_now())
    first, last = (told[1] - told[0]) / 1e6, (told[2] - told[1]) / 1e6
    return Decided((float(first[0]), float(last[0])), (float(first[1]), float(last[1])))


def _now() -> np.ndarray:
    return np.array([time.perf_counter_ns(), time.thread_time_ns()])
