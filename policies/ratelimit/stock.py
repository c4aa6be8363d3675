"""A worker's stock of one rate: units taken from the Store ahead, so that most requests ask nobody. Pure.

Rules:
1. What is spent was taken from the Store before, or is owed to it and told within a tenth of a second.
2. Units are kept for `KEEP_S` at most, then given back: so no unit counts much earlier than it is used.
3. A worker stocks what it used lately, and never more than its share of what is left: with all workers doing so, half
   of it stays in the Store. Where that carries fewer than `FEW` requests the limit is near, and every request asks.
4. What a rate has left, for the headers, is what the Store said last, what has come back since, and the own stock.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.state.protocol import Rate, Taken

KEEP_S: Final = 1.0
FEW: Final = 8
NEAR_S: Final = 0.25
"""How long after a refusal nothing is stocked."""


class Stock:
    """One rate of one subject."""

    __slots__ = (
        "drawing",
        "drawn",
        "drawn_s",
        "known_s",
        "left",
        "near_s",
        "owed",
        "rate",
        "touched_s",
        "turn",
        "units",
        "until_s",
        "used",
    )

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.units = 0  # taken and not used
        self.owed = 0  # used and not taken
        self.drawn = 0  # the last draw
        self.drawn_s = float("-inf")
        self.until_s = float("-inf")  # when what is in stock must go back
        self.used = 0  # since the last draw
        self.drawing = False
        self.near_s = float("-inf")  # until then nothing is stocked
        self.left = most_of(rate)  # as the Store said last
        self.known_s = float("-inf")
        self.touched_s = 0.0
        self.turn = asyncio.Lock()  # of those that wait for this rate

    def __repr__(self) -> str:
        return f"<Stock of {self.rate.key}: {self.units} units, {self.owed} owed, {self.left} left>"

    # --- using

    def correct(self, more: int) -> None:
        """It came to more, or less, than was spent."""
        self.units -= more
        self.used = max(0, self.used + more)
        if self.units < 0:
            self.owed -= self.units
            self.units = 0
        elif self.owed:
            paid = min(self.owed, self.units)
            self.owed -= paid
            self.units -= paid

    # --- stocking

    def wanted(self, cost: int, workers: int, now_s: float) -> int:
        """How much to take ahead now; 0 near the limit, or where there is enough."""
        if self.drawing or self.owed or now_s < self.near_s or now_s - self.known_s > KEEP_S:
            return 0
        if now_s < self.until_s and 2 * self.units > self.drawn:
            return 0
        span_s = max(now_s - self.drawn_s, KEEP_S / 10)
        lately = int(self.used * KEEP_S / span_s)  # in as long as it may be kept
        share = self.remaining(now_s) // (2 * workers)
        wanted = min(share, max(2 * lately, 2 * FEW * cost))
        return wanted if wanted >= FEW * cost else 0

    def took(self, units: int, now_s: float) -> None:
        """The Store granted a draw."""
        self.units += units
        self.drawn = self.units
        self.drawn_s, self.until_s, self.used = now_s, now_s + KEEP_S, 0

    def learn(self, said: Taken, now_s: float) -> None:
        """What the Store said of the rate."""
        self.left, self.known_s = said.remaining, now_s
        if not said.allowed:
            self.near_s = now_s + NEAR_S

    def surplus(self, now_s: float) -> int:
        """Units to give back: kept for too long, or needed by others."""
        old = now_s >= self.until_s or now_s - self.touched_s >= KEEP_S
        return self.units if old or now_s < self.near_s else max(0, self.units - max(2 * self.drawn, 1))

    @property
    def clean(self) -> bool:
        """Whether the Store knows all of it."""
        return not self.units and not self.owed and not self.drawing

    # --- telling

    def remaining(self, now_s: float) -> int:
        """What is left of the rate, as far as this worker knows."""
        rate, since_s = self.rate, now_s - self.known_s
        left = self.left + self.units - self.owed
        if since_s < 1e6:
            left += int(since_s * 1e9 * rate.limit / rate.period_ns)
        most = most_of(rate)
        return most if left > most else left if left > 0 else 0

    def reset_s(self, left: int) -> float:
        """How long until all of it is back, where so much is left and nothing more is used."""
        rate = self.rate
        return (most_of(rate) - left) * rate.period_ns / rate.limit / 1e9 if rate.limit else rate.period_ns / 1e9


def most_of(rate: Rate) -> int:
    """The most at once."""
    return rate.limit if rate.burst is None else rate.burst
