"""Which deployments stand out from the others of their model so much that they are left out for a while.

Pure. Rules: each is compared with the median of its peers; never more than the share of the rules is out at a time;
the worst go first.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from proxy.config.balancing import Outliers as Rules

FEWER = 2  # calls, once it has stood out before: a deployment that is still slow is known by its first answers


class Seen(msgspec.Struct, frozen=True):
    """How one deployment's calls went of late. Pairs are of whole answers and of streams."""

    answered: tuple[int, int] = (0, 0)
    seconds: tuple[float, float] = (0.0, 0.0)  # to their first token, all together
    failed: int = 0
    out: bool = False  # it is left out now
    before: int = 0  # how often it was, of late
    place: int = 0  # the same for those that differ by their key only: they are no peers

    @property
    def calls(self) -> int:
        """All that ended one way or the other."""
        return sum(self.answered) + self.failed


def standing_out(seen: Sequence[Seen], rules: Rules, by_latency: bool) -> list[tuple[int, str]]:
    """The deployments to leave out now, by their index, each with why."""
    room = int(rules.at_most * len(seen)) - sum(one.out for one in seen)
    found = []
    for index, one in enumerate(seen):
        needed = min(FEWER, rules.at_least) if one.before else rules.at_least
        if one.out or one.calls < needed:
            continue
        peers = [other for other in seen if other.place != one.place and other.calls >= rules.at_least]
        how_bad, why = max(_slow(one, peers, rules, needed, by_latency), _failing(one, peers, rules))
        if how_bad > 0:
            found.append((how_bad, index, why))
    found.sort(reverse=True)
    return [(index, why) for _, index, why in found[: max(room, 0)]]


def _slow(one: Seen, peers: Sequence[Seen], rules: Rules, needed: int, by_latency: bool) -> tuple[float, str]:
    if rules.latency is None or not by_latency:
        return 0.0, ""
    worst, why = 0.0, ""
    for kind in (0, 1):
        theirs = [peer.seconds[kind] / peer.answered[kind] for peer in peers if peer.answered[kind] >= rules.at_least]
        if one.answered[kind] < needed or not theirs or not (usual := statistics.median(theirs)):
            continue
        own = one.seconds[kind] / one.answered[kind]
        if (times := own / usual) >= rules.latency and times > worst:
            worst, why = times, f"{own:.3g} s to the first token, the others {usual:.3g} s"
    return worst, why


def _failing(one: Seen, peers: Sequence[Seen], rules: Rules) -> tuple[float, str]:
    if not peers or one.calls < rules.at_least:
        return 0.0, ""
    usual = statistics.median([peer.failed / peer.calls for peer in peers])
    own = one.failed / one.calls
    if own - usual < rules.failures or not own:
        return 0.0, ""
    return 1000 * own, f"{one.failed} of {one.calls} calls failed, of the others {usual:.0%}"
