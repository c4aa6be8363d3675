"""What the traffic of one scope has taught: the score, from which score on answers are given, and how wrong they were.

Rules:
1. Nothing is given before its error is proven to be low enough (`gathering`), and nothing while what was given was
   surely too often wrong (`suspended`); otherwise, what scores at least λ (`certified`).
2. λ is found by scores that don't know what they are judged by: a label is scored before it is learnt from, and, when
   the score is fitted anew, by weights that left it out.
3. Answers that one entry holds have a λ of their own: nobody has yet seen such an answer fit a second question, and
   texts that are much alike say little about it.
4. Nearly all of the first hits are audited, later 15 %; near λ twice as many.
5. The audited error of the recent past moves the goal: what was bounded too tightly is loosened, within limits.
6. No clock, no I/O, and no randomness of its own: the same labels in the same order give the same state everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log1p
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from policies.cache.semantic.bound import NEVER, Array, Stratum, interval, threshold
from policies.cache.semantic.features import NAMES
from policies.cache.semantic.score import Fit, Weights, fit, prior

Rows = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Found = tuple[float, list[Stratum]]
Status = Literal["gathering", "certified", "suspended"]
_ROWS: Final = 12_000  # labels that the score is fitted on
_LABELS: Final = 9000  # that λ is found by
_TRAFFIC: Final = 2000  # scores that strata are measured by
_AUDITS: Final = 1000  # that the error of hits is told by
_STALE: Final = 3000  # requests after which an audit says nothing any more
_FIRST_FIT: Final = 100
_REFIT: Final = 250
_RETHINK: Final = 25  # labels between two looks for λ
_ALL_AUDITED: Final = 500
_AUDITED: Final = 0.15
_AIM: Final = 0.96
_LOOSEST, _TIGHTEST = 1.6, 0.5
_SURE: Final = 30  # audits before they count
_SURELY: Final = 2.33  # standard deviations: what is wrong by chance once in a hundred looks isn't surely wrong
_CHANCE: Final = 0.5
_CLEARED: Final = 100  # audits before they stand for proof; of what would have been given, before it is given again
_RECORD: Final = 0.98
_MOST_RECORDS: Final = 20_000
_MEMBERS: Final = NAMES.index("members")
_SEVERAL: Final = log1p(1.5)


class Label(msgspec.Struct, frozen=True, array_like=True):
    """What one answer from upstream told about the answer that was, or would have been, given instead of it."""

    features: tuple[float, ...]
    score: float
    right: bool
    group: bytes = b""
    audit: float = 0.0  # for an audited hit: one over the share of such hits that are audited; 0 for a miss


class Learner:
    """The state of one scope."""

    def __init__(self, max_error: float) -> None:
        self.max_error = max_error
        self.weights = prior()
        self.threshold = NEVER  # λ of answers that several entries hold,
        self.alone = NEVER  # and of those that one does
        self.strata: list[Stratum] = []
        self.goal = _AIM * max_error
        self.labels = 0
        self.asked = 0
        self.hits = 0  # since it was last certified; audits thin out with it
        self.suspended = False
        self._told = Ring(_ROWS, len(NAMES) + 3)  # features, right, score, number
        self._traffic = Ring(_TRAFFIC, len(NAMES) + 2)  # features, score, number
        self._audits = Ring(_AUDITS, 3)  # when (requests), weight, wrong
        self._records: dict[bytes, tuple[float, float]] = {}
        self._fitted_at = 0
        self._thought_at = 0

    def __repr__(self) -> str:
        return f"<Learner {self.status} {self.labels} labels λ={self.threshold:.4f}>"

    @property
    def status(self) -> Status:
        """How it stands."""
        if self.suspended:
            return "suspended"
        return "gathering" if min(self.threshold, self.alone) >= NEVER else "certified"

    # --- deciding

    def record(self, group: bytes) -> float:
        """How often an answer was right when it was looked at."""
        right, looked = self._records.get(group, (0.0, 0.0))
        return (right + 1.0) / (looked + 2.0)

    def seen(self, features: Array, score: float, *, served: bool) -> None:
        """A question had these features and this score."""
        self.asked += 1
        self._traffic.add((*features.tolist(), score, float(self.asked)))
        self.hits += served

    def least(self, features: Sequence[float] | Array) -> float:
        """λ for answers like this one."""
        return self.alone if features[_MEMBERS] < _SEVERAL else self.threshold

    def serves(self, features: Array, score: float) -> bool:
        """Whether an answer with this score may be given."""
        return score >= self.least(features) and not self.suspended

    def audit_share(self, features: Array, score: float) -> float:
        """The share of hits with this score that are audited."""
        share = max(_AUDITED, min(1.0, _ALL_AUDITED / (self.hits + 1)))
        least = self.least(features)
        near = score < least + (1 - least) * 0.3
        return min(1.0, share * 2) if near else share

    # --- learning

    def learn(self, label: Label) -> None:
        """Takes a label. What may follow (`wants_fit`, `wants_thought`) takes milliseconds: it is for a thread."""
        if len(label.features) != len(NAMES):
            return  # a worker of another version says it
        self.labels += 1
        self._told.add((*label.features, float(label.right), label.score, float(self.labels)))
        weight = 1.0 if self.suspended and label.score >= self.least(label.features) else label.audit
        if weight:
            self._audits.add((float(self.asked), weight, float(not label.right)))
        self._remember(label.group, float(label.right))

    @property
    def wants_fit(self) -> bool:
        """Whether the score should be fitted anew: `examples`, `fitted_by`, `rows`, `rescored`, `adopt`."""
        return self.labels - self._fitted_at >= (_REFIT if self._fitted_at else _FIRST_FIT)

    @property
    def wants_thought(self) -> bool:
        """Whether λ should be looked for: `evidence`, `thought`, `conclude`."""
        return self.labels - self._thought_at >= _RETHINK

    def _remember(self, group: bytes, right: float) -> None:
        if group not in self._records and len(self._records) >= _MOST_RECORDS:
            del self._records[next(iter(self._records))]
        good, looked = self._records.get(group, (0.0, 0.0))
        self._records[group] = (good * _RECORD + right, looked * _RECORD + 1)

    def examples(self) -> Rows:
        """What the score is fitted on; a copy."""
        self._fitted_at = self.labels
        return self._told.rows()

    def rows(self) -> tuple[Rows, Rows]:
        """What is remembered of labels and of questions: copies, for `rescored` in a thread."""
        return self._told.rows(), self._traffic.rows()

    def adopt(self, by: Fit, told: Rows, traffic: Rows) -> None:
        """Scores by these weights from now on; λ is to be looked for anew. `told`, `traffic`: what `rescored` made."""
        self.weights = by.weights
        self._fitted_at = self.labels
        self._told.rescore(told)
        self._traffic.rescore(traffic)

    def evidence(self) -> tuple[Evidence, Evidence]:
        """What λ is found by, for answers that several entries hold and for those that one does; copies."""
        self._thought_at = self.labels
        self._judge()
        labels, traffic = self._told.held, self._traffic.held
        told = self.audited()[1] >= _CLEARED  # until audits tell of hits, only what bets have won is given
        recent = labels[:, -1] > self.labels - _LABELS
        of_one, asked_of_one = labels[:, _MEMBERS] < _SEVERAL, traffic[:, _MEMBERS] < _SEVERAL

        def made(mine: Flags, asked: Flags, least: float) -> Evidence:
            unproven = None if told and least < NEVER else self.max_error
            wrong = 1 - labels[mine, len(NAMES)]
            return Evidence(labels[mine, -2], wrong, traffic[asked, -2], self.goal, unproven)

        return made(recent & ~of_one, ~asked_of_one, self.threshold), made(recent & of_one, asked_of_one, self.alone)

    def conclude(self, found: tuple[Found, Found]) -> None:
        """Takes over λ."""
        if not self._fitted_at:
            return  # the prior ranks, it doesn't know
        before = self.status
        (self.threshold, self.strata), (self.alone, _) = found
        if before == "gathering" != self.status:  # begins, or begins again: look closely
            self.hits = min(self.hits, _ALL_AUDITED // 2)

    def rethink(self) -> None:
        """Looks for λ now."""
        self.conclude(thought(self.evidence()))

    def _judge(self) -> None:
        """What was bounded too tightly is loosened; what turned out too loose is tightened, or suspended."""
        aim = _AIM * self.max_error
        rate, n = self.audited()
        if self.suspended:  # where no score is enough any more, that alone keeps it from serving
            self.suspended = min(self.threshold, self.alone) < NEVER and (n < _CLEARED or rate > self.max_error)
        elif n >= _SURE and interval(rate, n, _SURELY)[1] > self.max_error:
            self.suspended = True
            self._audits.clear()  # from now on it counts what would have been given
        if self.suspended or n < _SURE:
            self.goal = aim
            return
        chance = _CHANCE * float(np.sqrt(max(rate, self.max_error / 4) / n))
        seen = min(max(aim, rate - chance), rate + chance)  # what can well be chance changes nothing
        self.goal = float(np.clip(aim * aim / seen, _TIGHTEST * aim, _LOOSEST * aim))

    def audited(self) -> tuple[float, float]:
        """The error of recent hits by their weighed audits, and how many audits of equal weight would say as much."""
        audits = self._audits.held
        audits = audits[audits[:, 0] >= self.asked - _STALE]
        if not len(audits):
            return 0.0, 0.0
        weights = audits[:, 1]
        total = float(weights.sum())
        return float(weights @ audits[:, 2]) / total, total * total / float(weights @ weights)

    # --- telling, and remembering

    def realised(self) -> tuple[float, float, float]:
        """The audited error of hits in the recent past, and the interval in which it lies with 90 % confidence."""
        return interval(*self.audited())

    def saved(self) -> dict[str, Any]:
        """The state as plain values; `restored` makes it again."""
        rings = {name: getattr(self, name).saved() for name in _RINGS}
        weights = [self.weights.centres.tolist(), self.weights.spreads.tolist(), self.weights.beta.tolist()]
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {"names": NAMES, "weights": weights, "rings": rings, **numbers, "records": dict(self._records)}

    def restored(self, saved: dict[str, Any]) -> bool:
        """Takes over a state; False, and nothing changed, if it is of other features."""
        if tuple(saved.get("names", ())) != NAMES:
            return False
        self.weights = Weights(*map(np.array, saved["weights"]))
        for name in _RINGS:
            getattr(self, name).restored(saved["rings"][name])
        for name in _NUMBERS:
            setattr(self, name, saved.get(name, NEVER))  # a version before had no `alone`
        self._records = {group: (good, looked) for group, (good, looked) in saved["records"].items()}
        self.rethink()
        return True


_RINGS: Final = ("_told", "_traffic", "_audits")
_NUMBERS: Final = ("labels", "asked", "hits", "suspended", "threshold", "alone", "goal", "_fitted_at")


class Evidence(msgspec.Struct, frozen=True):
    """Scores of labels, which of them were wrong, scores of traffic, the goal, and what error isn't disproven yet."""

    scores: Rows
    wrong: Rows
    traffic: Rows
    goal: float
    unproven: float | None


