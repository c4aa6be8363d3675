"""What a text says besides its vector: words, numbers, negation, the kind of question. Pure.

A vector hardly sees a `not`, a number or a changed order; these do. None of it decides alone: they are features of a
score, and what they are worth is learnt. Languages other than English have fewer of them (words, numbers, tokens).
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Final

import msgspec


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORD: Final = re.compile(r"\w+(?:['’]\w+)?")
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WRITTEN: Final = {
    "first": "1",
    "second": "2",
    "third": "3",
    "once": "1",
    "twice": "2",
    **{word: str(number) for number, word in enumerate(_DIGITS)},
}
_NEGATION: Final = _split(
    "not no never without cannot cant dont doesnt didnt wont isnt arent wasnt shouldnt wouldnt couldnt hasnt havent "
    "unable neither nor none nothing"
)
# Pairs of which one undoes the other. A text with one of them isn't the same question as a text with the other.
_OPPOSITES: Final = tuple(
    (frozenset(left.split()), frozenset(right.split()))
    for left, right in (
        ("on enable enabled activate start open", "off disable disabled deactivate stop close cancel"),
        ("increase raise more up higher gain", "decrease reduce lower less down lose"),
        ("best good advantages pros benefits", "worst bad disadvantages cons drawbacks"),
        ("buy send deposit receive", "sell withdraw return refund"),
        ("before", "after"),
        ("add accept allow install join", "remove delete reject deny block uninstall leave"),
        ("male man men boy boys husband", "female woman women girl girls wife"),
        ("max maximum most", "min minimum least"),
    )
)
_ASKING: Final = ("how", "what", "why", "when", "where", "who", "which", "can", "is", "do", "does", "are", "should")
_FILLING: Final = _split("a an the of to in on for and or is are was be it its i my me you your we our this that")
_EMPTY: Final = _split(
    "a an the of to in on for and or is are was were be been am do does did i my me you your we our it its this that "
    "there with at by from as so if will would can could should have has had what how why which who when where please "
    "get any some"
)


class Facts(msgspec.Struct, frozen=True, gc=False):
    """Of one text. `words` are those with meaning; `spelt` is the whole text but for case, order and punctuation."""

    words: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    numbers: frozenset[str]
    negated: bool
    asks: str
    opposed: int  # a bit for each side of each pair of opposites
    spelt: tuple[str, ...]
    length: int


@lru_cache(4096)
def facts_of(text: str) -> Facts:
    """What the text says; the last few thousand are remembered."""
    said = _WORD.findall(text.casefold())
    plain = [word.replace("'", "").replace("’", "") for word in said]
    stems = [_stem(word) for word in plain]
    numbers = {each.rstrip(".,").replace(",", "") for each in _NUMBER.findall(text)}
    numbers |= {_WRITTEN[word] for word in plain if word in _WRITTEN}
    present = set(plain)
    opposed = 0
    for bit, pair in enumerate(_OPPOSITES):
        for side, words in enumerate(pair):
            if words & present:
                opposed |= 1 << (2 * bit + side)
    return Facts(
        frozenset(stem for stem, word in zip(stems, plain, strict=True) if word not in _EMPTY),
        frozenset(pairwise(stems)),
        frozenset(numbers),
        any(word in _NEGATION or word.endswith("n't") for word in plain),
        next((word for word in plain if word in _ASKING), ""),
        opposed,
        tuple(sorted(plain)),
        len(plain),
    )


def meant(text: str) -> frozenset[str]:
    """The words of an answer, stemmed, without those that hold a sentence together."""
    said = {word.replace("'", "").replace("’", "") for word in _WORD.findall(text.casefold())}
    return frozenset(_stem(word) for word in said - _FILLING)


def opposites(one: int, other: int) -> bool:
    """Whether one text has a word, and the other its opposite, which the first hasn't."""
    for bit in range(len(_OPPOSITES)):
        mine, theirs = one >> (2 * bit) & 3, other >> (2 * bit) & 3
        if mine | theirs == 3 and mine in (1, 2) and theirs in (1, 2):
            return True
    return False


def _stem(word: str) -> str:
    """Without the commonest endings: enough for `card` and `cards`, and harmless elsewhere."""
    if len(word) > 4:
        for ending in ("ies", "ing", "ed", "es", "s", "ly"):
            if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
                return word[: -len(ending)] + ("y" if ending == "ies" else "")
    elif len(word) == 4 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word
