"""Which of several places a key belongs to, so that hardly any key moves when a place comes or goes.

Pure. Highest random weight (Thaler and Ravishankar, 1998), with weights as Schindelhauer and Schomaker (2005) take
them: each place draws a number from the key, the highest wins. A place that is left out moves its own keys only; all
workers agree without talking. For the dozen replicas of a model it is quicker than a ring.
"""

from __future__ import annotations

import math
import zlib
from typing import Final

_WORD: Final = (1 << 64) - 1


def seed_of(name: str) -> int:
    """What a place draws by: the same in every worker and after every restart."""
    raw = name.encode()
    return _mixed(zlib.crc32(raw) << 32 | zlib.crc32(raw[::-1]))


def draw(key: int, seed: int, weight: float) -> float:
    """What a place draws for a key. The higher wins."""
    return weight / -math.log((_mixed(key ^ seed) + 0.5) / (_WORD + 1.0))


def _mixed(word: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every bit depends on every bit."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
