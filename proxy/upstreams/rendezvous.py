"""Which of several places a key belongs to, so that hardly any key moves when a place comes or goes.

Pure. Highest random weight (Thaler and Ravishankar, 1998), with weights as Schindelhauer and Schomaker (2005) take
them: each place draws a number from the key, the highest wins. A place that is left out moves its own keys only; all
workers agree without talking. For the dozen replicas of a model it is quicker than a ring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

_WORD: Final = (1 << 64) - 1


def seed_of(name: str) -> int:
    """What a place draws by: the same in every worker and after every restart. Odd."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") | 1


def first(key: int, seeds: Sequence[int], weights: Sequence[float]) -> int:
    """The index of the key's own place.

    Each draws by multiplying the key by a number of its own (Dietzfelbinger and others, 1997: the upper bits of such a
    product are spread well). Adding, or xor, would not do: the places would keep their distances, and some get far
    more keys than others.
    """
    odd = key & _WORD | 1
    drawn = [odd * seed & _WORD for seed in seeds]
    if min(weights) != max(weights):
        logs = [weight / -math.log((word + 0.5) / (_WORD + 1.0)) for word, weight in zip(drawn, weights, strict=True)]
        return logs.index(max(logs))
    return drawn.index(max(drawn))
