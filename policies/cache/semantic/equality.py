"""Whether two answers are the same answer. Pure, but for what a judge is asked elsewhere.

Rules:
1. `text`: the same words and numbers, whatever their case, punctuation, mark-up and spacing, and however a number is
   written.
2. `similar`: also answers that say the same in other words: they share most of the words that count, and no number,
   negation or opposite differs. A word counts as far as it comes again in the answer to the nearest question more often
   than in any answer: what a model says this time and not the next, a greeting or a phrase, doesn't.
3. Equal answers have the same group, which is found once, when an entry is stored: among all by rule 1, among the
   nearest by rule 2. An answer that says the same as two groups joins them: what words count is learnt, so what was
   told apart at first may turn out to be one.
4. In doubt they differ: that costs a hit, the other error costs the guarantee.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Final
from zlib import crc32

import msgspec

from policies.cache.semantic.facts import facts_of, meant, opposites, packed, unpacked

_WORD: Final = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\s\w]")
_KEPT_SIGNS: Final = frozenset("%$€£°+-=<>&|/")
_LISTED: Final = re.compile(r"(?m)^[^\S\n]*(?:\d+[.)]|[-*•])\s+")
_NEAR: Final = 0.75
_LONGEST: Final = 4000  # characters of an answer that are compared
_MOST_WORDS: Final = 200
_COUNTED: Final = 20_000
_UNSEEN: Final = 3.0  # looks' worth of the belief that a word always comes again
_LEAST: Final = 0.02


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An answer as it is compared. `name` is the digest of its normal form; `words` are numbers that stand for them."""

    name: bytes
    words: bytes
    numbers: tuple[str, ...]
    negated: bool
    opposed: int

    @property
    def set(self) -> frozenset[int]:
        """Its words."""
        return unpacked(self.words)


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


def answer_of(text: str) -> Answer:
    """An answer made ready."""
    form = normal(text)
    facts = facts_of(form[:_LONGEST])
    words = sorted({crc32(word.encode("utf-8", "surrogatepass")) for word in meant(form[:_LONGEST])})[:_MOST_WORDS]
    return Answer(digest(form), packed(words), tuple(sorted(facts.numbers)), facts.negated, facts.opposed)


class Common:
    """What words are worth among the answers of a partition."""

    def __init__(self) -> None:
        self._answers = 0
        self._seen: Counter[int] = Counter()  # answers that have the word
        self._looks: Counter[int] = Counter()  # those of them for which there was a nearest question
        self._again: Counter[int] = Counter()  # and whose nearest question's answer has it too

    def add(self, words: frozenset[int], beside: frozenset[int] | None) -> None:
        """One more answer, and that of the nearest question, if there was one near."""
        self._answers += 1
        if len(self._seen) >= _COUNTED:
            words = frozenset(word for word in words if word in self._seen)
        self._seen.update(words)
        if beside is not None:
            self._looks.update(words)
            self._again.update(words & beside)

    def weight(self, word: int) -> float:
        """What a word is worth."""
        again = (self._again[word] + _UNSEEN) / (self._looks[word] + _UNSEEN)
        return max(_LEAST, again - self._seen[word] / (self._answers + 1))


def alike(one: Answer, others: Iterable[Answer], common: Common) -> bool:
    """Whether any of the others says the same."""
    mine = one.set
    return any(
        one.numbers == other.numbers
        and one.negated == other.negated
        and not opposites(one.opposed, other.opposed)
        and shared(mine, other.set, common) >= _NEAR
        for other in others
    )


def shared(one: frozenset[int], other: frozenset[int], common: Common) -> float:
    """The weight of the words that both say by the weight of all."""
    either = sum(map(common.weight, one | other))
    return sum(map(common.weight, one & other)) / either if either else 0.0
