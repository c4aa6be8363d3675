"""What is known of a prompt's beginning."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.upstreams.prefix import LENGTHS, LOOKED_AT, Warm, marks, marks_of
from tests.upstreams.places import request

SYSTEM = "You are a helpful assistant. " * 40


@given(st.binary(max_size=5000), st.binary(max_size=5000), st.binary(max_size=5000))
@settings(print_blob=True, deadline=None)
def test_as_many_marks_as_leading_blocks(common: bytes, one: bytes, other: bytes) -> None:
    """Two texts share the marks of the lengths to which they are the same, and no other."""
    first, second = marks(common + one), marks(common + other)
    same = len(common) + next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    shared = sum(length <= same for length in LENGTHS)
    assert first[:shared] == second[:shared]
    if same < min(len(common + one), len(common + other)):
        assert not set(first[shared:]) & set(second[shared:])


def test_a_conversation_keeps_its_marks() -> None:
    """The next turn's prompt begins with the one before."""
    before = marks_of(request(SYSTEM + "Tell me of weirs." + "a" * 3000))
    after = marks_of(request(SYSTEM + "Tell me of weirs." + "a" * 3000 + "And of locks." * 100))
    other = marks_of(request(SYSTEM + "Tell me of locks." + "a" * 3000))
    assert len(before) > 4
    assert after[: len(before) - 1] == before[:-1]
    assert len(after) > len(before)
    shared = sum(length <= len(SYSTEM) for length in LENGTHS)
    assert other[:shared] == before[:shared]
    assert other[-1] != before[-1]


def test_salts_keep_apart() -> None:
    """Prompts that no cache shares have no mark in common."""
    text = b"x" * 10_000
    assert not set(marks(text, 1)) & set(marks(text, 2))


def test_short_and_long() -> None:
    """The shortest prompt has a mark; of the longest, only the beginning is looked at."""
    assert len(marks(b"{}")) == 1
    assert marks(b"") == ()
    assert len(marks(b"x" * 10 * LOOKED_AT)) == len(LENGTHS)


def test_the_same_in_every_process() -> None:
    """All workers find the same place: these numbers never change."""
    assert marks(b"x" * 600, 3) == (-0x750481912DECE082, 0x451465D015866C72)


def test_finds_who_knows_most() -> None:
    """The longest beginning among those who are asked about; others' knowledge counts as known only."""
    warm = Warm()
    warm.learn((1, 2, 3, 4), 0, 0b01, 0.0)
    warm.learn((1, 2), 0, 0b10, 0.0)
    both, second = warm.find((1, 2, 3, 9), 0b11), warm.find((1, 2, 3, 9), 0b10)
    assert (both.known, both.warm, both.owners) == (3, 3, 0b01)
    assert (second.known, second.warm, second.owners) == (3, 2, 0b10)
    assert warm.find((9,), 0b11).warm == 0


def test_what_several_prompts_share() -> None:
    """A beginning from which three others went on is shared; that of one growing conversation isn't."""
    warm = Warm()
    warm.learn((1, 2), 0, 1, 0.0)
    for turn in range(3, 10):
        known = warm.find(tuple(range(1, turn + 1)), 1).known
        warm.learn(tuple(range(1, turn + 1)), known, 1, 0.0)
    assert warm.find(tuple(range(1, 10)), 1).shared == 0
    for other in (100, 200, 300):
        warm.learn((1, 2, other), warm.find((1, 2, other), 1).known, 1, 0.0)
    assert warm.find((1, 2, 3), 1).shared == 2


def test_forgets() -> None:
    """What wasn't used for two of its halves is gone; what was used stays."""
    warm = Warm(0.0)
    warm.learn((1,), 0, 1, 0.0)
    warm.learn((2,), 0, 1, 0.0)
    for step in range(1, 4):
        warm.learn((1,), 1, 1, step * (Warm.KEEPS_S + 1))
    assert warm.find((1,), 1).warm == 1
    assert warm.find((2,), 1).warm == 0


def test_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many prompts there are, it holds no more than two halves and one prompt."""
    monkeypatch.setattr(Warm, "MARKS", 100)
    warm = Warm()
    for number in range(3000):
        warm.learn((number, -number - 1), 0, 1, 0.0)
        assert len(warm) <= 2 * 102
