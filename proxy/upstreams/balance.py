"""How one of several deployments is chosen, when all of them could be called.

Pure but for what smooth weighted round robin and the table of prefixes remember; draws and times are values. Each
chooses among what it is given and never nothing, so whoever is left out before is never chosen, and whoever isn't
comes in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from proxy.upstreams.deployment import Deployment
from proxy.upstreams.prefix import LENGTHS, Marks, Warm
from proxy.upstreams.rendezvous import first

WARM_SHARE: Final = 0.1  # of a prompt's length: for less, it isn't worth to follow it
SLACK: Final = 2  # calls that a replica may always have


def weighted(deployments: Sequence[Deployment]) -> Deployment:
    """Smooth weighted round robin, as nginx does it: in proportion to the weights, and evenly spread."""
    for deployment in deployments:
        deployment.credit += deployment.weight
    chosen = max(deployments, key=_credit)
    chosen.credit -= sum([deployment.weight for deployment in deployments])
    return chosen


def _credit(deployment: Deployment) -> float:
    return deployment.credit


def quickest(deployments: Sequence[Deployment], streamed: bool, now: float, random: Callable[[], float]) -> Deployment:
    """The better of two that are drawn (Mitzenmacher, 2001): by the time to its first token, and what it has to do.

    Choosing the best of all would send every worker's next calls to the same one at once. One whose time nobody knows
    is asked once, then taken for quick until it answers.
    """
    count = len(deployments)
    if count == 1:
        return deployments[0]
    drawn, next = int(random() * count), int(random() * (count - 1))
    one, other = deployments[drawn], deployments[next + (next >= drawn)]
    known = [each.line.health.latency[streamed].estimate_s(now, not each.line.in_flight) for each in (one, other)]
    quick_s = min([estimate_s for estimate_s in known if estimate_s], default=1.0) / 2
    return other if _cost(other, known[1], quick_s) < _cost(one, known[0], quick_s) else one


def _cost(deployment: Deployment, estimate_s: float, quick_s: float) -> float:
    in_flight = deployment.line.in_flight
    return (estimate_s or quick_s) * (in_flight + 1) if estimate_s or in_flight else 0.0


def bounded(in_flight: Sequence[int], weights: Sequence[float], max_load: float) -> Sequence[int]:
    """Which of them may have one more, by their indices; never none, since their bounds add up to more than there is.

    Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018): at most so many times the fair
    share of all there is, the next one included; or `SLACK`, because with little traffic any bound would send most
    away.
    """
    each = max_load * (sum(in_flight) + 1) / sum(weights)
    if max(in_flight) < max(each * min(weights), SLACK):
        return range(len(in_flight))
    return [
        index
        for index, (has, weight) in enumerate(zip(in_flight, weights, strict=True))
        if has < SLACK or has < each * weight
    ]


def warmest(deployments: Sequence[Deployment], marks: Marks, warm: Warm, max_load: float, now: float) -> Deployment:
    """The deployment that has most of the prompt in its cache, unless it has too much to do; a new prompt's own.

    Where little of it was seen before, its own place is drawn: by its first mark that isn't shared with several others,
    so that a system prompt doesn't bring them all to one place. All workers draw the same.
    """
    in_flight = [each.line.in_flight for each in deployments]
    weights = [each.weight for each in deployments]
    allowed = bounded(in_flight, weights, max_load)
    free = deployments if len(allowed) == len(deployments) else [deployments[index] for index in allowed]
    if not marks:
        return min(free, key=_load)
    found = warm.find(marks, sum([each.bit for each in free]))
    if found.warm and LENGTHS[found.warm - 1] >= WARM_SHARE * LENGTHS[len(marks) - 1]:
        chosen = min([each for each in free if found.owners & each.bit], key=_load)
    else:
        key = marks[min(found.shared, len(marks) - 1)]
        chosen = free[first(key, [each.seed for each in free], [each.weight for each in free])]
    warm.learn(marks, found.known, chosen.bit, now)
    return chosen


def _load(deployment: Deployment) -> float:
    return (deployment.line.in_flight + 1) / deployment.weight
