"""Which threshold of a score keeps the mean loss within ε, proven at any time by betting. Pure; no numpy.

What is claimed: of the accepted threshold t, E[L·1(score <= t)] <= ε over all requests, where L = quality of the large
answer - quality of the small one, in [-1, 1]. The chance that a threshold is ever certified that breaks this is at
most δ, however often and whenever one looks (exchangeable traffic, and the judge's view of quality).

Rules:
1. Per threshold and per stake λ a gambler bets against E[Z] >= ε: its capital is Π(1 + λ(ε - Z)), with Z the loss over
   its propensity (Waudby-Smith & Ramdas, arXiv 2010.09686). λ <= 1/(1/floor - ε): capital stays positive.
2. The capital of a threshold is a weighed mean over all stakes: none is to be chosen, nor in hindsight. It proves the
   claim when it reaches 1/δ (Ville's inequality). How it is weighed is a guess that is made before the first pair:
   where it is known how often answers differ, most of the stock is on stakes that win with so much variance.
3. Thresholds are proven in their order, from conservative to aggressive, and the first that isn't ends the sequence:
   no correction for their number is due. What was proven stays proven.
4. A second set of gamblers bets against E[Z] <= ε for each threshold; with every observation a new one joins, with a
   stake of 1 (`JOINING` of them at a time), so that evidence from before a drift doesn't hold them back. After n
   observations within ε they hold n on average, or less: that those of the served threshold reach `RARELY` happens once
   in as many observations at the most, even where it loses exactly ε (Shin, Ramdas and Rinaldo, arXiv 2203.03532). Then
   the certificate is reverted, for good: begin a new one. To revert in vain costs money, never quality.
5. An observation without loss multiplies all capitals alike: it is counted, not applied. The state is small.
6. A change of score, model, prompt template or judge ends a certificate: begin a new one.

Who tells what: a coin that doesn't look at the request may leave requests out; these need not be told. Of all others
each is told once: `observe` when it was judged, with the chance that it had to be judged; `observe_unjudged` when not.
A request whose score is above the grid is escalated at every threshold: its loss is 0, `observe(score, 0.0, 1.0)`, and
no judge is needed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

Status = Literal["gathering", "certified", "infeasible", "reverted"]
VERSION: Final = 3
JOINING: Final = 100
RARELY: Final = 100_000  # observations between two reversions in vain, at the least
STAKES: Final = 12
_LEAST_STAKE: Final = 1 / 64  # of the greatest
# Which stakes win: λ is best at (ε - μ)/σ², and where n observations just prove that, at √(2 ln(1/δ)/nσ²): for hundreds
# to thousands of them, and answers of which some tenths differ in quality, about 1/4, give or take a factor of e.
_MIDDLE_STAKE: Final = 0.25
# Where a variance is known it is √(2 ln(1/δ)/nσ²) itself, for so many requests, give or take a little.
_HORIZON: Final = 1500
_AROUND: Final = tuple(math.exp(at / 4) for at in range(-4, 5))
_MIDDLE_PROOF: Final = 4.0  # log capital, with what is lost on other stakes
_ABOUT: Final = 0.4  # the standard deviation of its log
_SURELY: Final = 2.33  # standard errors by which a loss is beyond ε before a cascade is given up as infeasible
_FIRST: Final = 25  # observations before growth says anything
FEW: Final = 200  # observations before costs say anything
# A cascade that saves less than this share of always-large doesn't pay for its shadow calls and the time it takes.
LEAST_SAVING: Final = 0.03
_NEVER: Final = -math.inf
_ALARM: Final = math.log(RARELY)


class Row(NamedTuple):
    """What is known of one threshold."""

    threshold: float
    escalated: float  # share of requests
    loss: float  # mean, over all requests
    p_within: float  # of "it loses ε or more": small where it is proven to keep within
    p_beyond: float  # of "it loses ε at most": small where it is proven to break it


class Certificate:
    """The evidence about one score on one class of traffic."""

    def __init__(
        self,
        epsilon: float,
        delta: float,
        grid: Sequence[float],
        *,
        floor: float = 1.0,
        squares: Sequence[float] | None = None,
    ) -> None:
        """`grid`: thresholds, ascending; `floor`: the least propensity that will be told; `squares`: for each threshold
        a guess at the mean of (L·1(score <= t))², above 0. What is proven holds for any guess; a good one takes fewer
        pairs."""
        if not 0 < epsilon < 1 or not 0 < delta < 1 or not 0 < floor <= 1:
            raise ValueError("epsilon, delta and floor are shares")
        if not grid or any(low >= high for low, high in pairwise(grid)):
            raise ValueError("a grid is ascending, and has a threshold at least")
        if squares is not None and (len(squares) != len(grid) or min(squares) <= 0):
            raise ValueError("a guess above 0 is needed for each threshold")
        self.epsilon, self.delta, self.floor, self.grid = epsilon, delta, floor, tuple(grid)
        self.squares = None if squares is None else tuple(squares)
        self._wanted = math.log(1 / delta)
        shares = [_LEAST_STAKE ** (at / (STAKES - 1)) for at in range(STAKES)]
        told = [_weighed(None if squares is None else squares[at]) for at in range(len(grid))]
        self._stakes = [[floor * share for share, _ in each] for each in told]
        self._parts = [[part for _, part in each] for each in told]  # logs
        self._joins = [part for _, part in _weighed(None)]
        self._against = [share * 0.99 / (epsilon + 1 / floor) for share in shares]
        self._idle = [[math.log1p(stake * epsilon) for stake in stakes] for stakes in self._stakes]
        self._idle_against = [math.log1p(-stake * epsilon) for stake in self._against]
        n = len(self.grid)
        self._seen = 0  # observations
        self._pairs = 0
        self._above = [0] * (n + 1)  # observations by the first threshold that accepts them
        self._sums = [[0.0, 0.0] for _ in range(n)]  # of Z and Z², where accepted
        self._within = [[0.0] * len(stakes) for stakes in self._stakes]  # logs, besides what counting gives
        self._beyond = [[_NEVER] * STAKES for _ in range(n)]  # logs, as of `_joined` observations
        self._pending = 0  # observations since then
        self._proven = 0  # thresholds
        self._best = [0.0] * n  # greatest log capital seen
        self._reverted = False
        self._costs = [0, 0, 0]  # requests, and the sums of both costs
        self._join()

    def __repr__(self) -> str:
        return f"<Certificate {self.status} {self._pairs} pairs threshold={self.threshold} p={self.p_value:.3g}>"

    # --- taking in

    def observe(self, score: float, loss: float, propensity: float = 1.0) -> None:
        """A judged pair: `loss` = quality of the large answer - quality of the small one, in [-1, 1].

        Raises ValueError for a loss or a propensity out of range.
        """
        if not -1 <= loss <= 1 or not self.floor <= propensity <= 1:
            raise ValueError(f"a loss of {loss} at a propensity of {propensity}")
        first = self._count(score)
        self._pairs += first < len(self.grid)
        if loss:
            self._apply(first, loss / propensity)
        self._conclude()

    def observe_unjudged(self, score: float) -> None:
        """A request in the sample that chance left unjudged (only where propensities are below 1)."""
        self._count(score)
        self._conclude()

    def observe_costs(self, small_nanos: int, large_nanos: int) -> None:
        """What a small answer (with all that deciding on it costs) and a large one cost, of one request."""
        self._costs = [self._costs[0] + 1, self._costs[1] + small_nanos, self._costs[2] + large_nanos]

    def _count(self, score: float) -> int:
        """Counts an observation; the number of the first threshold that accepts it."""
        first = bisect_left(self.grid, score)
        self._seen += 1
        self._above[first] += 1
        self._pending += 1
        if self._pending >= JOINING:
            self._join()
        return first

    def _apply(self, first: int, z: float) -> None:
        gap = self.epsilon - z
        lost = [math.log1p(-stake * gap) - idle for stake, idle in zip(self._against, self._idle_against, strict=True)]
        for at in range(first, len(self.grid)):
            self._sums[at][0] += z
            self._sums[at][1] += z * z
            self._within[at] = [
                held + math.log1p(stake * gap) - idle
                for held, stake, idle in zip(self._within[at], self._stakes[at], self._idle[at], strict=True)
            ]
            self._beyond[at] = [held + each for held, each in zip(self._beyond[at], lost, strict=True)]

    def _join(self) -> None:
        """New gamblers against E[Z] <= ε, for the next observations."""
        idle, new = [self._pending * each for each in self._idle_against], math.log(JOINING)
        self._beyond = [
            [_sum_of_logs(held + more, new + part) for held, more, part in zip(row, idle, self._joins, strict=True)]
            for row in self._beyond
        ]
        self._pending = 0

    def _conclude(self) -> None:
        while self._proven < len(self.grid) and self._capital(self._proven) >= self._wanted:
            self._proven += 1
        if self._proven:
            self._capital(self._proven - 1)
            served = self._pays(self._proven - 1)  # what doesn't pay was never served: there is nothing to revert
            self._reverted = self._reverted or (served and self._capital_beyond(self._proven - 1) >= _ALARM)

    def _capital(self, at: int) -> float:
        """The log of the capital of those who bet that a threshold keeps within ε."""
        found = _sum_of([part + each for part, each in zip(self._parts[at], self._capitals(at), strict=True)])
        self._best[at] = max(self._best[at], found)
        return found

    def _capitals(self, at: int) -> list[float]:
        return [self._seen * idle + held for idle, held in zip(self._idle[at], self._within[at], strict=True)]

    def _capital_beyond(self, at: int) -> float:
        return _sum_of([held + self._pending * e for held, e in zip(self._beyond[at], self._idle_against, strict=True)])

    def _p_beyond(self, at: int) -> float:
        """Of "it loses ε at most", now: all gamblers together hold one for each observation on average, or less."""
        return min(1.0, math.exp(math.log(self._seen + JOINING) - self._capital_beyond(at)))

    # --- telling

    @property
    def status(self) -> Status:
        """How it stands. `infeasible`: no threshold that is proven, or may yet be, costs less than always-large."""
        if self._reverted:
            return "reverted"
        if self.threshold is not None:
            return "certified"
        return "infeasible" if self._hopeless() else "gathering"

    @property
    def threshold(self) -> float | None:
        """The most aggressive that is proven and pays; a small answer is accepted when its score <= threshold."""
        if self._reverted or not self._proven or not self._pays(self._proven - 1):
            return None
        return self.grid[self._proven - 1]

    def accepts(self, score: float) -> bool:
        """Whether a small answer of this score may be given."""
        threshold = self.threshold
        return threshold is not None and score <= threshold

    @property
    def p_value(self) -> float:
        """Of the served threshold, or of the next one while none is: anytime-valid."""
        at = min(self._proven, len(self.grid) - 1) if self.threshold is None else self._proven - 1
        self._capital(at)
        return math.exp(-self._best[at])

    @property
    def pairs(self) -> int:
        """Judged pairs so far (requests above the grid are none)."""
        return self._pairs

    def escalated(self, threshold: float) -> float:
        """The share of requests that a threshold escalates; 1 before there were any."""
        accepted = sum(self._above[: bisect_left(self.grid, threshold) + 1])
        return 1 - accepted / self._seen if self._seen else 1.0

    def pairs_needed_estimate(self) -> int | None:
        """How many more pairs the next proof will take at the present growth; None: it doesn't grow, or all is proven.

        While none is served: the proof of the first threshold that pays.
        """
        at = self._proven if self.threshold is not None else max(self._proven, self._first_paying())
        if at >= len(self.grid) or self._reverted:
            return None
        wanted = self._wanted + 1  # a stake's capital is but a part of the mean
        if self._seen < _FIRST:
            return math.ceil(wanted / max(self._idle[at]))
        logs = self._capitals(at)
        growth = max(logs) / self._seen
        if growth <= 0:
            return None
        return max(1, math.ceil((wanted - max(logs)) / growth * self._pairs / self._seen))

    def rows(self) -> list[Row]:
        """For people: what is known of each threshold, conservative first."""
        return [
            Row(
                threshold,
                self.escalated(threshold),
                self._sums[at][0] / max(1, self._seen),
                math.exp(-max(self._best[at], self._capital(at))),
                self._p_beyond(at),
            )
            for at, threshold in enumerate(self.grid)
        ]

    def _pays(self, at: int) -> bool:
        """Whether p_escalate·c_large + c_small < c_large, by what is known."""
        count, small, large = self._costs
        if not count or self._seen < FEW:
            return True
        return self.escalated(self.grid[at]) * large + small < (1 - LEAST_SAVING) * large

    def _first_paying(self) -> int:
        return next((at for at in range(len(self.grid)) if self._pays(at)), len(self.grid))

    def _hopeless(self) -> bool:
        """None pays, or the most conservative that does surely loses too much; more aggressive ones lose more."""
        if self._seen < FEW or not self._costs[0]:
            return False
        at = self._first_paying()
        if at >= len(self.grid):
            return True
        mean, square = (each / self._seen for each in self._sums[at])
        error = math.sqrt(max(0.0, square - mean * mean) / self._seen)
        return mean - _SURELY * error > self.epsilon or self._p_beyond(at) <= self.delta

    # --- kept

    def state(self) -> dict[str, Any]:
        """JSON-able; `restore` makes the same certificate of it."""
        return {
            "version": VERSION,
            **{name: getattr(self, name) for name in _GIVEN},
            **{name: getattr(self, f"_{name}") for name in _KEPT},
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Certificate:
        """Raises ValueError for a state of another version."""
        if state.get("version") != VERSION:
            raise ValueError(f"a certificate of version {state.get('version')}, not {VERSION}")
        made = cls(state["epsilon"], state["delta"], state["grid"], floor=state["floor"], squares=state["squares"])
        for name in _KEPT:
            kept = state[name]
            copied = (
                [list(each) if isinstance(each, list) else each for each in kept] if isinstance(kept, list) else kept
            )
            setattr(made, f"_{name}", copied)
        return made


_GIVEN: Final = ("epsilon", "delta", "floor", "grid", "squares")
_KEPT: Final = (
    *("seen", "pairs", "above", "sums", "within", "beyond"),
    *("pending", "proven", "best", "reverted", "costs"),
)


def _weighed(square: float | None) -> list[tuple[float, float]]:
    """Stakes as shares of the greatest, and the logs of their parts of the stock: normal in the log of the stake."""
    if square is None:
        shares = [_LEAST_STAKE ** (at / (STAKES - 1)) for at in range(STAKES)]
        found = [-(math.log(share / _MIDDLE_STAKE) ** 2) / 2 for share in shares]
    else:
        middle = min(1.0, math.sqrt(2 * _MIDDLE_PROOF / (_HORIZON * square)))
        shares = [min(1.0, middle * each) for each in _AROUND]
        found = [-((math.log(each) / _ABOUT) ** 2) / 2 for each in _AROUND]
    total = _sum_of(found)
    return [(share, each - total) for share, each in zip(shares, found, strict=True)]


def _sum_of(logs: Sequence[float]) -> float:
    """The log of a sum, of logs."""
    most = max(logs)
    return most if most == _NEVER else most + math.log(sum(math.exp(each - most) for each in logs))


def _sum_of_logs(one: float, other: float) -> float:
    most = max(one, other)
    return most + math.log1p(math.exp(min(one, other) - most))
