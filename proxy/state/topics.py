"""The feed of changes, as kept: messages by topic, in the order told. Pure: the time is handed in.

Positions grow over all topics and over restarts, since each is at least the time at which it was given; written with
twenty digits, they sort as text. A message goes when 10,000 newer ones of its topic stand and an hour has passed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

from proxy.state.changes import Changes

KEPT: Final = 10_000
KEPT_NS: Final = 3600 * 10**9
_SPARE: Final = 1_000  # old ones are dropped by so many at a time


def position_of(number: int) -> str:
    """A position as callers see it."""
    return f"{number:020d}"


class Topics:
    """What was told, by topic: (position, when, message)."""

    def __init__(self, changes: Changes) -> None:
        self.told: dict[str, list[tuple[int, int, bytes]]] = {}
        self.last = 0
        self._changes = changes

    def publish(self, topic: str, message: bytes, now_ns: int) -> str:
        """Keeps a message; its position."""
        self.last = max(self.last + 1, now_ns)
        self.restore(self.last, topic, now_ns, message)
        self._changes.told.append((self.last, topic, now_ns, message))
        self._trim(self.told[topic], now_ns)
        return position_of(self.last)

    def after(self, topic: str, position: str) -> Iterator[tuple[str, bytes]]:
        """What came after a position, as far as it is kept."""
        told = self.told.get(topic, [])
        start = bisect_right(told, int(position or 0), key=lambda one: one[0])
        for number, _, message in told[start:]:
            yield position_of(number), message

    def restore(self, number: int, topic: str, at_ns: int, message: bytes) -> None:
        """Takes over a message that was kept."""
        self.told.setdefault(topic, []).append((number, at_ns, message))
        self.last = max(self.last, number)

    def _trim(self, told: list[tuple[int, int, bytes]], now_ns: int) -> None:
        if len(told) >= KEPT + _SPARE and told[_SPARE - 1][1] < now_ns - KEPT_NS:
            self._changes.untold += [number for number, _, _ in told[:_SPARE]]
            del told[:_SPARE]
