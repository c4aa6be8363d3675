"""How much worse a small answer is than a large one: by equality, or by a model that compares both.

Rules:
1. A loss lies between -1 (the small one is better) and 1 (the large one is). By equality the large answer is taken for
   right: that loss is never below 0.
2. A model compares twice, with the answers in either order: what it says only because of the order cancels out.
3. Whatever goes wrong is no verdict, and a pair without one counts nowhere.
4. Judging is an exchange of its own, tagged `weir=judge`, whose cost is deducted from what the cascade saves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import orjson

from policies.cascade.answers import Said, said
from policies.cascade.config import Judge, Labelled
from policies.cascade.gates import lenient

_LONGEST: Final = 8000  # characters of a question or an answer that a model reads
_NUMBER: Final = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_BOXED: Final = re.compile(r"\\boxed\{([^{}]*)\}")
_SPACE: Final = re.compile(r"\s+")
RUBRIC: Final = (
    "Correctness decides: facts, numbers, code that works, following what the question asks for, its form and its "
    "language. Completeness comes second. Length, style and politeness don't count."
)
_SYSTEM: Final = (
    "You compare two answers to a question. {rubric} If both are about equally good, say so: don't look for a winner. "
    "The order of the answers means nothing. Reply with one word: first, second or equal."
)
_WORDS: Final = {"first": 1.0, "second": -1.0, "equal": 0.0, "same": 0.0, "tie": 0.0}


def text_of(choices: Sequence[Said]) -> str:
    """An answer as a judge reads it: its text, and its calls of tools."""
    parts = []
    for one in choices:
        calls = [f"{call.name}({_canonical(call.arguments)})" for call in one.calls]
        parts.append("\n".join([*([one.text] if one.text.strip() else []), *calls]))
    return "\n---\n".join(parts)


def _canonical(arguments: str) -> str:
    try:
        return orjson.dumps(orjson.loads(arguments or "{}"), option=orjson.OPT_SORT_KEYS).decode()
    except ValueError:
        return arguments


def equal(kind: str, small: Sequence[Said], large: Sequence[Said]) -> float:
    """The loss of a small answer where the large one is right: the share of choices that differ from its."""
    if not large:
        return 0.0
    losses = [0.0 if at < len(small) and _same(kind, small[at], one) else 1.0 for at, one in enumerate(large)]
    return sum(losses) / len(losses)


def _same(kind: str, small: Said, large: Said) -> bool:
    if small.calls or large.calls:
        return [(c.name, _canonical(c.arguments)) for c in small.calls] == [
            (c.name, _canonical(c.arguments)) for c in large.calls
        ]
    return same_text(kind, small.text, large.text)


def same_text(kind: str, one: str, other: str) -> bool:
    """Whether two texts say the same: as JSON, by their last number, or by their words."""
    if kind == "json":
        try:
            return bool(lenient(one) == lenient(other))
        except ValueError:
            return _plain(one) == _plain(other)
    if kind == "numeric":
        numbers = _last_number(one), _last_number(other)
        if None not in numbers:
            return numbers[0] == numbers[1]
    return _plain(one) == _plain(other)


def _plain(text: str) -> str:
    return _SPACE.sub(" ", text).strip().strip(".").casefold()


def _last_number(text: str) -> Decimal | None:
    """The number in the last box, else the last number."""
    boxed = _BOXED.findall(text)
    found = _NUMBER.findall(boxed[-1] if boxed else text)
    try:
        return Decimal(found[-1].replace(",", "")).normalize() if found else None
    except InvalidOperation:
        return None


# --- a model


def question_for(judge: Judge, question: str, first: str, second: str) -> dict[str, Any]:
    """The request that asks a model."""
    told = shown(question, {"First answer": first, "Second answer": second})
    messages = [
        {"role": "system", "content": _SYSTEM.format(rubric=judge.rubric or RUBRIC)},
        {"role": "user", "content": told},
    ]
    return {"model": judge.model, "messages": messages, "temperature": 0, "max_tokens": 5}


def shown(question: str, answers: Mapping[str, str]) -> str:
    """A question and answers as a model reads them; of long ones the end or the beginning."""
    parts = {"Question": question[-_LONGEST:], **{name: text[:_LONGEST] for name, text in answers.items()}}
    return "\n\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in parts.items())


def verdict(body: bytes) -> float | None:
    """1 for the first answer, -1 for the second, 0 for neither; None where it doesn't say."""
    choices = said("chat", body)
    found = re.search(r"[a-z]+", choices[0].text.casefold()) if choices else None
    return _WORDS.get(found[0]) if found else None


def loss_of(large_first: float | None, small_first: float | None) -> float | None:
    """The loss by both verdicts, of which the second was asked with the answers the other way round."""
    if large_first is None or small_first is None:
        return None
    return (large_first - small_first) / 2


def agrees(loss: float, pair: Labelled) -> bool:
    """Whether a judge says what a person said."""
    return (loss > 0.25, loss < -0.25) == (pair.better == "large", pair.better == "small")


def equal_pair(kind: str, pair: Labelled) -> float:
    """The loss of a labelled pair, by equality."""
    return 0.0 if same_text(kind, pair.small, pair.large) else 1.0
