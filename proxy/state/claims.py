"""Duties that one of a fleet has at a time. Pure: the time is handed in."""

from __future__ import annotations

from proxy.state.changes import Changes


class Duties:
    """Who has which duty until when."""

    def __init__(self, changes: Changes) -> None:
        self.held: dict[str, tuple[str, int]] = {}  # duty: owner, until (ns)
        self._changes = changes

    def claim(self, duty: str, owner: str, ttl_s: float, now_ns: int) -> bool:
        """Takes or renews it."""
        holder, until_ns = self.held.get(duty, ("", 0))
        if holder != owner and until_ns > now_ns:
            return False
        self.held[duty] = (owner, now_ns + round(ttl_s * 1e9))
        self._changes.claims.add(duty)
        return True

    def resign(self, duty: str, owner: str) -> None:
        """Gives it up; somebody else's stays."""
        if self.held.get(duty, ("", 0))[0] == owner:
            del self.held[duty]
            self._changes.claims.add(duty)
