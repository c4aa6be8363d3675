"""What is known of one class of traffic: scores, their certificates, what answers cost, how much is asked. Pure.

Rules:
1. Each score has a certificate of its own, and each certificate its part of the chance to be wrong (`PARTS`): together
   they are wrong no more often than `1 - confidence`, however many of them are looked at. Of those that are certified
   the cheapest is used, or the one that the operator chose.
2. A score is fitted to pairs that came before it; its certificate begins with the pairs that were begun after it was
   known (`Pair.heeded`).
3. Evidence about another model isn't evidence: where an upstream begins to serve another version, all begins anew.
4. Where one certificate is reverted, all of them begin anew, and the class says `reverted` until one is certified.
5. Judges are asked for the scores that count. The first one rests when there is another, an older one when a later one
   is in force: what rests sees nothing, for whatever reason the judge is asked, until an operator chooses it.
6. The same messages in the same order give the same state in all workers.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from policies.cascade.learning.apart import Kept, Wanted
from policies.cascade.learning.certificate import Certificate
from policies.cascade.learning.features import Features, unpacked
from policies.cascade.learning.score import Score, prior
from policies.cascade.shared import Agreed, Fitted, Order, Pair, Traffic, What

Status = Literal["gathering", "certified", "infeasible", "reverted"]
PARTS: Final = (0.05, 0.6, 0.25, 0.1)  # of the first score, which knows nothing, and of those that were fitted
FIT_AT: Final = (150, 500, 2000)  # judged pairs, at which they are
# The share that the most aggressive threshold of a score accepts, of what it was fitted to. Where the first one is
# fitted pairs are few, and to prove half of the traffic takes fewer than to prove whatever there may be hope for. The
# last one accepts more where it can tell that this can be proven.
ASPIRES: Final = (1.0, 0.5, 0.7, 0.6)
ESCALATED: Final = 2.0  # stands for the score of what a gate has stopped: above every threshold
_EXAMPLES: Final = 2000
_EXAMPLES_BYTES: Final = 2 * 1024 * 1024  # of those that are kept
_HOURS: Final = 24
_BEST: Final = -1


class Line(msgspec.Struct):
    """A score and the evidence about it."""

    number: int
    score: Score
    certificate: Certificate
    top: float  # the greatest threshold of its grid
    rests: bool = False


class Evidence:
    """One class. `name` is what the traffic is divided by, `kind` the digest of what evidence must not be mixed by."""

    def __init__(self, name: str, kind: str, epsilon: float, delta: float) -> None:
        self.name, self.kind = name, kind
        self._epsilon, self._delta = epsilon, delta
        self.lines = [self._line(0, prior())]
        self.examples: deque[Kept] = deque(maxlen=_EXAMPLES)
        self.judged = 0
        self.begun = 0  # how often the evidence has begun
        self.pinned = _BEST
        self.reverted = False
        self.served: tuple[list[str], list[str]] = ([], [])
        self.requests = self.small = self.escalated = self.saved_nanos = self.spent_nanos = 0
        self.gates: dict[str, int] = {}
        self._hours: dict[int, int] = {}
        self._first_s = self._last_s = 0.0
        self._costs = [0, 0, 0]  # pairs whose both costs are known, and their sums
        self.agreed: dict[int, bool] = {}
        self.serving: Line | None = None
        self.status: Status = "gathering"

    def __repr__(self) -> str:
        return f"<Evidence {self.name} {self.status} {self.judged} pairs>"

    def _line(self, number: int, score: Score) -> Line:
        part = min(number, len(PARTS) - 1)
        certificate = score.certificate(self._epsilon, self._delta * PARTS[part], ASPIRES[part])
        return Line(number, score, certificate, certificate.grid[-1])

    # --- deciding

    def accepts(self, features: Features) -> tuple[bool, float]:
        """Whether a small answer may be given, and its score. Only while something is certified."""
        line = self.serving
        if line is None:
            return False, self.lines[-1].score.benefit(features)
        score = line.score.benefit(features)
        return line.certificate.accepts(score), score

    def needs_judge(self, features: Features) -> bool:
        """Whether any score might have an answer with these features given."""
        return any(line.score.benefit(features) <= line.top for line in self.lines if not line.rests)

    @property
    def heeded(self) -> tuple[int, ...]:
        """The scores that are asked whether a judge is needed."""
        return tuple([line.number for line in self.lines if not line.rests])

    @property
    def escalates(self) -> float:
        """The share of requests that the large model answers after all."""
        if self.serving is not None and self.serving.certificate.threshold is not None:
            return self.serving.certificate.escalated(self.serving.certificate.threshold)
        return self.escalated / self.requests if self.requests else 0.0

    @property
    def told(self) -> Line:
        """The one that is spoken of: that in force, else the one that was fitted last."""
        return self.serving or self.lines[-1]

    @property
    def certificate_id(self) -> str:
        """Names the evidence and the score that a decision stands on."""
        line = self.told
        parts = f"{self.kind}/{self.name}/{self.begun}/{line.number}/{line.score.version}"
        return hashlib.blake2b(parts.encode(), digest_size=5).hexdigest()

    # --- learning

    def hear(self, what: What) -> None:
        """Takes in what a worker tells."""
        if isinstance(what, Pair):
            self._pair(what)
        elif isinstance(what, Fitted):
            self._fitted(what)
        elif isinstance(what, Traffic):
            self._traffic(what)
        elif isinstance(what, Agreed):
            self.agreed[what.pair] = what.agrees
        elif isinstance(what, Order):
            self._order(what)
        self._decide()

    def _pair(self, pair: Pair) -> None:
        try:
            features = unpacked(pair.features)
        except ValueError:
            return
        if self._another(pair.served):
            self.begin()
        for line in self.lines:
            if line.rests or (pair.heeded is not None and line.number not in pair.heeded):
                continue
            score = ESCALATED if pair.gate is not None else line.score.benefit(features)
            if pair.loss is not None or score > line.top:
                line.certificate.observe(score, pair.loss if score <= line.top and pair.loss is not None else 0.0)
            if pair.small_nanos is not None and pair.large_nanos is not None:
                line.certificate.observe_costs(pair.small_nanos, pair.large_nanos)
        if pair.small_nanos is not None and pair.large_nanos is not None:
            self._costs = [self._costs[0] + 1, self._costs[1] + pair.small_nanos, self._costs[2] + pair.large_nanos]
        if pair.loss is not None:
            self.judged += 1
            self.examples.append((pair.features, pair.loss, pair.large_nanos))

    def _another(self, served: tuple[str, str]) -> bool:
        """Whether an upstream serves another version of a model than it did."""
        found = False
        for known, name in zip(self.served, served, strict=True):
            if name and name not in known:
                found = found or bool(known)
                known.append(name)
        return found

    def begin(self) -> None:
        """Forgets what was learnt: the evidence is about something else now."""
        self.lines = [self._line(0, prior())]
        self.examples.clear()
        self.judged = 0
        self.begun += 1
        self.reverted = False
        self.pinned = _BEST

    def _fitted(self, fitted: Fitted) -> None:
        if fitted.number != self.lines[-1].number + 1:
            return  # it is of evidence that was forgotten, or somebody else was first
        try:
            self.lines.append(self._line(fitted.number, Score.loads(fitted.score)))
        except ValueError:
            return

    def _order(self, order: Order) -> None:
        if order.what == "reset":
            self.begin()
        elif order.what == "use":
            self.pinned = order.number

    def _traffic(self, told: Traffic) -> None:
        self.requests += told.requests
        self.small += told.small
        self.escalated += told.escalated
        self.saved_nanos += told.saved_nanos
        self.spent_nanos += told.spent_nanos
        for gate, count in told.gates.items():
            self.gates[gate] = self.gates.get(gate, 0) + count
        self._first_s = self._first_s or told.at_s
        self._last_s = max(self._last_s, told.at_s)
        hour = int(told.at_s // 3600)
        self._hours[hour] = self._hours.get(hour, 0) + told.requests
        for old in [each for each in self._hours if each <= hour - _HOURS]:
            del self._hours[old]

    def _decide(self) -> None:
        """Which certificate is in force now."""
        if any(line.certificate.status == "reverted" for line in self.lines):
            self.lines = [self._line(line.number, line.score) for line in self.lines]
            self.begun += 1
            self.reverted = True
        certified = [
            line
            for line in self.lines
            if not line.rests and line.certificate.status == "certified" and self._pays(line)
            if self.pinned in (_BEST, line.number)
        ]
        self.serving = min(certified, key=_escalated, default=None)
        if self.serving is not None:
            self.status, self.reverted = "certified", False
        elif self.reverted:
            self.status = "reverted"
        else:
            dead = all(line.certificate.status == "infeasible" for line in self.lines if not line.rests)
            self.status = "infeasible" if dead else "gathering"
        for line in self.lines:
            line.rests = self._rests(line)

    def _rests(self, line: Line) -> bool:
        if line is self.lines[-1] or line is self.serving or line.number == self.pinned:
            return False
        return line.rests or line.number == 0 or (self.serving is not None and self.serving.number > line.number)

    def _pays(self, line: Line) -> bool:
        """Whether asking the small model first costs less than asking the large one at once."""
        threshold, costs = line.certificate.threshold, self.costs()
        if threshold is None:
            return False
        small, large = costs or (0.0, 1.0)
        return line.certificate.escalated(threshold) * large + small < large

    @property
    def wants_fit(self) -> int | None:
        """The number of the score that is to be fitted now, if one is."""
        number = self.lines[-1].number + 1
        due = number <= len(FIT_AT) and self.judged >= FIT_AT[number - 1]
        return number if due else None

    def fitting(self) -> Wanted:
        """What a score is fitted to."""
        return Wanted(list(self.examples), self._epsilon)

    # --- telling

    @property
    def a_day(self) -> float:
        """Requests a day, at present traffic."""
        span_s = min(max(self._last_s - self._first_s, 60.0), _HOURS * 3600.0)
        return sum(self._hours.values()) * 86_400 / span_s

    def costs(self) -> tuple[float, float] | None:
        """What a small and a large answer cost on average, in nano-dollars."""
        count, small, large = self._costs
        return (small / count, large / count) if count else None

    def report(self) -> dict[str, Any]:
        """How it stands, as plain values."""
        line, costs = self.told, self.costs()
        certificate = line.certificate
        needed = [found for each in self.lines if (found := each.certificate.pairs_needed_estimate()) is not None]
        threshold = certificate.threshold
        return {
            "class": self.name,
            "status": self.status,
            "certificate": self.certificate_id,
            "p": certificate.p_value,
            "threshold": threshold,
            "escalates": None if threshold is None else certificate.escalated(threshold),
            "max_quality_loss": self._epsilon,
            "confidence": 1 - self._delta,
            "delta": self._delta * PARTS[min(line.number, len(PARTS) - 1)],
            "pairs": certificate.pairs,
            "judged": self.judged,
            "pairs_needed": min(needed, default=None) if self.serving is None else None,
            "score": line.number,
            "scores": [each.number for each in self.lines],
            "pinned": None if self.pinned == _BEST else self.pinned,
            "small_nanos": None if costs is None else round(costs[0]),
            "large_nanos": None if costs is None else round(costs[1]),
            "requests": self.requests,
            "requests_a_day": self.a_day,
            "small": self.small,
            "escalated": self.escalated,
            "saved_nanos": self.saved_nanos,
            "spent_nanos": self.spent_nanos,
            "gates": self.gates,
            "agrees": [sum(self.agreed.values()), len(self.agreed)],
            "evidence": [list(row) if isinstance(row, (list, tuple)) else row for row in certificate.rows()],
        }

    def state(self) -> dict[str, Any]:
        """All of it, as plain values; `restore` makes it again."""
        return {
            "name": self.name,
            "kind": self.kind,
            "lines": [[line.number, line.score.dumps(), line.certificate.state(), line.rests] for line in self.lines],
            "examples": self._kept(),
            **{name: getattr(self, name) for name in _PLAIN},
            "served": [list(names) for names in self.served],
            "hours": list(self._hours.items()),
            "span": [self._first_s, self._last_s],
            "costs": self._costs,
            "agreed": list(self.agreed.items()),
        }

    def _kept(self) -> list[list[Any]]:
        """The last examples, as many as there is room for."""
        found, size = [], 0
        for each in reversed(self.examples):
            size += len(each[0])
            if size > _EXAMPLES_BYTES:
                break
            found.append(list(each))
        return found[::-1]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over a state. Raises ValueError, KeyError or TypeError for one of another version."""
        lines = []
        for number, dumped, certificate, rests in state["lines"]:
            line = self._line(number, Score.loads(dumped))
            line.certificate, line.rests = Certificate.restore(certificate), rests
            lines.append(line)
        self.lines = lines or self.lines
        self.examples.extend((packed, loss, price) for packed, loss, price in state["examples"])
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.served = (list(state["served"][0]), list(state["served"][1]))
        self._hours = {int(hour): count for hour, count in state["hours"]}
        self._first_s, self._last_s = state["span"]
        self._costs = list(state["costs"])
        self.agreed = {int(pair): agrees for pair, agrees in state["agreed"]}
        self._decide()


_PLAIN: Final = (
    "judged",
    "begun",
    "pinned",
    "reverted",
    "requests",
    "small",
    "escalated",
    "saved_nanos",
    "spent_nanos",
    "gates",
)


def _escalated(line: Line) -> float:
    threshold = line.certificate.threshold
    assert threshold is not None
    return line.certificate.escalated(threshold)
