"""Which deployment of a model is asked."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.failures import of_error
from proxy.upstreams import Deployment, NoDeploymentError, Route
from proxy.upstreams.route import Balance
from tests.upstreams.places import Clock, answer, begin, deployments, fail, picks, request
from tests.upstreams.test_flight import REFUSED

BALANCES: list[Balance] = ["weighted", "least-latency", "prefix-affinity"]
WAIT = [(b"retry-after", b"7")]


def made(clock: Clock, *names: str, balance: Balance = "weighted", seed: int = 1, **options: Any) -> Route:
    draw = random.Random(seed).random
    return Route(deployments(clock, *names, **options), balance, clock=clock, draw=draw)


def shut(deployment: Deployment) -> None:
    while deployment.line.health.breaker.until is None:
        fail(deployment, REFUSED)


@pytest.mark.parametrize("balance", BALANCES)
def test_who_is_broken_is_left_out(balance: Balance) -> None:
    """The others get its calls; when its time is over it gets one, and all again once that went well."""
    route = made(clock := Clock(), "a", "b", "c", balance=balance)
    shut(route.deployments[0])
    assert "a" not in picks(route, 60)
    clock.now += 5
    found = []
    for number in range(300):
        clock.now += 0.5
        chosen = route.pick(request(f"prompt {number}"))
        found.append(chosen.label)
        if chosen.label == "a":
            begin(chosen)
        else:
            answer(chosen)
    assert found.count("a") == 1


@pytest.mark.parametrize("balance", BALANCES)
def test_what_was_given_up_comes_last(balance: Balance) -> None:
    """A deployment that an exchange has given up is chosen where no other is left, however quick or heavy it is."""
    route = made(Clock(), "a", "b", "c", balance=balance)
    first, second, third = route.deployments
    answer(first, 0.01)
    assert first.others == (second.label, third.label)
    for _ in range(30):
        assert route.pick(request(), frozenset("a")) is not first
        assert route.pick(request(), frozenset("ab")) is third
    assert {route.pick(request(str(number)), frozenset("abc")) for number in range(60)} <= set(route.deployments)


def test_given_up_beats_waiting() -> None:
    """Where all others asked to wait, one that was given up is called again."""
    route = made(Clock(), "a", "b")
    answer(route.deployments[1], status=429, headers=WAIT)
    assert route.pick(request(), frozenset("a")).label == "a"


@pytest.mark.parametrize("balance", BALANCES)
def test_all_broken_the_least_bad(balance: Balance) -> None:
    """If nobody should be called somebody is, and the exchange says so."""
    route = made(Clock(), "a", "b", balance=balance)
    for deployment in route.deployments:
        shut(deployment)
    answer(route.deployments[0], status=429, headers=WAIT)
    asked = request()
    assert route.pick(asked).label == "b"
    (note,) = asked.exchange.decisions
    assert (note.policy, note.action, note.numbers["why"]) == ("deployments", "least_bad", "broken")


@pytest.mark.parametrize("balance", BALANCES)
def test_all_waiting(balance: Balance) -> None:
    """If all have said when to come back, nothing is sent: 503, Retry-After, and a failure that can be tried again."""
    route = made(clock := Clock(), "a", "b", balance=balance)
    answer(route.deployments[0], status=429, headers=[(b"retry-after", b"60")])
    answer(route.deployments[1], status=429, headers=WAIT)
    with pytest.raises(NoDeploymentError) as caught:
        route.pick(request())
    error = caught.value
    assert (error.status, error.code, error.headers) == (503, "no_deployment_available", ((b"retry-after", b"7"),))
    assert error.deployment.label == "b"
    failure = of_error(error, 0.0)
    assert failure is not None
    assert (failure.kind, failure.billed, failure.told_s, failure.final) == ("overloaded", False, 7.0, False)
    clock.now += 7
    assert route.pick(request()).label == "b"


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("names", ["a", "abc"])
def test_never_more_than_they_may_have(names: str, balance: Balance) -> None:
    """Each may have two calls at a time; the next one is refused until one ends."""
    route = made(Clock(), *names, balance=balance, max_concurrent=2)
    flights = [begin(route.pick(request(str(number)))) for number in range(2 * len(names))]
    assert {each.line.in_flight for each in route.deployments} == {2}
    with pytest.raises(NoDeploymentError):
        route.pick(request())
    flight, attempt = flights[0]
    attempt.outcome = "complete"
    flight.land(attempt)
    route.pick(request())


@pytest.mark.parametrize("balance", BALANCES)
def test_who_is_near_its_limit_waits_for_room(balance: Balance) -> None:
    """It isn't chosen while another has room; if nobody has, it is."""
    route = made(Clock(), "a", "b", balance=balance)
    near = [(b"x-ratelimit-limit-requests", b"100"), (b"x-ratelimit-remaining-requests", b"1")]
    answer(route.deployments[0], headers=near)
    assert set(picks(route, 30)) == {"b"}
    answer(route.deployments[1], headers=near)
    assert set(picks(route, 30)) <= {"a", "b"}


