"""What has changed since it was last written down. Backends that keep nothing clear it unread."""

from __future__ import annotations


class Changes:
    """Keys of what changed: what it is now stands where it always stands, or has gone."""

    __slots__ = ("claims", "closed", "counters", "forgotten", "holds", "rates", "told", "untold")

    def __init__(self) -> None:
        self.counters: set[str] = set()
        self.holds: set[str] = set()
        self.closed: dict[str, int] = {}  # id: when
        self.rates: set[str] = set()
        self.claims: set[str] = set()
        self.told: list[tuple[int, str, int, bytes]] = []  # position, topic, when, message
        self.forgotten: list[str] = []  # ids that are no longer remembered as closed
        self.untold: list[int] = []  # positions of messages that are no longer kept

    def __bool__(self) -> bool:
        return any(self._all())

    def clear(self) -> None:
        """All of it is written, or needn't be."""
        for kept in self._all():
            kept.clear()

    def _all(self) -> tuple[set[str] | dict[str, int] | list[tuple[int, str, int, bytes]] | list[str] | list[int], ...]:
        return (
            self.counters,
            self.holds,
            self.closed,
            self.rates,
            self.claims,
            self.told,
            self.forgotten,
            self.untold,
        )
