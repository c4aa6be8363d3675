"""A deliberate slow-down, to show that the guard catches one: pointless calls put into the path of every delivery.

The work is a share of what a unit costs without it: that share of its Python calls, of its C calls, and of its CPU
time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """Extra work for one unit: Python calls, C calls, and turns of an empty loop."""

    calls: int
    c_calls: int
    turns: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The extra work of each scenario."""

    shares: dict[str, Share]

    def work(self, scenario: str) -> Callable[[], None]:
        share = self.shares[scenario]
        return lambda: _work(share)

    def encoded(self) -> str:
        return json.dumps({name: asdict(share) for name, share in self.shares.items()})

    @staticmethod
    def decoded(text: str) -> Plan:
        return Plan({name: Share(**share) for name, share in json.loads(text).items()})


def share_of(calls: float, c_calls: float, unit_ns: float, fraction: float) -> Share:
    """The work that adds `fraction` to a unit with these counts."""
    bare = Share(max(1, round(calls * fraction)), round(c_calls * fraction), 0)
    left_ns = unit_ns * fraction - _time_ns(bare)
    return Share(bare.calls, bare.c_calls, max(0, round(left_ns / _turn_ns())))


def _work(share: Share) -> None:
    for _ in range(share.calls - 2):  # this function and the one that calls it are two
        _pass()
    for _ in range(share.c_calls):
        abs(0)
    for _ in range(share.turns):
        pass


def _pass() -> None:
    return None


def _time_ns(share: Share, repeats: int = 200) -> float:
    _work(share)
    start = time.process_time_ns()
    for _ in range(repeats):
        _work(share)
    return (time.process_time_ns() - start) / repeats


def _turn_ns() -> float:
    turns = 100_000
    return _time_ns(Share(2, 0, turns), repeats=5) / turns
