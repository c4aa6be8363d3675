"""Whether two answers are the same answer. Pure, but for what a judge is asked elsewhere.

Rules:
1. `text`: the same words and numbers, whatever their case, punctuation, mark-up and spacing, and however a number is
   written.
2. `similar`: also answers that say the same in other words: their vectors are near once what all answers of the
   partition have in common (a greeting, a phrase) is taken away, and no number, negation or opposite differs.
3. Equal answers have the same group, which is found once, when an entry is stored: among all by rule 1, among the
   nearest by rule 2.
4. In doubt they differ: that costs a hit, the other error costs the guarantee.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from policies.cache.semantic.facts import facts_of, opposites
from policies.cache.semantic.static import Static, Vector

_WORD: Final = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\s\w]")
_KEPT_SIGNS: Final = frozenset("%$€£°+-=<>&|/")
_LISTED: Final = re.compile(r"(?m)^\s*(?:\d+[.)]|[-*•])\s+")
_NEAR: Final = 0.80
_LONGEST: Final = 4000  # characters of an answer that are compared
_COMMON: Final = 10.0  # answers' worth of the belief that they have nothing in common


class Answer(msgspec.Struct, frozen=True):
    """An answer as it is compared. `name` is the digest of its normal form."""

    name: bytes
    vector: Vector
    numbers: frozenset[str]
    negated: bool
    opposed: int
    length: int


def normal(text: str) -> str:
    """An answer's normal form."""
    words = []
    for word in _WORD.findall(_LISTED.sub("", text.casefold())):
        if word[0].isdigit():
            words.append(_number(word))
        elif word[0].isalpha():
            words.append(word.replace("’", "'"))
        elif word in _KEPT_SIGNS:
            words.append(word)
    return " ".join(words)


def _number(text: str) -> str:
    """1,000 and 1000.0 are 1000; 3.50 is 3.5."""
    plain = re.sub(r",(?=\d{3}(?:\D|$))", "", text).replace(",", ".")
    if plain.count(".") != 1:
        return plain
    return plain.rstrip("0").rstrip(".").lstrip("0") or "0"


def digest(normal_form: str) -> bytes:
    """The name of all answers with this normal form."""
    return hashlib.blake2b(normal_form.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def answer_of(text: str, static: Static) -> Answer:
    """An answer made ready."""
    form = normal(text)
    short = form[:_LONGEST]
    facts = facts_of(short)
    vector = static.vector(static.rows(static.tokens(short)))
    return Answer(digest(form), vector, facts.numbers, facts.negated, facts.opposed, facts.length)


class Common:
    """What the answers of a partition have in common."""

    def __init__(self) -> None:
        self._sum: Vector = np.zeros(1, np.float32)  # takes on the vectors' size
        self._count = 0

    def add(self, vector: Vector) -> None:
        """One more answer."""
        self._sum = self._sum + vector
        self._count += 1

    def without(self, vector: Vector) -> Vector:
        """What is particular to an answer."""
        rest: Vector = vector - self._sum / np.float32(self._count + _COMMON)
        return rest / np.float32(float(np.sqrt(rest @ rest)) + 1e-9)


def alike(one: Answer, others: Iterable[Answer], common: Common) -> Answer | None:
    """The one of the others that says the same, if any does."""
    mine = common.without(one.vector)
    best, nearest = None, _NEAR
    for other in others:
        if _differ(one, other):
            continue
        near = float(mine @ common.without(other.vector))
        if near >= nearest:
            best, nearest = other, near
    return best


def _differ(one: Answer, other: Answer) -> bool:
    return (
        one.numbers != other.numbers
        or one.negated != other.negated
        or opposites(one.opposed, other.opposed)
        or max(one.length, other.length) > 3 * min(one.length, other.length) + 5
    )
