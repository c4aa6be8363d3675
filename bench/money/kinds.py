"""What clients ask for: kinds of requests, with answers of lognormal length.

The simulator is told the length by a header, which never exceeds a cap that the request carries: where an answer is cut
short all the same, somebody has shortened it who wasn't asked to.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from bench.money.prices import MOST_OUTPUT
from proxy.pricing import RateCards

FRAMED: Final = 1_024  # tokens of input at most: bytes of the request, and what a bound adds
REASONING: Final = 4_000  # tokens that a reasoning model may think before it writes
PROMPT: Final = "Describe the weir, the mill and the river below in the words of a traveller. " * 3


@lru_cache
def cards() -> RateCards:
    """Weir's own prices; only for the size of a reservation, never for what was spent."""
    return RateCards.compile()


def bound(model: str, cap: int) -> int:
    """The reservation of a request with this cap."""
    card = cards().card("openai", model, datetime.now(UTC))
    most = None if card is None else card.bound(FRAMED, cap, 1, None, media=False, characters=None)
    assert most is not None, model
    return most


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of request; `cap` None for none."""

    name: str
    model: str
    cap: int | None = None
    stream: bool = False
    weight: int = 1
    median: int = 250
    priced: bool = True

    def worst(self) -> int:
        """What Weir reserves for one call at most, in nano-dollars: at the dearest tier that it might be served at."""
        return bound(self.model, self.cap or MOST_OUTPUT[self.model])

    def request(self, number: int, chance: random.Random) -> tuple[dict[str, Any], int]:
        """The body, and how long the answer is to be."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"{number}: {PROMPT}"}],
        }
        if self.stream:
            body["stream"] = True
        if self.cap is not None:
            body["max_tokens"] = self.cap
        longest = self.cap if self.cap is not None else MOST_OUTPUT.get(self.model, 1_000) - REASONING
        return body, max(1, min(longest, round(chance.lognormvariate(0, 0.9) * self.median)))


SMALL: Final = Kind("small", "gpt-4o-mini", cap=1_000, weight=35)
OPEN: Final = Kind("no max_tokens", "gpt-4o-mini", weight=15)
LARGE: Final = Kind("large", "gpt-4o", cap=800, weight=12)
STREAM: Final = Kind("stream", "gpt-4o", cap=800, stream=True, weight=10)
THINKS: Final = Kind("reasoning", "o4-mini", weight=8)
TWO_RUNGS: Final = Kind("two rungs", "gpt-4.1-nano", cap=1_200, weight=17)
UNPRICED: Final = Kind("unpriced", "made-up-9", cap=100, weight=3, priced=False)
MIXED: Final = (SMALL, OPEN, LARGE, STREAM, THINKS, TWO_RUNGS, UNPRICED)
