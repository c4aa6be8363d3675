"""Counting by classes of bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tokens.classes import SCRIPTS, WHOLE, tokens, weigh
from proxy.tokens.families import FAMILIES, GPT_4, GPT_4O, UNKNOWN

PROSE = "A weir is a low wall in a river: it holds the water back, and lets what is too much of it pass. "


def test_prose_is_near_its_count() -> None:
    """Plain English comes within a tenth of what tiktoken counts (23 tokens in both vocabularies)."""
    for family in (GPT_4, GPT_4O):
        assert tokens(PROSE * 10, family.weights) == pytest.approx(230, rel=0.1)


def test_long_texts_are_sampled() -> None:
    """A text of a megabyte is judged by pieces of it: within a few percent of the whole."""
    whole = weigh((PROSE * 12_000).encode(), GPT_4O.weights)
    assert tokens(PROSE * 12_000, GPT_4O.weights) == pytest.approx(whole, rel=0.05)
    assert len(PROSE) * 12_000 > 100 * WHOLE


def test_samples_reach_every_part() -> None:
    """A text whose second half is of another kind isn't judged by its first alone."""
    first, second = PROSE * 500, "水是生命之源。" * 7000
    apart = tokens(first, GPT_4.weights) + tokens(second, GPT_4.weights)
    assert tokens(first + second, GPT_4.weights) == pytest.approx(apart, rel=0.15)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("你好世界" * 50, 100, 300),
        ("привет мир " * 50, 100, 400),
        ("สวัสดีชาวโลก" * 50, 200, 1000),
        ("🎉" * 100, 90, 400),
        ("4815162342" * 20, 60, 140),
        ("    " * 100 + "return x", 3, 150),
        ("Zm9vYmFyYmF6" * 40, 150, 450),
    ],
    ids=["Chinese", "Russian", "Thai", "emoji", "digits", "indentation", "base64"],
)
def test_scripts_weigh_their_own(text: str, least: int, most: int) -> None:
    """Each kind of text is estimated in the range that its tokenizers know."""
    assert least <= tokens(text, GPT_4.weights) <= most


def test_every_first_byte_has_a_script() -> None:
    """The scripts divide all bytes that can begin a character beyond ASCII, without gap or overlap."""
    edges = [(first, end) for _, first, end in SCRIPTS]
    assert edges[0][0] == 0xC2
    assert edges[-1][1] == 0x100
    assert all(before[1] == after[0] for before, after in itertools.pairwise(edges))
    assert all(len(family.weights.scripts) == len(SCRIPTS) for _, family in FAMILIES)


@given(st.text(max_size=500))
def test_never_absurd(text: str) -> None:
    """Whatever the text, an estimate is positive and no more than a few tokens a byte."""
    for family in (GPT_4, GPT_4O, UNKNOWN):
        assert 0 <= tokens(text, family.weights) <= 5 * len(text.encode("utf-8", "replace")) + 1


@given(st.binary(max_size=300))
def test_bytes_that_are_no_text(data: bytes) -> None:
    """What isn't UTF-8 is weighed too, and ends."""
    assert weigh(data, GPT_4O.weights) >= 0
