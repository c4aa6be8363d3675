"""A prompt and a small model's answer as numbers, cheap enough for the request path. Pure; needs numpy.

Rules:
1. Numbers are dense and named (`PROMPT`, `ANSWER`); words and neighbouring pairs of them are hashed into one vocabulary
   of `PLACES` (CRC-32: the same on every host and in every process), a prompt's apart from an answer's.
2. The same text gives the same features everywhere, for ever: a change of anything here is a new `VERSION`, by which
   scores of the old one are refused.
3. Nothing here raises for any text; of long ones only beginning and end are read, so that time is bounded.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from typing import Final
from zlib import crc32

import msgspec

try:
    import numpy as np
    import numpy.typing as npt
except ImportError as missing:  # pragma: no cover - an installation without the extra
    raise ImportError("a cascade that learns scores needs numpy: pip install 'weir-proxy[semantic]'") from missing

Numbers = npt.NDArray[np.float32]
Places = npt.NDArray[np.int32]
VERSION: Final = 2
PLACES: Final = 8192
_HEAD, _TAIL = 2400, 1200  # characters that are read of a long text
_PROMPT_SALT, _ANSWER_SALT = 1, 0x5EED
_WORDS: Final = re.compile(rb"[a-z_]+|[0-9]+|[^\sa-z0-9_]|[\x80-\xff]+")
_FIGURES: Final = re.compile(r"\d[\d,]*(?:\.\d+)?")
# Sums that an answer works out in passing: "16 - 3 = 13", "9 x $2 = $18".
_SUMS: Final = re.compile(
    r"(?<![\d.,)+*/×x-])(?<!\d )\$?(\d[\d,]*(?:\.\d+)?)\s*([-+*/×x÷])\s*\$?(\d[\d,]*(?:\.\d+)?)\s*=\s*\$?"
    r"(\d[\d,]*(?:\.\d+)?)(?!\s*[-+*/×x÷\d%])"
)
_MOST_SUMS: Final = 24
_DOUBTS: Final = (
    "however",
    "unclear",
    "assum",
    "not sure",
    "approximately",
    "none of",
    "cannot",
    "might",
    "closest",
    "wait",
)
_REFUSALS: Final = ("i can't", "i cannot", "i'm sorry", "i am sorry", "as an ai", "unable to", "i don't know")

PROMPT: Final = (
    "length", "lines", "digits", "capitals", "questions", "commas", "quotes", "equations", "formulas", "code", "blanks",
    "repeated", "word_length", "negations", "last_line", "figures", "turns", "tools", "wants_json",
)  # fmt: skip
ANSWER: Final = (
    "answered", "length", "lines", "digits", "commas", "equations", "formulas", "code", "emphasis", "asks", "repeated",
    "doubts", "refusal", "short", "ends", "cut_off", "calls", "from_prompt", "figures", "figures_from_prompt",
    "figures_left", "sums", "sums_wrong", "ratio", "told", "logprob_mean", "logprob_least", "logprob_p10",
    "logprob_p25", "unsure", "logprob_first", "logprob_last", "self_doubt",
)  # fmt: skip
NAMES: Final = (*(f"prompt_{name}" for name in PROMPT), *(f"answer_{name}" for name in ANSWER))
_HEADER: Final = struct.Struct("<BHH")


class Features(msgspec.Struct, frozen=True):
    """`numbers`: dense; `words`: places in the hashed vocabulary, each once; `text`: to compare an answer with."""

    numbers: Numbers
    words: Places
    text: str = ""

    def packed(self) -> bytes:
        """For the Store and the journal, without the text; `unpacked` reads it."""
        head = _HEADER.pack(VERSION, len(self.numbers), len(self.words))
        return head + self.numbers.tobytes() + self.words.astype(np.uint16).tobytes()


def unpacked(data: bytes) -> Features:
    """Raises ValueError where `data` is of another version."""
    if len(data) < _HEADER.size or data[0] != VERSION:
        raise ValueError("features of another version")
    _, numbers, words = _HEADER.unpack_from(data)
    if len(data) != _HEADER.size + 4 * numbers + 2 * words:
        raise ValueError("features cut short")
    dense = np.frombuffer(data, np.float32, numbers, _HEADER.size)
    return Features(dense, np.frombuffer(data, np.uint16, words, _HEADER.size + 4 * numbers).astype(np.int32))


def prompt_features(text: str, *, turns: int = 1, tools: int = 0, wants_json: bool = False) -> Features:
    """Of what is asked: all the text of the request that the answer depends on, the last user turn last."""
    size, text = len(text), _bounded(text)
    found, total = _words(text, _PROMPT_SALT), max(1, len(text))
    words = text.split()
    numbers = (
        math.log1p(size),
        math.log1p(text.count("\n")),
        len(_FIGURES.findall(text)) / max(1, len(words)),
        sum(map(str.isupper, words)) / max(1, len(words)),
        math.log1p(text.count("?")),
        math.log1p(text.count(",")),
        math.log1p(text.count('"')),
        math.log1p(text.count("=")),
        math.log1p(text.count("\\") + text.count("$")),
        math.log1p(text.count("{") + text.count("()") + text.count("def ") + text.count(";")),
        float("__" in text),
        len(set(words)) / max(1, len(words)),
        total / max(1, len(words)),
        math.log1p(text.count(" not ") + text.count(" except ") + text.count(" NOT ") + text.count("n't ")),
        math.log1p(len(text) - text.rfind("\n")),
        math.log1p(len(_FIGURES.findall(text))),
        math.log1p(turns),
        math.log1p(tools),
        float(wants_json),
    )
    return Features(np.array(numbers, np.float32), found, text)


def answer_features(
    text: str,
    logprobs: Sequence[float] | None,
    finish_reason: str | None,
    *,
    tool_calls: int = 0,
    prompt: Features | None = None,
    doubt: float = 0.0,
) -> Features:
    """Of a small model's answer: `logprobs` of the tokens that it chose, where the upstream told them; `doubt`: the log
    odds that it is wrong, by who was asked that; 0 where nobody knows."""
    asked = "" if prompt is None else prompt.text
    size, text = len(text), _bounded(text)
    found, lower = _words(text, _ANSWER_SALT), text.lower()
    words, known = text.split(), set(asked.split())
    own = set(words)
    figures, given = set(_FIGURES.findall(text)), set(_FIGURES.findall(asked))
    sums, wrong = _sums(text)
    numbers = (
        1.0,
        math.log1p(size),
        math.log1p(text.count("\n")),
        len(figures) / max(1, len(words)),
        math.log1p(text.count(",")),
        math.log1p(text.count("=")),
        math.log1p(text.count("\\") + text.count("$")),
        math.log1p(text.count("{") + text.count("()") + text.count("```")),
        math.log1p(text.count("*") + text.count("#")),
        math.log1p(text.count("?")),
        len(own) / max(1, len(words)),
        math.log1p(sum(map(lower.count, _DOUBTS))),
        float(any(said in lower[:200] for said in _REFUSALS)),
        float(len(words) < 10),
        float(text.rstrip()[-1:] in '.!?)}]`"'),
        float(finish_reason in ("length", "content_filter")),
        float(tool_calls),
        len(own & known) / max(1, len(own)),
        math.log1p(len(figures)),
        len(figures & given) / max(1, len(figures)),
        len(given - figures) / max(1, len(given)),
        math.log1p(sums),
        math.log1p(wrong),
        math.log1p(size) - math.log1p(len(asked)),
        *_logprobs(logprobs),
        doubt / 2,  # a score looks no further than 4
    )
    return Features(np.array(numbers, np.float32), found)


def joined(prompt: Features, answer: Features | None) -> Features:
    """Both, as a score takes them; without an answer: what can be known before one was generated."""
    if answer is None:
        return Features(np.concatenate([prompt.numbers, np.zeros(len(ANSWER), np.float32)]), prompt.words)
    numbers, held = np.concatenate([prompt.numbers, answer.numbers]), np.zeros(PLACES, np.bool_)
    held[prompt.words] = held[answer.words] = True  # a third of the time that sorting takes
    return Features(numbers, np.flatnonzero(held).astype(np.int32))


def wordless(features: Features) -> Features:
    """The prompt's numbers alone, without words and without what an answer said."""
    numbers = features.numbers.copy()
    numbers[len(PROMPT) :] = 0.0
    return Features(numbers, np.empty(0, np.int32))