def test_several_keys_are_used_in_turn() -> None:
    """Each key of an upstream is a deployment with its own limits; the one that has to wait isn't used."""
    route = made(Clock(), "up", keys=3)
    assert Counter(picks(route, 30)) == {"up#1": 10, "up#2": 10, "up#3": 10}
    answer(route.deployments[1], status=429, headers=WAIT)
    assert Counter(picks(route, 30)) == {"up#1": 15, "up#3": 15}


def test_a_slow_one_is_left_out() -> None:
    """One that takes five times as long as the others is ejected, and asked again after a while."""
    route = made(clock := Clock(), "a", "b", "c", "slow", balance="least-latency")
    found = []
    for _ in range(4000):
        clock.now += 0.01
        chosen = route.pick(request())
        answer(chosen, 0.5 if chosen.label == "slow" else 0.1)
        found.append(chosen.label)
    assert 1 <= found.count("slow") < 40
    assert min(Counter(found)[name] for name in "abc") > 800


def test_weights_are_not_judged_by_latency() -> None:
    """With weights, a slow one keeps its share."""
    route = made(clock := Clock(), "quick", "slow")
    for _ in range(300):
        clock.now += 0.1
        chosen = route.pick(request())
        answer(chosen, 2.0 if chosen.label == "slow" else 0.1)
    assert Counter(picks(route, 100)) == {"quick": 50, "slow": 50}


@pytest.mark.parametrize("balance", BALANCES)
@given(ends=st.lists(st.tuples(st.sampled_from("gglwr"), st.floats(0, 3)), max_size=150), seed=st.integers(0, 99))
@settings(max_examples=40, print_blob=True, deadline=None)
def test_nobody_starves(balance: Balance, ends: list[tuple[str, float]], seed: int) -> None:
    """Whatever happened before, once all is well each deployment is called again within its longest wait."""
    clock = Clock()
    route = made(clock, "a", "b", "c", balance=balance, seed=seed)
    for number, (end, gap) in enumerate(ends):
        clock.now += gap
        try:
            chosen = route.pick(request(f"prompt {number}"))
        except NoDeploymentError:
            continue
        if end == "r":
            fail(chosen, REFUSED)
        elif end == "w":
            answer(chosen, status=429, headers=WAIT)
        else:
            answer(chosen, 0.1 if end == "g" else 4.0)
    seen = set()
    clock.now += 400  # no wait is longer
    for number in range(2000):
        clock.now += 0.5
        chosen = route.pick(request(f"later {number}"))
        answer(chosen, 0.1)
        seen.add(chosen.label)
    assert seen == {"a", "b", "c"}


def test_alone_it_is_always_called() -> None:
    """A deployment without a rival is called, whatever it said: its own answer is better than ours."""
    route = made(Clock(), "only")
    (only,) = route.deployments
    answer(only, status=429, headers=WAIT)
    shut(only)
    assert route.pick(request()) is only
