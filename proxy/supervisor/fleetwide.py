"""What other hosts have counted of a policy with a guardrail, so that a fleet is judged as one.

Rules:
- Each host tells the sum of its own window, every few seconds, under a name of this life of its own; what isn't told
  again lapses. So nothing is counted twice, and a host that is gone counts a little longer than it lived.
- Only counts that began after the same word of an operator are added up: after "on again", what others counted before
  they heard of it would step it back at once.
- While the Store is away, each host judges alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Final

import msgspec

from proxy.rollout.guardrail import Tally
from proxy.state.protocol import Store

KEPT_S: Final = 15.0
_TOPIC: Final = "guardrail-counts"


class Counts(msgspec.Struct, frozen=True):
    """One host's window of an entry: over how long, of both arms; `word_s` is when the last word about it was said."""

    word_s: float
    seconds: float
    treated: Tally
    control: Tally


class Fleetwide:
    """The windows of others, as last told."""

    def __init__(self) -> None:
        self._life = uuid.uuid4().hex
        self._others: dict[str, list[Counts]] = {}

    def with_others(self, key: str, mine: Counts) -> Counts:
        """The sum of all hosts' windows of an entry."""
        treated, control, seconds = Tally(), Tally(), 0.0
        for one in (mine, *self._others.get(key, ())):
            if one.word_s == mine.word_s:
                treated.add(one.treated)
                control.add(one.control)
                seconds = max(seconds, one.seconds)
        return Counts(mine.word_s, seconds, treated, control)

    async def exchange(self, store: Store, mine: Mapping[str, Counts]) -> None:
        """Tell what was counted here, and hear the others."""
        self._others = {}
        for key, counts in mine.items():
            own = f"{_TOPIC}/{key}/{self._life}"
            await store.put(own, msgspec.json.encode(counts), KEPT_S)
            told = [await store.get(name) for name in await store.keys(f"{_TOPIC}/{key}/") if name != own]
            self._others[key] = [msgspec.json.decode(data, type=Counts) for data in told if data is not None]
