"""What a text says besides its vector: words, numbers, negation, the kind of question. Pure.

A vector hardly sees a `not`, a number or a changed order; these do. None of it decides alone: they are features of a
score, and what they are worth is learnt. Languages other than English have fewer of them (words, numbers, tokens).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Final
from zlib import crc32

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
_SIDES: Final = tuple(
    _split(side)
    for pair in (
        ("on enable enabled activate start open", "off disable disabled deactivate stop close cancel"),
        ("increase raise more up higher gain", "decrease reduce lower less down lose"),
        ("best good advantages pros benefits", "worst bad disadvantages cons drawbacks"),
        ("buy send deposit receive", "sell withdraw return refund"),
        ("before", "after"),
        ("add accept allow install join", "remove delete reject deny block uninstall leave"),
        ("male man men boy boys husband", "female woman women girl girls wife"),
        ("max maximum most", "min minimum least"),
    )
    for side in pair
)
_ASKING: Final = ("how", "what", "why", "when", "where", "who", "which", "can", "is", "do", "does", "are", "should")
_FILLING: Final = _split("a an the of to in on for and or is are was be it its i my me you your we our this that")
_EMPTY: Final = _split(
    "a an the of to in on for and or is are was were be been am do does did i my me you your we our it its this that "
    "there with at by from as so if will would can could should have has had what how why which who when where please "
    "get any some"
)


class Facts(msgspec.Struct, frozen=True, gc=False):
    """Of one text, small enough to be kept with each entry. `words` and `pairs` are `packed`."""

    words: bytes  # those with meaning
    pairs: bytes  # of neighbouring words
    numbers: frozenset[str]
    negated: bool
    asks: str
    opposed: int  # a bit for each side of each pair of opposites
    spelt: int  # stands for the whole text but for case, order and punctuation
    length: int


def packed(codes: Iterable[int]) -> bytes:
    """Different words, or pairs of them, by numbers that stand for them: four bytes each."""
    return array("I", codes).tobytes()


def unpacked(data: bytes) -> frozenset[int]:
    """What was `packed`."""
    return frozenset(memoryview(data).cast("I"))


def facts_of(text: str) -> Facts:
    """What the text says."""
    said = [_word(word) for word in _WORD.findall(text.casefold())]
    codes = [word.code for word in said]
    numbers = {each.rstrip(".,").replace(",", "") for each in _NUMBER.findall(text)}
    numbers.update([word.number for word in said if word.number])
    opposed = 0
    for word in said:
        opposed |= word.opposed
    return Facts(
        packed({word.code for word in said if word.means}),
        packed({hash(pair) & 0xFFFFFFFF for pair in pairwise(codes)}),
        frozenset(numbers),
        any(word.negates for word in said),
        next((word.plain for word in said if word.asks), ""),
        opposed,
        hash(tuple(sorted([word.spelt for word in said]))),
        len(said),
    )


class _Word(msgspec.Struct, frozen=True, gc=False):
    """What a word says by itself. `code` stands for its stem, `spelt` for how it is written."""

    plain: str
    code: int
    spelt: int
    means: bool
    number: str
    negates: bool
    asks: bool
    opposed: int


@lru_cache(8192)
def _word(word: str) -> _Word:
    plain = word.replace("'", "").replace("’", "")
    opposed = 0
    for side, words in enumerate(_SIDES):
        opposed |= (plain in words) << side
    return _Word(
        plain,
        _code(_stem(plain)),
        _code(plain),
        plain not in _EMPTY,
        _WRITTEN.get(plain, ""),
        plain in _NEGATION,
        plain in _ASKING,
        opposed,
    )


def _code(word: str) -> int:
    return crc32(word.encode("utf-8", "surrogatepass"))


def meant(text: str) -> frozenset[str]:
    """The words of an answer, stemmed, without those that hold a sentence together."""
    said = {word.replace("'", "").replace("’", "") for word in _WORD.findall(text.casefold())}
    return frozenset(_stem(word) for word in said - _FILLING)


def opposites(one: int, other: int) -> bool:
    """Whether one text has a word, and the other its opposite, which the first hasn't."""
    for bit in range(len(_SIDES) // 2):
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
