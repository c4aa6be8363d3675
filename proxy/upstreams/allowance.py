"""How much a provider still lets a key have of a model, as its answers tell.

Pure: the times are values. Rules:
1. What an answer tells (`x-ratelimit-*`, `anthropic-ratelimit-*`) is the truth of that moment; until the next one,
   what is sent is taken off and what flows back is added.
2. Limits are buckets that fill steadily and are full at their reset: so both providers describe theirs.
3. A 429 means: not before. Where it doesn't say when, the wait doubles from one to the next.

OpenAI's fields: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, resets as `6m0s`. Anthropic's:
`anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}`, resets as RFC 3339.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

from proxy.failures import duration_s
from proxy.wire.headers import Headers

MARGIN: Final = 0.02  # of a limit: other workers, and other programs, use the same key
PLENTY: Final = 0.5  # above this share of a limit, nobody needs to know when it is full again
LONGEST_WAIT_S: Final = 300.0  # then one call finds out, whatever was said
_UNTOLD_S: Final = 60.0  # limits are by the minute
_FIRST_WAIT_S: Final = 1.0
_QUOTA_WAIT_S: Final = 60.0
_OPENAI: Final = b"x-ratelimit-"
_ANTHROPIC: Final = b"anthropic-ratelimit-"
_LARGEST: Final = 1e15


class Stock:
    """One limit: what is left of it, and when it is full again."""

    __slots__ = ("_at", "_full_at", "_left", "limit")

    def __init__(self, limit: float, left: float, now: float, full_at: float) -> None:
        self.limit = limit
        self._left = left
        self._at = now
        self._full_at = full_at

    def __repr__(self) -> str:
        return f"<Stock {self._left:.0f} of {self.limit:.0f}>"

    def left(self, now: float) -> float:
        """What is there now."""
        if now >= self._full_at:
            return self.limit
        return self._left + (self.limit - self._left) * (now - self._at) / (self._full_at - self._at)

    def take(self, amount: float, now: float) -> None:
        """Something was sent that counts as so much."""
        left = self.left(now)
        if now >= self._full_at:
            self._full_at = now + _UNTOLD_S
        self._left, self._at = max(left - amount, 0.0), now


class Allowance:
    """All limits of one key and model, and when it may be asked again."""

    __slots__ = ("_stocks", "_waits", "denied_until", "not_before")

    def __init__(self) -> None:
        self._stocks: dict[str, Stock] = {}
        self.not_before = 0.0
        self.denied_until = 0.0  # the key may not use the model
        self._waits = 0

    def __repr__(self) -> str:
        return f"<Allowance {self._stocks}>"

    def share_left(self, now: float) -> float:
        """What is left of the limit that is nearest, as a share; 1 where none is known."""
        return min((stock.left(now) / stock.limit for stock in self._stocks.values()), default=1.0)

    def has_room(self, tokens: int, now: float) -> bool:
        """Whether a request of so many tokens stays clear of all limits."""
        for kind, stock in self._stocks.items():
            need = 1 if kind == "requests" else 0 if kind == "output_tokens" else tokens
            if stock.left(now) - need < MARGIN * stock.limit:
                return False
        return True

    def take(self, tokens: int, now: float) -> None:
        """A request of so many tokens is sent."""
        for kind, stock in self._stocks.items():
            if kind != "output_tokens":
                stock.take(1 if kind == "requests" else tokens, now)

    def told(self, headers: Headers, now: float, wall: float) -> None:
        """An answer came, with its fields. `wall` is Unix time."""
        said = _said(headers)
        for kind, (limit, remaining, reset) in said.items():
            if not limit or remaining is None:
                continue
            left_s = _UNTOLD_S if reset is None or remaining > PLENTY * limit else _until(reset, wall)
            self._stocks[kind] = Stock(limit, min(remaining, limit), now, now + left_s)

    def accepted(self) -> None:
        """A request was let in: the next refusal begins the waiting anew."""
        self._waits = 0
        self.denied_until = 0.0

    def refused(self, told_s: float | None, quota: bool, now: float) -> float:
        """A 429 came; how long nothing should be sent."""
        first = _QUOTA_WAIT_S if quota else _FIRST_WAIT_S
        wait_s = told_s if told_s is not None else first * 2.0 ** min(self._waits, 10)
        wait_s = min(max(wait_s, 0.0), LONGEST_WAIT_S)
        self._waits += 1
        self.not_before = max(self.not_before, now + wait_s)
        return wait_s


_Said = tuple[float | None, float | None, bytes | None]


def _said(headers: Headers) -> dict[str, _Said]:
    """limit, remaining and reset of each limit that is told whole."""
    found: dict[str, list[bytes | None]] = {}
    for name, value in headers:
        if name.startswith(_OPENAI):
            what, _, kind = name[len(_OPENAI) :].partition(b"-")
        elif name.startswith(_ANTHROPIC):
            kind, _, what = name[len(_ANTHROPIC) :].rpartition(b"-")
        else:
            continue
        place = _PLACES.get(what)
        known = _KINDS.get(kind)
        if place is not None and known is not None:
            found.setdefault(known, [None, None, None])[place] = value
    return {kind: (_number(limit), _number(left), reset) for kind, (limit, left, reset) in found.items()}


_PLACES: Final = {b"limit": 0, b"remaining": 1, b"reset": 2}
_KINDS: Final = {
    b"requests": "requests",
    b"tokens": "tokens",
    b"input-tokens": "input_tokens",
    b"output-tokens": "output_tokens",
}


def _number(value: bytes | None) -> float | None:
    try:
        number = float(value or b"")
    except ValueError:
        return None
    return number if 0 < number < _LARGEST else 0.0 if number == 0 else None


def _until(reset: bytes, wall: float) -> float:
    """Seconds until a limit is full again."""
    text = reset.decode("latin-1")
    found: float | None
    if "T" in text:
        try:
            found = datetime.fromisoformat(text).timestamp() - wall
        except (ValueError, OverflowError):
            found = None
    else:
        found = duration_s(text)
    if found is None or not math.isfinite(found):
        return _UNTOLD_S
    return min(max(found, 0.001), 86400.0)
