"""Which of several models a request goes to. Pure: prices, latencies and what is warm are values.

Rules:
1. What doesn't fit (`Offer.bar`) is never chosen.
2. An unknown price counts as the dearest one, an unknown latency as the quickest until it has been asked once.
3. A conversation stays where it is, unless that no longer fits, or a cheaper model pays, within `pays_within` turns,
   for the prompt cache that is lost: `now` is what a model would cost with what it has cached at present, `later` with
   all cached that could be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from policies.route.config import Prefer, Sticky

WAITING: Final = float("inf")
"""The latency of a model that is being asked for the first time."""


class Offer(msgspec.Struct, frozen=True):
    """A model as it stands for one request. `bar` says why it can't be chosen; "" if it can."""

    model: str
    bar: str = ""
    now_nanodollars: int | None = None
    later_nanodollars: int | None = None
    latency_s: float | None = None
    warm_tokens: int = 0


class Course(msgspec.Struct, frozen=True):
    """The models to try, best first; `why` of the first, and what a conversation's switch to it was worth."""

    models: tuple[str, ...]
    why: str
    lost_nanodollars: int = 0


def fitting(offers: Sequence[Offer]) -> list[Offer]:
    """Those that can be chosen."""
    return [offer for offer in offers if not offer.bar]


def decided(
    offers: Sequence[Offer],
    prefer: Prefer,
    *,
    at: str | None = None,
    sticky: Sticky = "priced",
    pays_within: int = 1,
    gain: float | None = None,
    escalate_at: float = 0.5,
) -> Course:
    """Where it goes. `at` is where the conversation is, `gain` how much better the last model is expected to be."""
    free = fitting(offers)
    present = None if sticky == "off" else next((offer for offer in free if offer.model == at), None)
    if prefer == "score":
        ranked, why = _by_score(free, offers[-1].model, gain, escalate_at)
    else:
        ranked, why = ordered(free, prefer, 1 if present is None else pays_within), prefer
    models = [offer.model for offer in ranked]
    if present is None or models[0] == at:
        return Course(tuple(models), why)
    if sticky == "priced" and prefer in ("cost", "balanced"):
        best = ranked[0]
        if pays(present, best, pays_within):
            return Course(tuple(models), "switch", lost(best))
    return Course((present.model, *[model for model in models if model != at]), "conversation")


def ordered(free: Sequence[Offer], prefer: Prefer, turns: int = 1) -> list[Offer]:
    """Best first, by what so many turns cost; the order of the file where they are equal."""
    if prefer == "order":
        return list(free)
    costs, latencies = shares([over(offer, turns) for offer in free], 1.0), _latencies(free)
    weights = {"cost": (1.0, 0.0), "latency": (0.0, 1.0)}.get(prefer, (1.0, 1.0))
    grades = [weights[0] * cost + weights[1] * latency for cost, latency in zip(costs, latencies, strict=True)]
    return [free[index] for index in sorted(range(len(free)), key=grades.__getitem__)]


def shares(amounts: Sequence[float | None], unknown: float) -> list[float]:
    """Each as a share of the largest, so that dollars and seconds can be added."""
    largest = max([amount for amount in amounts if amount is not None], default=0)
    return [unknown if amount is None else amount / largest if largest else 0.0 for amount in amounts]


def _latencies(free: Sequence[Offer]) -> list[float]:
    """One that is being asked for the first time isn't asked twice: until it answers, it counts as the slowest."""
    known = [None if offer.latency_s == WAITING else offer.latency_s for offer in free]
    found = shares(known, 0.0)
    return [1.0 if offer.latency_s == WAITING else share for offer, share in zip(free, found, strict=True)]


def pays(present: Offer, other: Offer, turns: int) -> bool:
    """Whether going over costs less than staying, over so many turns."""
    stay, go = over(present, turns), over(other, turns)
    return stay is not None and go is not None and go < stay


def over(offer: Offer, turns: int) -> int | None:
    """What so many turns cost, if all of them are like this one."""
    if offer.now_nanodollars is None or offer.later_nanodollars is None:
        return offer.now_nanodollars
    return offer.now_nanodollars + (turns - 1) * offer.later_nanodollars


def lost(offer: Offer) -> int:
    """What the prompt cache that this model lacks costs: (uncached less cached price) x tokens that are warm."""
    if offer.now_nanodollars is None or offer.later_nanodollars is None:
        return 0
    return offer.now_nanodollars - offer.later_nanodollars


def _by_score(free: Sequence[Offer], large: str, gain: float | None, escalate_at: float) -> tuple[list[Offer], str]:
    """Nobody knows: the large one, since nothing may get worse."""
    escalate = gain is None or gain >= escalate_at
    ranked = sorted(free, key=lambda offer: (offer.model == large) is not escalate)
    return ranked, "no_score" if gain is None else "score"
