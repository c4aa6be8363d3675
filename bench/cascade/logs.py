"""Logged pairs of answers: what two models said to the same questions, and whether it was right.

The data lie beside the repository (WEIR_DATA). Costs are by list price of the day and characters over four, where the
logs have answers; where they don't, by the prices alone.
"""

from __future__ import annotations

import ast
import csv
import gzip
import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.cascade.answers import Asked, Said
from policies.cascade.gates import gated, lenient
from policies.cascade.judging import same_text

DATA = Path(os.environ.get("WEIR_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cascade"
# Dollars a million tokens, in and out: the providers' lists of autumn 2024; for open models a common host's.
PRICES = {
    "gemini-1.5-flash-002": (0.075, 0.30),
    "gemini-1.5-pro-002": (1.25, 5.00),
    "Meta-Llama-3_1-8B-Instruct": (0.18, 0.18),
    "Meta-Llama-3_1-70B-Instruct": (0.88, 0.88),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": (0.60, 0.60),
    "gpt-4-1106-preview": (10.0, 30.0),
    "gpt-4o-mini-2024-07-18": (0.15, 0.60),
    "gpt-4o-2024-08-06": (2.50, 10.0),
    "claude-3-haiku-20240307": (0.25, 1.25),
    "claude-3-5-haiku-20241022": (0.80, 4.00),
    "claude-3-5-sonnet-20241022": (3.00, 15.0),
}
_ANSWER = re.compile(r'"answer"\s*:\s*"((?:[^"\\]|\\.)*)"')
_FENCED = re.compile(r"```(?:json)?\s*(.*?)```", re.S)
# What ZeroEval asks for: an object with the reasoning and the answer.
_SCHEMA = {
    "type": "object",
    "properties": {"reasoning": {"type": "string"}, "answer": {"type": ["string", "number"]}},
    "required": ["reasoning", "answer"],
}
_WANTED = Asked("chat", False, 1, "", "", "", 1, {}, False, True, _SCHEMA)
MIXTRAL, GPT4 = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"


@dataclass(frozen=True, slots=True)
class Pair:
    """A question, both answers' quality, the small answer's text where it was logged, and costs in nano-dollars."""

    prompt: str
    answer: str | None
    small: float
    large: float
    small_nanos: int
    large_nanos: int


def lines(path: str) -> Iterator[dict[str, Any]]:
    """Of a log."""
    with gzip.open(DATA / path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def shuffled(pairs: list[Pair], seed: int) -> list[Pair]:
    """In an order of its own."""
    mixed = list(pairs)
    random.Random(seed).shuffle(mixed)
    return mixed


def cost(model: str, prompt: int, answer: int) -> int:
    """Nano-dollars, of so many characters."""
    into, out = PRICES[model]
    return max(1, round((prompt * into + answer * out) / 4 * 1000))


def mmlu_pro(small: str, large: str) -> list[Pair]:
    """Questions with up to ten options."""
    asked = {one["question_id"]: one for one in lines("MMLU-Pro/questions.jsonl.gz")}
    first = {one["question_id"]: one for one in lines(f"MMLU-Pro/{small}.jsonl.gz")}
    second = {one["question_id"]: one for one in lines(f"MMLU-Pro/{large}.jsonl.gz")}
    found = []
    for number, question in asked.items():
        if number not in first or number not in second:
            continue
        options = "\n".join(f"{chr(65 + at)}. {option}" for at, option in enumerate(question["options"]))
        prompt = f"{question['question']}\n{options}"
        mine, other = first[number], second[number]
        found.append(
            Pair(
                prompt,
                mine["output"] or "",
                float(mine["correct"]),
                float(other["correct"]),
                cost(small, len(prompt), len(mine["output"] or "")),
                cost(large, len(prompt), len(other["output"] or "")),
            )
        )
    return found


def routellm_mmlu() -> list[Pair]:
    """Only questions: answers weren't logged."""
    return [
        Pair(
            one["prompt"],
            None,
            float(one[MIXTRAL] == "True"),
            float(one[GPT4] == "True"),
            cost(MIXTRAL, len(one["prompt"]), 8),
            cost(GPT4, len(one["prompt"]), 8),
        )
        for one in lines("RouteLLM/mmlu_all_domains.jsonl.gz")
    ]


def routellm_gsm8k() -> list[Pair]:
    """Sums in words, with both answers."""
    csv.field_size_limit(10**8)
    with gzip.open(DATA / "RouteLLM/gsm8k__gsm8k_responses.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return [
            Pair(
                one["prompt"],
                one[f"{MIXTRAL}_response"],
                float(one[MIXTRAL] == "True"),
                float(one[GPT4] == "True"),
                cost(MIXTRAL, len(one["prompt"]), len(one[f"{MIXTRAL}_response"])),
                cost(GPT4, len(one["prompt"]), len(one[f"{GPT4}_response"])),
            )
            for one in csv.DictReader(file)
        ]


TASKS = ("gsm", "math-l5", "crux")


@dataclass(frozen=True, slots=True)
class Parsed:
    """How an answer that was to be JSON came: by the product's strict gate valid in its fence, and as it stands; and
    what it answers once read leniently."""

    bare: bool
    strict: bool
    answer: str | None


def parsed(output: str) -> Parsed:
    """Reads an answer of ZeroEval."""
    fenced = _FENCED.findall(output)
    bare, strict = _valid(output), _valid(fenced[-1] if fenced else output)
    try:
        value = lenient(output)
    except ValueError:
        found = _ANSWER.findall(output)
        return Parsed(bare, strict, found[-1] if found else None)
    if not isinstance(value, dict) or "answer" not in value:
        return Parsed(bare, strict, None)
    said = value["answer"]
    return Parsed(bare, strict, said if isinstance(said, str) else json.dumps(said))


def _valid(text: str) -> bool:
    return gated(_WANTED, [Said(text, end="stop")]) is None


def right(task: str, said: str | None, truth: str) -> bool:
    """Whether an answer is: by number, by value, or by its words without markup."""
    if said is None:
        return False
    if task == "gsm":
        return same_text("numeric", said, truth)
    if task == "crux":
        return _literal(said) == _literal(truth)
    return _bare(said) == _bare(truth) or (_bare(truth).lstrip("-").isdigit() and same_text("numeric", said, truth))


def zeroeval(small: str, large: str) -> list[Pair]:
    """Three tasks whose answers are asked for as JSON; judged leniently."""
    found = []
    for task in TASKS:
        first, second = (list(lines(f"ZeroEval/{task}.{model}.jsonl.gz")) for model in (small, large))
        for mine, other in zip(first, second, strict=True):
            prompt = mine["prompt"]
            found.append(
                Pair(
                    prompt,
                    mine["output"],
                    float(right(task, parsed(mine["output"]).answer, mine["answer"])),
                    float(right(task, parsed(other["output"]).answer, mine["answer"])),
                    cost(small, len(prompt), len(mine["output"])),
                    cost(large, len(prompt), len(other["output"])),
                )
            )
    return found


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text.strip().strip("'\"")


def _bare(text: str) -> str:
    text = text.replace("\\dfrac", "\\frac").replace("\\left", "").replace("\\right", "").replace("\\\\", "\\")
    return re.sub(r"[\s$]|\\[,;!]|\\text\{[^}]*\}", "", text).rstrip(".")
