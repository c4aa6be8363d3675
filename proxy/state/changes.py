"""What has changed since it was last written down. Backends that keep nothing clear it unread."""

from __future__ import annotations


class Changes:
    """Keys of what changed: what it is now stands where it always stands, or has gone."""

    __slots__ = ("claims", "closed", "counters", "holds", "rates", "told")

    def __init__(self) -> None:
        self.counters: set[str] = set()
        self.holds: set[str] = set()
        self.closed: dict[str, int] = {}  # id: when
        self.rates: set[str] = set()
        self.claims: set[str] = set()
        self.told: list[tuple[int, str, int, bytes]] = []  # position, topic, when, message

    def __bool__(self) -> bool:
        return bool(self.counters or self.holds or self.closed or self.rates or self.claims or self.told)

    def clear(self) -> None:
        """All of it is written, or needn't be."""
        for kept in (self.counters, self.holds, self.closed, self.rates, self.claims, self.told):
            kept.clear()
