"""Which threshold of a score keeps the mean loss within ε, proven at any time by betting. Pure; no numpy.

What is claimed: of the accepted threshold t, E[L·1(score <= t)] <= ε over all requests, where L = quality of the large
answer - quality of the small one, in [-1, 1]. The chance that a threshold is ever certified that breaks this is at
most δ, however often and whenever one looks (exchangeable traffic, and the judge's view of quality).

Rules:
1. Per threshold and per stake λ a gambler bets against E[Z] >= ε: its capital is Π(1 + λ(ε - Z)), with Z the loss over
   its propensity (Waudby-Smith & Ramdas, arXiv 2010.09686). λ <= 1/(1/floor - ε): capital stays positive.
2. The capital of a threshold is the mean over all stakes: no stake is to be chosen, and none in hindsight. It proves
   the claim when it reaches 1/δ (Ville's inequality).
3. Thresholds are proven in their order, from conservative to aggressive, and the first that isn't ends the sequence:
   no correction for their number is due. What was proven stays proven.
4. A second set of gamblers bets against E[Z] <= ε for each threshold, new ones joining with ever less of the stock
   (w_k = 1/((k+1)(k+2)) at every `JOINING`th observation), so that evidence from before a drift doesn't hold them back.
   When those of the served threshold reach 1/δ the certificate is reverted, for good: begin a new one.
5. An observation without loss multiplies all capitals alike: it is counted, not applied. The state is small.
6. A change of score, model, prompt template or judge ends a certificate: begin a new one.

Who tells what: a coin that doesn't look at the request may leave requests out; these need not be told. Of all others
each is told once: `observe` when it was judged, with the chance that it had to be judged; `observe_unjudged` when not.
A request whose score is above the grid is escalated at every threshold: its loss is 0, `observe(score, 0.0, 1.0)`, and
no judge is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

Status = Literal["gathering", "certified", "infeasible", "reverted"]
VERSION: Final = 1
JOINING: Final = 25
_STAKES: Final = 12
_LEAST_STAKE: Final = 1 / 64  # of the greatest
_FEW: Final = 200  # observations before costs say anything


class Certificate:
    """The evidence about one score on one class of traffic."""

    def __init__(self, epsilon: float, delta: float, grid: Sequence[float], *, floor: float = 1.0) -> None:
        """`grid`: thresholds, ascending; `floor`: the least propensity that will be told."""
        raise NotImplementedError

    def observe(self, score: float, loss: float, propensity: float = 1.0) -> None:
        """A judged pair: `loss` = quality of the large answer - quality of the small one, in [-1, 1].

        Raises ValueError for a loss or a propensity out of range.
        """
        raise NotImplementedError

    def observe_unjudged(self, score: float) -> None:
        """A request in the sample that chance left unjudged (only where propensities are below 1)."""
        raise NotImplementedError

    def observe_costs(self, small_nanos: int, large_nanos: int) -> None:
        """What a small answer (with all that deciding on it costs) and a large one cost, of one request."""
        raise NotImplementedError

    @property
    def status(self) -> Status:
        """How it stands. `infeasible`: no threshold that is proven, or may yet be, costs less than always-large."""
        raise NotImplementedError

    @property
    def threshold(self) -> float | None:
        """The most aggressive that is proven and pays; a small answer is accepted when its score <= threshold."""
        raise NotImplementedError

    def accepts(self, score: float) -> bool:
        """Whether a small answer of this score may be given."""
        raise NotImplementedError

    @property
    def p_value(self) -> float:
        """Of the served threshold, or of the next one while none is: anytime-valid."""
        raise NotImplementedError

    @property
    def pairs(self) -> int:
        """Judged pairs so far (requests above the grid are none)."""
        raise NotImplementedError

    def pairs_needed_estimate(self) -> int | None:
        """How many more pairs the next proof will take at the present growth; None: it doesn't grow."""
        raise NotImplementedError

    def escalated(self, threshold: float) -> float:
        """The share of requests that a threshold escalates."""
        raise NotImplementedError

    def rows(self) -> list[Any]:
        """For people: per threshold its share escalated, mean loss, and p-values."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """JSON-able; `restore` makes the same certificate of it."""
        raise NotImplementedError

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Certificate:
        """Raises ValueError for a state of another version."""
        raise NotImplementedError
