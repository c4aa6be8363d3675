"""The lens: it shows answers apart where the cosine doesn't, is due as entries come, and absent changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from policies.cache.semantic import lens
from policies.cache.semantic.features import CENTRES, NAMES, candidate, question
from policies.cache.semantic.partition import Held, Partition, built, caught_up
from policies.cache.semantic.static import Static

LENS = [place for place, name in enumerate(NAMES) if name.startswith("lens_")]


def entries(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of five answers that differ a little in five directions, and by chance very much in thirty others."""
    drawn = np.random.default_rng(seed)
    groups = drawn.integers(0, 5, count)
    vectors = np.zeros((count, 40))
    vectors[:, :30] = drawn.normal(0, 1, (count, 30))
    vectors[:, 30:] = drawn.normal(0, 0.05, (count, 10))
    vectors[np.arange(count), 30 + groups] += 0.6
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    return vectors.astype(np.float32), groups


def nearest_agree(vectors: np.ndarray, groups: np.ndarray) -> float:
    """How often the nearest other vector has the same answer."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -9)
    return float((groups[similar.argmax(1)] == groups).mean())


@pytest.mark.parametrize("seed", range(3))
def test_shows_answers_apart(seed: int) -> None:
    """A lens ground of some entries shows others' answers apart, where the cosine hardly does."""
    made = lens.ground(*entries(400, seed))
    vectors, groups = entries(200, seed + 100)
    assert nearest_agree(vectors, groups) < 0.7
    assert nearest_agree(made.through(vectors), groups) > 0.9


def test_holes_dont_count() -> None:
    """Places without an entry change nothing; nor does an answer that came once keep a lens from being ground."""
    vectors, groups = entries(120, 5)
    groups[7] = 99
    holed = np.insert(vectors, 50, 0, axis=0), np.insert(groups, 50, -1)
    one, other = lens.ground(vectors, groups), lens.ground(*holed)
    assert np.array_equal(one.middle, other.middle)
    assert np.allclose(np.abs(one.through(vectors)).sum(1), np.abs(other.through(vectors)).sum(1), atol=1e-4)


def test_is_due_as_entries_come() -> None:
    """The first after FEWEST additions, the next a quarter more later, never further apart than bounded."""
    partition, vectors = Partition(), entries(300, 1)[0]
    due = []
    for place, vector in enumerate(vectors):
        partition.add(Held(str(place % 80), "a text", place % 5, 0.0), vector)
        if partition.wants_lens:
            due.append(place + 1)
            partition.look_through(lens.ground(*partition.to_lens()))
    assert due == [100, 200, 300]
    assert lens.due(1000) == 1250
    assert lens.due(100_000) == 102_500


def test_absent_it_changes_nothing() -> None:
    """Without a lens its features are where they weigh nothing; with one they say how the neighbours lie."""
    static, partition = Static(), Partition()
    for place in range(110):
        asked = question(f"where is my card number {place}" if place % 2 else f"how high is fee {place}", static)
        partition.add(Held(str(place), asked.text, place % 2, 0.0, asked.tokens.tobytes()), asked.vector)
    asked = question("where is my card", static)
    near = partition.nearest(asked.vector)
    assert near is not None
    before = candidate(asked, near, partition, static, lambda _: 0.5)
    assert before.features[LENS].tolist() == CENTRES[LENS].tolist()
    partition.look_through(lens.ground(*partition.to_lens()))
    after = candidate(asked, near, partition, static, lambda _: 0.5)
    assert after.group == before.group == 1
    assert after.features[LENS].tolist() != before.features[LENS].tolist()
    assert dict(zip(NAMES, after.features, strict=True))["lens_best"] > 0.1


def test_what_changes_meanwhile_is_caught_up_with() -> None:
    """Entries that come, or take a place, while a lens is ground or a graph built are found and seen by them."""
    vectors, groups = entries(260, 3)
    partition = Partition(40)

    def add(key: int, at: int) -> None:
        partition.add(Held(str(key), "a text", int(groups[at]), 0.0), vectors[at])

    for place in range(200):
        add(place, place)
    made, index = lens.ground(*partition.to_lens()), built(*partition.to_index())
    partition.remove(["7", "8"])
    for place in range(200, 260):  # the first two fill the holes
        add(place, place)
    late = partition.late()
    assert late is not None
    caught_up(index, *late)
    assert partition.late() is None
    partition.remove(["9"])
    partition.look_through(made)
    partition.take(index)
    for at in (199, 200, 201, 259):
        near = partition.nearest(vectors[at], 5)
        assert near is not None
        assert near.similar[0] > 0.999
        assert not {"7", "8", "9"} & {partition.held[place].key for place in near.places}  # type: ignore[union-attr]
        assert np.allclose(partition.seen[near.places], made.through(partition.vectors[near.places]), atol=1e-6)


def test_a_large_partition_moves_nothing() -> None:
    """Past 2,048 entries all that it may hold has a place already: nothing that grows with it is copied."""
    vectors = np.random.default_rng(11).normal(size=(6000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    partition = Partition(most=6000)

    def add(begin: int, end: int) -> None:
        for place in range(begin, end):
            partition.add(Held(str(place), "a text", place // 2, 0.0), vectors[place])

    add(0, 3000)
    partition.look_through(lens.ground(*partition.to_lens()))
    places = partition.vectors, partition.groups, partition.seen
    add(3000, 6000)
    assert all(
        now is before for now, before in zip((partition.vectors, partition.groups, partition.seen), places, strict=True)
    )
    near = partition.nearest(vectors[5999], 2)
    assert near is not None
    assert near.places[0] == 5999
    assert near.groups[0] == 2999
    assert np.allclose(partition.seen[5999], partition.lens.through(vectors[5999])) if partition.lens else False
    assert (partition.groups[6000:] == -1).all()
