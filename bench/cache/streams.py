"""Streams of questions with known answers, from the data beside the repository (WEIR_DATA names another place)."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.cache import pairs
from bench.cache.asked import Asked

DATA = Path(os.environ.get("WEIR_DATA", Path(__file__).parents[3] / "shared/data"))


def _rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / "cache" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def banking() -> list[Asked]:
    """13,083 questions to a bank, 77 answers."""
    return [Asked(row["text"], row["class"]) for row in _rows("banking77_stream")]


def clinc() -> list[Asked]:
    """23,700 requests to an assistant, 150 answers; 1,200 of them are like no other.

    An answer is the class's name as one word: as words, some names are others in another order (`schedule_meeting`), or
    with a word more (`credit_limit_change`), and would be told for the same answer.
    """
    rows = [(row["text"], row["class"]) for row in _rows("clinc150_stream")]
    return [
        Asked(text, name.replace("_", "") if name else f"nothing known {number}", scope=name is not None)
        for number, (text, name) in enumerate(rows)
    ]


def qqp() -> list[Asked]:
    """10,000 open-domain questions as they stand in the file of pairs; the answer is the cluster."""
    cluster: dict[str, int] = {}
    texts = []
    for row in _rows("qqp_pairs"):
        cluster.setdefault(row["a"], row["ca"])
        cluster.setdefault(row["b"], row["cb"])
        texts += [row["a"], row["b"]]
    return [Asked(text, f"cluster {cluster[text]}") for text in texts[:10_000]]


def medical() -> list[Asked]:
    """Questions of patients, each with a rewording and one that only looks alike."""
    found = []
    numbers: dict[str, int] = {}
    for place, row in enumerate(_rows("medical_question_pairs")):
        number = numbers.setdefault(row["a"], len(numbers))
        other = f"question {number}" if row["same"] else f"another {place}"
        found += [Asked(row["a"], f"question {number}"), Asked(row["b"], other)]
    return found


def tenants() -> list[Asked]:
    """The bank's questions from 200 tenants, by Zipf's law."""
    drawn = random.Random(7)
    weights = [1 / rank for rank in range(1, 201)]
    names = drawn.choices(range(200), weights, k=13_083)
    return [Asked(one.text, one.right, f"tenant-{name}") for one, name in zip(banking(), names, strict=True)]


STREAMS: dict[str, Callable[[], list[Asked]]] = {
    "banking": banking,
    "qqp": qqp,
    "clinc": clinc,
    "medical": medical,
    "tenants": tenants,
    "minimal": lambda: pairs.minimal(banking()),
    "histories": lambda: pairs.histories(banking()),
}


def shuffled(name: str, order: int) -> list[Asked]:
    """A stream in one of its orders; what must come after something does."""
    stream = STREAMS[name]()
    random.Random(order).shuffle(stream)
    places = {one.text: place for place, one in enumerate(stream)}
    for one in [one for one in stream if one.after]:
        here, there = places[one.text], places[one.after]
        if here < there:
            stream[here], stream[there] = stream[there], stream[here]
    return stream
