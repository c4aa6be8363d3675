"""The tokeniser: exact, and cheap on long texts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator import tokens


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_pieces_join_to_the_text(text: str) -> None:
    """No character is lost, and there are as many pieces as are counted."""
    assert "".join(tokens.pieces(text)) == text
    assert tokens.count(text) == len(tokens.pieces(text))


def test_what_a_token_is() -> None:
    """Up to eight word characters with the space before them, or one other character."""
    assert tokens.pieces("what is 17*23, extraordinarily?") == [
        *("what", " is", " 17", "*", "23", ",", " extraord", "inarily", "?")
    ]


def test_long_texts_count_bytes() -> None:
    """Above the bound, four UTF-8 bytes are a token."""
    assert tokens.count("é" * (tokens.LONG + 1)) == (tokens.LONG + 1) * 2 // 4 + 1