def explained(features: Features) -> dict[str, float]:
    """The named numbers, for people."""
    return dict(zip(NAMES, features.numbers.tolist(), strict=True))


def _bounded(text: str) -> str:
    return text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]}\n{text[-_TAIL:]}"


def _words(text: str, salt: int) -> Places:
    found, last = set(), salt
    for word in _WORDS.findall(text.lower().encode("utf-8", "replace")):
        this = crc32(word, salt)
        found.add(this % PLACES)
        found.add(crc32(word, last) % PLACES)
        last = this
    return np.fromiter(found, np.int32, len(found))


def _sums(text: str) -> tuple[int, int]:
    """How many sums an answer works out, and how many of them are wrong."""
    if "=" not in text:
        return 0, 0
    seen = wrong = 0
    for left, sign, right, came in _SUMS.findall(text)[:_MOST_SUMS]:
        try:
            a, b, c = (float(each.replace(",", "")) for each in (left, right, came))
            true = a + b if sign == "+" else a - b if sign == "-" else a / b if sign in "/÷" else a * b
        except (ValueError, ZeroDivisionError):
            continue
        seen += 1
        wrong += abs(true - c) > 0.011 * max(1.0, abs(true) if sign in "/÷" else 1.0)
    return seen, wrong


def _logprobs(logprobs: Sequence[float] | None) -> tuple[float, ...]:
    """Whether they were told; mean, least, quantiles, the share of unsure tokens (below one half), first and last."""
    told = [max(-20.0, min(0.0, each)) for each in logprobs or () if each == each]
    if not told:
        return (0.0,) * 8
    order, n = sorted(told), len(told)
    unsure = sum(1 for each in told if each < -0.6931) / n
    return (1.0, sum(told) / n, order[0], order[n // 10], order[n // 4], unsure, told[0], told[-1])
