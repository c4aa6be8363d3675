"""One key of an upstream. A key that is refused is set aside; every now and then one call tries whether it still is.

Pure: the time is a value.
"""

from __future__ import annotations

from typing import Final

ASIDE_S: Final = 300.0


class Key:
    """`lines` is what a request's head says for it. `label` names it without saying it; empty where it is the only one.

    A key of nobody (`lines` empty) is the client's own.
    """

    __slots__ = ("_aside_until", "label", "lines", "number")

    def __init__(self, number: int, lines: bytes, several: bool) -> None:
        self.number = number
        self.lines = lines
        self.label = f"#{number}" if several else ""
        self._aside_until: float | None = None

    def __repr__(self) -> str:
        return f"<Key {self.number}{' set aside' if self._aside_until is not None else ''}>"

    @property
    def aside(self) -> bool:
        """Whether it was refused, and hasn't been taken since."""
        return self._aside_until is not None

    def usable(self, now: float) -> bool:
        """Whether to send it."""
        return self._aside_until is None or now >= self._aside_until

    def sent(self, now: float) -> None:
        """It is sent: while it is aside, nobody else tries it for a while."""
        if self._aside_until is not None:
            self._aside_until = now + ASIDE_S

    def refused(self, now: float) -> bool:
        """The upstream refused it; whether that is news."""
        news = self._aside_until is None
        self._aside_until = now + ASIDE_S
        return news

    def accepted(self) -> bool:
        """The upstream took it; whether that is news."""
        news = self._aside_until is not None
        self._aside_until = None
        return news
