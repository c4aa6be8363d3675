"""The breaker, as a state machine over any order of calls."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.config.balancing import Breaker as Rules
from proxy.upstreams.breaker import Breaker, Trouble

TROUBLES: list[Trouble] = ["unreachable", "server_error", "timeout"]


@pytest.mark.parametrize(("trouble", "calls"), [("unreachable", 3), ("server_error", 5), ("timeout", 3)])
def test_opens_after_so_many_in_a_row(trouble: Trouble, calls: int) -> None:
    """Each kind of failure has its own number; one less isn't enough."""
    breaker = Breaker(Rules())
    for _ in range(calls - 1):
        assert not breaker.failed(trouble, 10.0, 10.0)
    assert breaker.admits(10.0)
    assert breaker.failed(trouble, 10.0, 10.0)
    assert not breaker.admits(10.0)
    assert breaker.why == f"{calls} x {trouble} in a row"


def test_a_success_between_counts() -> None:
    """Failures that aren't in a row don't open it, as long as they are few."""
    breaker = Breaker(Rules())
    for second in range(60):
        breaker.failed("server_error", second, second)
        breaker.succeeded(second, second)
        breaker.succeeded(second, second)
    assert breaker.state(60.0) == "closed"


def test_opens_at_a_share() -> None:
    """Half of twenty calls, never two in a row."""
    breaker = Breaker(Rules())
    opened = 0
    for number in range(20):
        if number % 2:
            opened += breaker.failed("timeout", 1.0, 1.0)
        else:
            breaker.succeeded(1.0, 1.0)
    assert opened == 1
    assert breaker.why == "10 of 20 calls failed"


def test_old_failures_are_forgotten() -> None:
    """What is longer ago than the rules' time counts no more."""
    breaker = Breaker(Rules(within_s=30.0))
    for _ in range(9):
        breaker.failed("server_error", 0.0, 0.0)
        breaker.succeeded(0.0, 0.0)
    for second in range(60, 90):
        breaker.succeeded(second, second)
    assert not breaker.failed("server_error", 90.0, 90.0)
    assert not breaker.quiet(90.0)
    breaker.succeeded(200.0, 200.0)
    assert breaker.quiet(200.0)


def opened(rules: Rules, now: float = 0.0) -> Breaker:
    breaker = Breaker(rules)
    while breaker.until is None:
        breaker.failed("unreachable", now, now)
    return breaker


def test_comes_back_by_probes() -> None:
    """After its time one call at a time may try it; two successes close it."""
    breaker = opened(Rules(open_s=5.0))
    assert breaker.state(4.9) == "open"
    assert breaker.state(5.0) == "half-open"
    assert breaker.begin(5.0)
    assert not breaker.admits(5.0)
    assert not breaker.begin(5.0)  # one that had no better deployment
    breaker.probed()
    assert not breaker.succeeded(5.1, 5.0)
    assert breaker.begin(5.1)
    breaker.probed()
    assert breaker.succeeded(5.2, 5.1)
    assert breaker.state(5.2) == "closed"


def test_waits_longer_each_time() -> None:
    """A probe that fails opens it for twice the time, up to the longest; closing forgets that."""
    breaker, waits, now = opened(Rules(open_s=5.0, longest_s=30.0)), [], 0.0
    for _ in range(5):
        assert breaker.until is not None
        waits.append(breaker.until - now)
        now = breaker.until
        assert breaker.failed("timeout", now, now)
    assert waits == [5.0, 10.0, 20.0, 30.0, 30.0]
    assert breaker.until is not None
    now = breaker.until
    breaker.succeeded(now, now)
    assert breaker.succeeded(now, now)
    while breaker.until is None:
        breaker.failed("timeout", now, now)
    assert breaker.until - now == 5.0


def test_what_began_before_says_nothing() -> None:
    """Calls that were under way when it opened neither close it nor keep it open."""
    breaker = opened(Rules(open_s=5.0), now=10.0)
    for _ in range(5):
        assert not breaker.succeeded(11.0, 9.0)
        assert not breaker.failed("timeout", 20.0, 9.0)
    assert breaker.until == 15.0


class Machine(RuleBasedStateMachine):
    """Callers that ask it first, and some that have no choice."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.limits = Rules(probes=2)
        self.breaker = Breaker(self.limits)
        self.running: list[tuple[float, bool]] = []

    @rule(seconds=st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(forced=st.booleans())
    def call(self, forced: bool) -> None:
        if self.breaker.admits(self.now) or forced:
            self.running.append((self.now, self.breaker.begin(self.now)))

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 100), trouble=st.sampled_from([None, *TROUBLES]))
    def end(self, number: int, trouble: Trouble | None) -> None:
        began, probe = self.running.pop(number % len(self.running))
        if probe:
            self.breaker.probed()
        if trouble is None:
            self.breaker.succeeded(self.now, began)
        else:
            self.breaker.failed(trouble, self.now, began)

    @invariant()
    def probes_are_bounded(self) -> None:
        probes = sum(probe for _, probe in self.running)
        assert self.breaker.probing == probes <= self.limits.probes

    @invariant()
    def it_always_comes_back(self) -> None:
        if self.breaker.until is not None:
            assert self.breaker.until - self.now <= self.limits.longest_s
            if not self.breaker.probing:
                assert self.breaker.admits(self.breaker.until)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, print_blob=True, deadline=None)
TestAnyOrder = Machine.TestCase


@given(st.lists(st.sampled_from([None, *TROUBLES]), max_size=200))
@settings(print_blob=True, deadline=None)
def test_open_only_after_failures(ends: list[Trouble | None]) -> None:
    """It never opens on a success, and never without as many failures as the least of its numbers."""
    breaker, failures = Breaker(Rules()), 0
    for trouble in ends:
        if trouble is None:
            breaker.succeeded(1.0, 1.0)
        else:
            failures += 1
            breaker.failed(trouble, 1.0, 1.0)
        if breaker.until is not None:
            assert failures >= 3
            return
