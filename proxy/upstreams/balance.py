"""How one of several deployments is chosen, when all of them could be called.

Pure but for what smooth weighted round robin and the table of prefixes remember; draws and times are values. Each
chooses among what it is given and never nothing, so whoever is left out before is never chosen, and whoever isn't
comes in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from proxy.upstreams.deployment import Deployment
from proxy.upstreams.prefix import Marks, Warm
from proxy.upstreams.rendezvous import draw

WARM_SHARE: Final = 0.5  # of a prompt's marks: below it, what is shared is everybody's system prompt
SLACK: Final = 2  # calls that a replica may always have: with little traffic, any bound would send most away


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
    first = int(random() * count)
    second = int(random() * (count - 1))
    one, other = deployments[first], deployments[second + (second >= first)]
    known = [each.line.health.latency[streamed].estimate_s(now, not each.line.in_flight) for each in (one, other)]
    quick_s = min([estimate_s for estimate_s in known if estimate_s], default=1.0) / 2
    return other if _cost(other, known[1], quick_s) < _cost(one, known[0], quick_s) else one


def _cost(deployment: Deployment, estimate_s: float, quick_s: float) -> float:
    in_flight = deployment.line.in_flight
    return (estimate_s or quick_s) * (in_flight + 1) if estimate_s or in_flight else 0.0


def bound(weight: float, all_weights: float, in_flight: int, max_load: float) -> int:
    """How many calls one deployment may have, the next included, when all together have so many without it.

    Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018): so many times its fair share.
    """
    return max(math.ceil(max_load * (in_flight + 1) * weight / all_weights), SLACK)


def warmest(deployments: Sequence[Deployment], marks: Marks, warm: Warm, max_load: float, now: float) -> Deployment:
    """The deployment that has most of the prompt in its cache, unless it has too much to do; a new prompt's own.

    A prompt's own place is drawn by its first mark that nobody knows: what comes before it is shared by many, and
    would bring them all to one place.
    """
    in_flight = sum([each.line.in_flight for each in deployments])
    weights = sum([each.weight for each in deployments])
    free = [
        each for each in deployments if each.line.in_flight < bound(each.weight, weights, in_flight, max_load)
    ]  # never none: their bounds add up to more than there is
    if not marks:
        return min(free, key=_load)
    anyone, depth, owners = warm.longest(marks, _bits(free))
    if depth and depth >= WARM_SHARE * len(marks):
        chosen = min([each for each in free if owners & each.bit], key=_load)
    else:
        key = marks[anyone] if anyone < len(marks) else marks[-1]
        chosen = max(free, key=lambda each: draw(key, each.seed, each.weight))
    warm.learn(marks, chosen.bit, now)
    return chosen


def _load(deployment: Deployment) -> float:
    return (deployment.line.in_flight + 1) / deployment.weight


def _bits(deployments: Sequence[Deployment]) -> int:
    bits = 0
    for each in deployments:
        bits |= each.bit
    return bits
