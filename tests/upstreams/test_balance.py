"""How one of several that could be called is chosen."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.upstreams.balance import SLACK, bounded, quickest, warmest, weighted
from proxy.upstreams.prefix import Warm
from tests.upstreams.places import Clock, answer, begin, deployments


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
@settings(print_blob=True, deadline=None)
def test_weights_exactly(weights: list[int]) -> None:
    """After as many calls as the weights add up to, each has had its own number; no gap is longer than its share."""
    made = deployments(Clock(), *map(str, range(len(weights))), weights=[float(weight) for weight in weights])
    found = [weighted(made).label for _ in range(2 * sum(weights))]
    assert Counter(found) == {str(number): 2 * weight for number, weight in enumerate(weights)}


def test_the_quicker_of_two() -> None:
    """By the time to the first token, times what it has to do."""
    clock = Clock()
    slow, quick = made = deployments(clock, "slow", "quick")
    answer(slow, 0.5)
    answer(quick, 0.1)
    draws = random.Random(1)
    assert {quickest(made, False, clock.now, draws.random) for _ in range(50)} == {quick}
    for _ in range(5):
        begin(quick)
    assert {quickest(made, False, clock.now, draws.random) for _ in range(50)} == {slow}


def test_streams_and_whole_answers_apart() -> None:
    """Long whole answers don't make a deployment slow for streams."""
    clock = Clock()
    one, other = made = deployments(clock, "one", "other")
    answer(one, 9.0)
    answer(other, 1.0)
    one.line.answered(0.1, True, clock.now)
    other.line.answered(0.2, True, clock.now)
    assert quickest(made, False, clock.now, random.Random(1).random) is other
    assert quickest(made, True, clock.now, random.Random(1).random) is one


def test_the_unknown_is_asked_once() -> None:
    """One that nobody knows is asked; as long as it hasn't answered, it isn't flooded."""
    clock = Clock()
    known, unknown = made = deployments(clock, "known", "unknown")
    answer(known, 0.1)
    draws = random.Random(1)
    assert quickest(made, False, clock.now, draws.random) is unknown
    begin(unknown)
    begin(unknown)
    assert quickest(made, False, clock.now, draws.random) is known


def test_a_slow_one_is_asked_again() -> None:
    """In time a slow one is tried by one call, and by no more until that has answered."""
    clock = Clock()
    slow, quick = made = deployments(clock, "slow", "quick")
    answer(slow, 3.0)
    draws = random.Random(1)
    waited = 0
    while True:
        answer(quick, 0.1)
        if quickest(made, False, clock.now, draws.random) is slow:
            break
        clock.now += 1
        waited += 1
    assert 5 < waited < 60
    begin(slow)
    assert quickest(made, False, clock.now, draws.random) is quick


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 5)), min_size=1, max_size=10), st.floats(1.01, 4.0))
@settings(print_blob=True, deadline=None)
def test_bounded_loads(places: list[tuple[int, int]], max_load: float) -> None:
    """Whoever may have one more stays within the factor of its fair share with it; somebody always may."""
    in_flight, weights = [has for has, _ in places], [float(weight) for _, weight in places]
    allowed = bounded(in_flight, weights, max_load)
    assert len(allowed) > 0
    for index in range(len(places)):
        share = max_load * (sum(in_flight) + 1) * weights[index] / sum(weights)
        assert (index in allowed) == (in_flight[index] + 1 <= max(math.ceil(share), SLACK))


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=120), st.floats(1.05, 3.0))
@settings(print_blob=True, deadline=None)
def test_affinity_keeps_the_bound(steps: list[tuple[int, bool]], max_load: float) -> None:
    """Whatever prompts come and whichever end, nobody is given a call beyond its bound."""
    made, warm = deployments(Clock(), "a", "b", "c", "d"), Warm()
    for prompt, ends in steps:
        total = sum(each.line.in_flight for each in made)
        chosen = warmest(made, (1, 100 + prompt), warm, max_load, 0.0)
        begin(chosen)
        assert chosen.line.in_flight <= max(math.ceil(max_load * (total + 1) / 4), SLACK)
        if ends:
            busiest = max(made, key=lambda each: each.line.in_flight)
            busiest.line.in_flight -= 1


def test_a_conversation_stays() -> None:
    """Turn after turn goes where the prompt is warm, whatever else goes on."""
    made, warm = deployments(Clock(), *"abcdefgh"), Warm()
    marks = tuple(range(1, 9))
    place = warmest(made, marks, warm, 2.0, 0.0)
    for turn in range(9, 30):
        for other in range(20):
            warmest(made, (1, 1000 * turn + other, 7), warm, 2.0, 0.0)
        marks = (*marks, turn)
        assert warmest(made, marks, warm, 2.0, 0.0) is place


def test_workers_agree_on_new_prompts() -> None:
    """Two that know nothing of each other send a conversation to the same place."""
    for prompt in range(200):
        places = [warmest(deployments(Clock(), *"abcdefgh"), (1, prompt), Warm(), 2.0, 0.0).label for _ in range(2)]
        assert places[0] == places[1]


def test_a_system_prompt_doesnt_gather_them() -> None:
    """Conversations that share their beginning spread, once it is known to be shared."""
    made, warm = deployments(Clock(), *"abcdefgh"), Warm()
    found = Counter(
        warmest(made, (1, 2, *(1000 * number + n for n in range(20))), warm, 2.0, 0.0).label for number in range(400)
    )
    assert len(found) == 8
    assert max(found.values()) < 100


def test_a_busy_place_lends() -> None:
    """When the warm one has too much to do the prompt goes elsewhere, and then both are warm."""
    made, warm = deployments(Clock(), *"abcd"), Warm()
    marks = tuple(range(1, 9))
    seen = set()
    for _ in range(40):
        chosen = warmest(made, marks, warm, 1.25, 0.0)
        begin(chosen)
        seen.add(chosen.label)
    assert len(seen) == 4
    assert max(each.line.in_flight for each in made) <= math.ceil(1.25 * 40 / 4)


@pytest.mark.parametrize("marks", [()])
def test_without_a_prompt_the_least_busy(marks: tuple[int, ...]) -> None:
    """What has no prompt goes where least is to do."""
    one, other = made = deployments(Clock(), "one", "other")
    begin(one)
    assert warmest(made, marks, Warm(), 2.0, 0.0) is other
