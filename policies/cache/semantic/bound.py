"""From which score on an answer may be given, so that of what is given at most a stated share is wrong. Pure.

The method, on the labels of the recent past (each the score as it was when it was decided by, and whether the answer
would have been wrong) and on the recent traffic's scores:

1. Labels are cut into strata by their score, `STRATUM` in each from the top. Within a stratum each counts the same,
   whether a miss or an audit told it: what is known of answers with such a score doesn't depend on how it was learnt.
2. A stratum's share is its share of all recent traffic, labelled or not.
3. The error of a stratum can't fall as the score falls: pooled adjacent violators make it monotone.
4. The upper bound of what is served from a score on: Σ T·r + z·√(Σ T²·r·(1-r)/n), over Σ T, with T the traffic, r the
   error and n the labels of each stratum. The lowest score whose bound is within the goal is the threshold.
5. Who looks often is lucky once. So before anything is served, labels must also have won a bet (`won`): it pays whoever
   says that fewer are wrong than allowed, and who is mistaken makes three of one once in three times at most, and once
   in twenty if twice as many are wrong.

Weighing audits by the inverse of their probability instead needs no strata, and has several times the variance.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
STRATUM: Final = 40
FEWEST: Final = 40  # labels before anything is served
_Z: Final = 0.4  # more would cost hits: what it leaves to chance, audits and the goal that follows them take care of
WON: Final = 3.0
_STAKES: Final = (0.02, 0.25, 0.5)  # those who bet say that so much of what is allowed is wrong
NEVER: Final = 2.0  # above every score


class Stratum(msgspec.Struct, frozen=True):
    """What is known of scores from `least` up to the stratum above."""

    least: float
    labels: int
    wrong: float
    traffic: int
    bound: float


def threshold(
    scores: Array, wrong: Array, traffic: Array, goal: float, allowed: float | None = None
) -> tuple[float, list[Stratum]]:
    """The lowest score that may be served, `NEVER` where none may; and the strata, from the top.

    `allowed`: that fewer are wrong than this is yet to be proven.
    """
    if len(scores) < FEWEST or not len(traffic):
        return NEVER, []
    order = np.argsort(-scores, kind="stable")
    scores, wrong = scores[order], wrong[order]
    starts = np.arange(0, len(scores), STRATUM)
    if len(starts) > 1 and len(scores) - starts[-1] < STRATUM // 2:
        starts = starts[:-1]
    ends = np.append(starts[1:], len(scores))
    n = (ends - starts).astype(float)
    seen = np.add.reduceat(wrong, starts)
    rate = monotone((seen + 0.5 * goal) / (n + 0.5), n)
    least = scores[ends - 1]
    above = len(traffic) - np.searchsorted(np.sort(traffic), least, side="left").astype(float)
    share = np.diff(np.concatenate([[0.0], above]))
    variance = np.cumsum(share**2 * np.maximum(rate, 0.5 * goal) * (1 - rate) / n)
    bound = (np.cumsum(share * rate) + _Z * np.sqrt(variance)) / np.maximum(above, 1)
    strata = [
        Stratum(*row)
        for row in zip(
            least.tolist(),
            n.astype(int).tolist(),
            rate.tolist(),
            share.astype(int).tolist(),
            bound.tolist(),
            strict=True,
        )
    ]
    may = (bound <= goal) & (above >= 5)
    if allowed is not None:
        may &= won(np.cumsum(n), np.cumsum(seen), allowed) >= WON
    held = np.flatnonzero(may)
    return (float(least[held[-1]]) if len(held) else NEVER), strata


def won(labels: Array, wrong: Array, allowed: float) -> Array:
    """What a stake has become by betting on each label that fewer are wrong than `allowed` (an e-process)."""
    logs = [(labels - wrong) * np.log((1 - part * allowed) / (1 - allowed)) + wrong * np.log(part) for part in _STAKES]
    made: Array = np.exp(np.minimum(logs, 50.0)).mean(0)
    return made


def monotone(rates: Array, weights: Array) -> Array:
    """The nearest rates that never fall (pooled adjacent violators)."""
    pools: list[list[float]] = []
    for rate, weight in zip(rates.tolist(), weights.tolist(), strict=True):
        pools.append([rate * weight, weight, 1])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            total, weight, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += weight
            pools[-1][2] += count
    return np.concatenate([np.full(int(count), total / weight) for total, weight, count in pools])


def interval(rate: float, n: float, z: float = 1.645) -> tuple[float, float, float]:
    """A rate seen in n audits, and where the true one lies (Wilson's interval)."""
    if not n:
        return 0.0, 0.0, 1.0
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * float(np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    return rate, max(0.0, middle - half), min(1.0, middle + half)
