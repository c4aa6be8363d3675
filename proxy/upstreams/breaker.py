"""Whether a deployment may be called, by how its calls went.

    closed -- so many failures in a row, or such a share of them --> open
    open -- after a time --> half-open: so many calls at a time may try it
    half-open -- so many of those succeed --> closed; one fails --> open, for twice the time

Pure: the time is a value. Rules:
1. Never more probes run at a time than the rules say; other calls (of those who have no better deployment) are none.
2. What began before it opened says nothing about now.
3. It only advises. Whoever has no other deployment calls it all the same.
"""

from __future__ import annotations

from typing import Final, Literal

from proxy.config.balancing import Breaker as Rules

State = Literal["closed", "open", "half-open"]
Trouble = Literal["unreachable", "server_error", "timeout"]

_PARTS: Final = 2


class Breaker:
    """One deployment's. Times are of one monotonic clock, in seconds."""

    __slots__ = (
        "_calls",
        "_failures",
        "_good",
        "_in_a_row",
        "_open_s",
        "_opened_at",
        "_part_ends",
        "_rules",
        "probing",
        "until",
        "why",
    )

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.until: float | None = None  # when it may be tried again; None while closed
        self.why: str = ""  # it opened
        self.probing = 0
        self._good = 0
        self._open_s = rules.open_s
        self._opened_at = 0.0
        self._in_a_row: dict[Trouble, int] = {}
        self._calls = [0] * _PARTS  # of the running part of the time, and of the one before
        self._failures = [0] * _PARTS
        self._part_ends = 0.0

    def __repr__(self) -> str:
        return f"<Breaker {'closed' if self.until is None else f'open until {self.until:.3f}'} probing={self.probing}>"

    def state(self, now: float) -> State:
        """How it stands."""
        if self.until is None:
            return "closed"
        return "open" if now < self.until else "half-open"

    def admits(self, now: float) -> bool:
        """Whether one more call should be made."""
        return self.until is None or (now >= self.until and self.probing < self._rules.probes)

    def quiet(self, now: float) -> bool:
        """Whether it is closed, and no failure counts any more."""
        return self.until is None and (not any(self._failures) or now - self._part_ends >= self._rules.within_s)

    def begin(self, now: float) -> bool:
        """A call begins: whether it is a probe, whose end must be told by `probed`."""
        if self.until is None or not self.admits(now):
            return False
        self.probing += 1
        return True

    def probed(self) -> None:
        """A probe has ended, whatever came of it."""
        self.probing -= 1

    def succeeded(self, now: float, began: float) -> bool:
        """An answer came; whether that closes it."""
        if self.until is None:
            self._count(now, 0)
            if self._in_a_row:
                self._in_a_row.clear()
            return False
        if began < self._opened_at:
            return False
        self._good += 1
        if self._good < self._rules.successes:
            return False
        self.until = None
        self._open_s = self._rules.open_s
        self._forget()
        return True

    def failed(self, trouble: Trouble, now: float, began: float) -> bool:
        """A call failed; whether that opens it."""
        if self.until is None:
            self._count(now, 1)
            self._in_a_row[trouble] = self._in_a_row.get(trouble, 0) + 1
            self.why = self._wrong(trouble)
            if self.why:
                self._open(now)
            return bool(self.why)
        if began < self._opened_at or now < self.until:
            return False
        self._open_s = min(2 * self._open_s, self._rules.longest_s)
        self.why = f"{trouble} again"
        self._open(now)
        return True

    def _wrong(self, trouble: Trouble) -> str:
        rules, in_a_row = self._rules, self._in_a_row[trouble]
        limits = {
            "unreachable": rules.unreachable,
            "server_error": rules.server_errors,
            "timeout": rules.timeouts,
        }
        if in_a_row >= limits[trouble]:
            return f"{in_a_row} x {trouble} in a row"
        calls, failures = sum(self._calls), sum(self._failures)
        if calls >= rules.at_least and failures >= rules.ratio * calls:
            return f"{failures} of {calls} calls failed"
        return ""

    def _open(self, now: float) -> None:
        self._opened_at, self.until = now, now + self._open_s
        self._forget()

    def _forget(self) -> None:
        self._good = 0
        self._in_a_row.clear()
        self._calls, self._failures = [0] * _PARTS, [0] * _PARTS

    def _count(self, now: float, failures: int) -> None:
        if now >= self._part_ends:
            part_s = self._rules.within_s / _PARTS
            late = now - self._part_ends >= part_s
            self._calls = [0, 0 if late else self._calls[0]]
            self._failures = [0, 0 if late else self._failures[0]]
            self._part_ends = now + part_s
        self._calls[0] += 1
        self._failures[0] += failures