def thought(evidence: tuple[Evidence, Evidence]) -> tuple[Found, Found]:
    """λ, and what it stands on, for each. A millisecond: for a thread."""
    several, alone = (threshold(one.scores, one.wrong, one.traffic, one.goal, one.unproven) for one in evidence)
    return several, alone


def fitted_by(examples: Rows) -> Fit:
    """The score that labels teach. Tenths of a second: for a thread."""
    rows = examples.astype(np.float64)
    return fit(rows[:, : len(NAMES)], rows[:, len(NAMES)], rows[:, -1])


def rescored(by: Fit, told: Rows, traffic: Rows) -> tuple[Rows, Rows]:
    """Rows with the scores that held-out weights give them. Milliseconds: for a thread."""
    for rows in (told, traffic):
        rows[:, -2] = by.held_out(rows[:, : len(NAMES)], rows[:, -1])
    return told, traffic


class Ring:
    """The last rows of numbers."""

    def __init__(self, most: int, width: int) -> None:
        self._held = np.zeros((0, width), np.float32)
        self._most = most
        self._next = 0
        self.size = 0

    def add(self, row: tuple[float, ...]) -> None:
        """Adds a row; the oldest leaves."""
        if self._next == len(self._held) < self._most:  # grows as it fills: most scopes stay small
            more = np.zeros(
                (min(max(64, len(self._held)), self._most - len(self._held)), self._held.shape[1]), np.float32
            )
            self._held = np.concatenate([self._held, more])
        self._held[self._next] = row
        self._next = (self._next + 1) % self._most
        self.size = min(self.size + 1, self._most)

    def clear(self) -> None:
        """Forgets all."""
        self._next = self.size = 0

    @property
    def held(self) -> Rows:
        """All rows, in no order; what is written there is remembered."""
        return self._held[: self.size]

    def rows(self) -> Rows:
        """All rows, in no order; a copy."""
        return self._held[: self.size].copy()

    def rescore(self, rows: Rows) -> None:
        """Takes over the scores of rows that are still there: rows end with a score and a number."""
        mine = self._held[: len(rows)]
        same = mine[:, -1] == rows[:, -1]
        mine[same, -2] = rows[same, -2]

    def saved(self) -> tuple[bytes, int]:
        """As bytes, and where the next row goes."""
        return self._held[: self.size].tobytes(), self._next

    def restored(self, saved: tuple[bytes, int]) -> None:
        """What `saved` told."""
        self._held = np.frombuffer(saved[0], np.float32).reshape(-1, self._held.shape[1]).copy()
        self.size, self._next = len(self._held), saved[1]
