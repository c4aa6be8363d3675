"""Cutting one answer into many, and sharing what it used: nothing lost, nothing invented."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.microbatch.group import PROBE, Pace
from policies.microbatch.split import apart, inputs_of, parts

AMOUNTS = st.integers(0, 10**15)
WEIGHTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=50)


def test_texts_weigh_their_bytes() -> None:
    """A text that takes three bytes a character isn't taken for a third of its length."""
    weights = [found.weight for told in ("river", "河川河川河", ["a", "川"]) if (found := inputs_of(told)) is not None]
    assert weights == [5, 15, 4]


@given(AMOUNTS, WEIGHTS)
def test_parts_add_up(amount: int, weights: list[int]) -> None:
    """The parts are the whole, and each is within one of its exact proportion."""
    found = parts(amount, weights)
    assert sum(found) == amount
    total = sum(weights) or len(weights)
    exact = [amount * (weight if sum(weights) else 1) / total for weight in weights]
    assert all(abs(part - wanted) <= 1 + amount * 1e-12 for part, wanted in zip(found, exact, strict=True))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=10), st.integers(0, 10**6), st.booleans(), st.randoms())
def test_each_gets_its_own(counts: list[int], tokens: int, coded: bool, random: Any) -> None:
    """Each body holds the vectors of its own inputs, numbered from 0, in whatever order they came."""
    vectors: list[Any] = [f"v{n}" if coded else [n, 0.5] for n in range(sum(counts))]
    data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    random.shuffle(data)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = orjson.dumps({"object": "list", "data": data, "model": "m", "usage": usage})
    found = apart(body, counts, counts)
    assert found is not None
    told = [orjson.loads(one) for one in found.bodies]
    assert [entry["embedding"] for one in told for entry in one["data"]] == vectors
    assert [[entry["index"] for entry in one["data"]] for one in told] == [list(range(count)) for count in counts]
    assert sum(one["usage"]["prompt_tokens"] for one in told) == sum(found.tokens) == tokens


def test_what_is_not_an_answer() -> None:
    """A vector too few, one twice, or no JSON: it is nobody's."""
    entries = [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [2]}]
    assert apart(orjson.dumps({"data": entries}), [1, 1], [1, 1]) is not None
    for wrong in (entries[:1], [entries[0], entries[0]], [*entries, {"index": 2, "embedding": [3]}]):
        assert apart(orjson.dumps({"data": wrong}), [1, 1], [1, 1]) is None
    assert apart(b"<html>", [1, 1], [1, 1]) is None


def test_forms_of_input() -> None:
    """A text, texts, tokens and lists of tokens are understood; anything else goes up as it is."""
    told: list[tuple[Any, Any]] = [
        ("ab", ("text", ["ab"], 2)),
        (["a", "bc"], ("text", ["a", "bc"], 3)),
        ([1, 2, 3], ("tokens", [[1, 2, 3]], 3)),
        ([[1], [2, 3]], ("tokens", [[1], [2, 3]], 3)),
    ]
    for given_, wanted in told:
        found = inputs_of(given_)
        assert found is not None
        assert (found.kind, found.items, found.weight) == wanted
    for odd in ("", [], None, 5, {"a": 1}, ["a", 1], [["a"]], [[]], [""], [True]):
        assert inputs_of(odd) is None, odd


def test_the_window_follows_its_use() -> None:
    """0 while nothing runs; 0 where waiting brought nobody, but for a probe; open again once it does."""
    pace = Pace()
    assert pace.window_s(0.002) == 0
    pace.running = 1
    assert pace.window_s(0.002) == 0.002
    for _ in range(20):
        pace.brought(0)
    assert [pace.window_s(0.002) for _ in range(PROBE)] == [0.0] * (PROBE - 1) + [0.002]
    pace.brought(3)
    assert pace.window_s(0.002) == 0.002
