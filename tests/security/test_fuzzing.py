"""Everything that reads bytes, with the corpus and with bytes of hypothesis' making; and that the fuzzer finds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.security import fuzz, fuzzing
from tests.security.fuzzing import TARGETS, corpus, pieces

SMALL_BYTES = 4096
KEPT = [(target, name) for target in TARGETS for name, _ in corpus(target)]


@pytest.mark.parametrize(("target", "name"), KEPT)
def test_what_was_kept(target: str, name: str) -> None:
    """Beginnings of each target, and whatever broke one once."""
    TARGETS[target](dict(corpus(target))[name])


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
def test_changed_inputs(target: str, data: st.DataObject) -> None:
    """The corpus, changed in places that hypothesis chooses, and bytes of no kind."""
    known = [kept for _, kept in corpus(target)]
    seed = data.draw(st.integers(0, 2**32))
    given = fuzz.mutation(random.Random(seed), known) if seed % 4 else data.draw(st.binary(max_size=200))
    TARGETS[target](given)


def test_the_corpus_is_small() -> None:
    """It is read at every run of the tests."""
    assert set(TARGETS) == {path.name for path in fuzzing.CORPUS.iterdir()}
    for target in TARGETS:
        assert 0 < sum(1 for _ in corpus(target)) < 200
        assert all(len(data) <= SMALL_BYTES for _, data in corpus(target))


def test_pieces_are_the_whole() -> None:
    """However it is cut."""
    for data in (b"", b"a", b"\x00\xff\x80\x10 some bytes", bytes(range(256))):
        assert b"".join(pieces(data)) == data
        assert len(pieces(data)) <= 5


def test_a_broken_promise_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within so many inputs, and its input breaks it again."""
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)

    def target(data: bytes) -> None:
        assert b"\x00" not in data

    runs, ok = fuzz.mutated("sse", target, 60.0, seed=1, most=5000)
    assert not ok
    assert 0 < runs < 5000
    (kept,) = (tmp_path / "sse").iterdir()
    assert kept.name.startswith("found-")
    assert b"\x00" in kept.read_bytes()


def test_mutations_repeat() -> None:
    """The same seed makes the same inputs."""
    known = [b"data: a\n\n", b"data: b\n\n"]
    made = [[fuzz.mutation(random_, known) for _ in range(50)] for random_ in (random.Random(3), random.Random(3))]
    assert made[0] == made[1]
    assert len(set(made[0])) > 25


def test_an_unknown_target_is_refused() -> None:
    """With the names of those there are."""
    with pytest.raises(SystemExit) as ended:
        fuzz.main(["nothing"])
    assert ended.value.code == 2
