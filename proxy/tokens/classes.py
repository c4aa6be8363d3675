"""How many tokens a text may have, from how many bytes of each class it has. Pure, and a few microseconds.

A tokenizer's vocabulary makes words of letters cheap, digits, punctuation and rare scripts dear. So the estimate is a
weighted sum over classes of bytes. Python counts bytes quickly only in C, so each class is taken away by
`bytes.translate`, the most frequent first: what follows is short.

Beyond the classes: pairs of spaces (indentation is one token), letters that no separator explains (long words, base64),
digits among digits (a number is cut into pieces of up to three) and digits among letters (hashes).
"""

from __future__ import annotations

from typing import Final

import msgspec

WHOLE: Final = 8 * 1024
"""Longer texts are judged by samples: this many bytes of them, in pieces spread evenly."""
PIECES: Final = 16
_PIECE: Final = WHOLE // PIECES

_LOWER: Final = b"abcdefghijklmnopqrstuvwxyz"
_UPPER: Final = _LOWER.upper()
_DIGITS: Final = b"0123456789"
_LINES: Final = b"\n\t\r"
_ASCII: Final = bytes(range(0x80))
_CONTINUATIONS: Final = bytes(range(0x80, 0xC0))
_WORD: Final = 6  # letters; what is longer was probably cut

# Scripts by the first byte of their UTF-8 (RFC 3629), in the order of `Weights.scripts`.
SCRIPTS: Final = (
    ("accented Latin", 0xC2, 0xCA),
    ("Greek", 0xCA, 0xD0),
    ("Cyrillic", 0xD0, 0xD4),
    ("Hebrew, Arabic", 0xD4, 0xE0),
    ("Indic, Thai", 0xE0, 0xE1),
    ("Georgian, Khmer, Vietnamese", 0xE1, 0xE2),
    ("typographic signs", 0xE2, 0xE3),
    ("kana", 0xE3, 0xE4),
    ("CJK", 0xE4, 0xEA),
    ("Hangul", 0xEA, 0xEE),
    ("full-width forms", 0xEE, 0xF0),
    ("emoji", 0xF0, 0x100),
)
_SCRIPT_OF: Final = bytes(
    next((index for index, (_, first, end) in enumerate(SCRIPTS) if first <= byte < end), 0) for byte in range(256)
)
_MEMBERS: Final = [bytes(range(first, end)) for _, first, end in SCRIPTS]
_THAI: Final = (b"\xe0\xb8", b"\xe0\xb9")


class Weights(msgspec.Struct, frozen=True, array_like=True):
    """Tokens a byte of each class; of `scripts`, tokens a character."""

    lower: float
    upper: float
    space: float
    line: float
    digit: float
    mark: float
    pair: float
    digits_together: float
    long: float
    digits_in_words: float
    thai: float
    scripts: tuple[float, ...]


def tokens(text: str, weights: Weights) -> float:
    """About how many tokens a text has."""
    if len(text) <= WHOLE:
        return weigh(text.encode("utf-8", "replace"), weights)
    step = len(text) // PIECES
    sample = "".join([text[at : at + _PIECE] for at in range(0, step * PIECES, step)])
    return weigh(sample.encode("utf-8", "replace"), weights) * (len(text) / len(sample))


def weigh(text: bytes, w: Weights) -> float:
    """The same for UTF-8, all of which is looked at."""
    size = len(text)
    if not size:
        return 0.0
    rest = text.translate(None, _LOWER)
    left = len(rest)
    lower = size - left
    rest = rest.translate(None, b" ")
    spaces = left - len(rest)
    left = len(rest)
    rest = rest.translate(None, _UPPER)
    upper = left - len(rest)
    left = len(rest)
    rest = rest.translate(None, _DIGITS)
    digits = left - len(rest)
    left = len(rest)
    rest = rest.translate(None, _LINES)
    lines = left - len(rest)
    found = 0.0
    marks = len(rest)
    if marks and not rest.isascii():
        rest = rest.translate(None, _ASCII)
        marks -= len(rest)
        found = _foreign(text, rest, w)
    pairs = text.count(b"  ") if (lines and spaces * 6 > size) or spaces * 3 > size else 0
    long = lower + upper - _WORD * (spaces - pairs + lines + marks)
    found += w.lower * lower + w.upper * upper + w.space * spaces + w.line * lines + w.mark * marks + w.pair * pairs
    if digits:
        found += digits * (w.digit + (w.digits_together * digits + w.digits_in_words * lower) / size)
    if long > 0:
        found += w.long * long
    return found if found > 1 else 1.0


def _foreign(text: bytes, rest: bytes, w: Weights) -> float:
    """Characters beyond ASCII, by their first bytes."""
    firsts = rest.translate(None, _CONTINUATIONS)
    found = 0.0
    while firsts:
        script = _SCRIPT_OF[firsts[0]]
        others = firsts.translate(None, _MEMBERS[script])
        found += w.scripts[script] * (len(firsts) - len(others))
        if script == 4:
            found += w.thai * (text.count(_THAI[0]) + text.count(_THAI[1]))
        if len(others) == len(firsts):  # bytes that begin no character: not UTF-8
            return found + len(others)
        firsts = others
    return found
