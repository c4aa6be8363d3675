"""`python -m bench.tokens [--data DIR] [--tokenizer MODEL=FILE …]`: how far estimates are from the truth, by family.

Every request is a chat body as clients send it; the truth is what the model's own tokenizer counts of it: tiktoken's
for gpt-4o and gpt-4, for other families the `tokenizer.json` that is named. Half of the requests teach (`learn`), the
other half, which the estimator has not seen, are judged: before and after. The weights were fitted to other texts.
Exit status 0 when no bound was exceeded and the learnt 99th percentile holds, else 1.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from bench import machine, results, runner
from proxy.body import Body, scan
from proxy.tokens import Estimator
from proxy.tokens.exact import pieces_of
from proxy.tokens.process import Encodings

DATA = Path(os.environ.get("WEIR_DATA", Path(__file__).parents[2] / "shared" / "data"))
ENDPOINT = "chat.completions"
SEED = 929
EACH = 3000
MOST_OVER = 0.02  # of requests above the reservation that 99 of 100 should stay within
TOOL_WORDS = ("city", "order", "customer", "amount", "currency", "date", "query", "limit", "language", "address")

Count = Callable[[list[str]], int]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        for line in file:
            yield json.loads(line)


def kinds(data: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """Lists of messages, by kind of request."""
    cache, cascade, chosen = data / "cache", data / "cascade", random.Random(SEED)

    def user(text: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": text}]

    def pick(texts: Iterator[str]) -> list[str]:
        every = [text for text in texts if text]
        return chosen.sample(every, min(EACH, len(every)))

    short = pick(row["text"] for row in rows(cache / "clinc150_stream.jsonl.gz"))
    questions = pick(
        "\n".join([row["question"], *row["options"]]) for row in rows(cascade / "MMLU-Pro/questions.jsonl.gz")
    )
    code = pick(row["prompt"] for row in rows(cascade / "ZeroEval/crux.gpt-4o-2024-08-06.jsonl.gz"))
    mathematics = pick(row["prompt"] for row in rows(cascade / "ZeroEval/math-l5.gpt-4o-2024-08-06.jsonl.gz"))
    judged = pick(row["user_prompt"] for row in rows(cascade / "RouteLLM/mt_bench__judgements.jsonl.gz"))
    answers = pick(row["output"] for row in rows(cascade / "MMLU-Pro/gemini-1.5-pro-002.jsonl.gz"))
    return {
        "short questions": [[{"role": "system", "content": "Answer briefly."}, *user(text)] for text in short],
        "exam questions": [user(text) for text in questions],
        "code": [user(text) for text in code],
        "mathematics": [user(text) for text in mathematics],
        "long conversations": [user(text) for text in judged],
        "history of answers": [history(chosen, questions, answers) for _ in range(EACH)],
    }


def history(chosen: random.Random, questions: list[str], answers: list[str]) -> list[dict[str, Any]]:
    """A conversation of several turns."""
    messages = []
    for _ in range(chosen.randint(1, 8)):
        messages.append({"role": "user", "content": chosen.choice(questions)})
        messages.append({"role": "assistant", "content": chosen.choice(answers)})
    return [*messages, {"role": "user", "content": "Are you sure?"}]


def tools(chosen: random.Random) -> list[dict[str, Any]]:
    """Definitions of a few functions."""

    def one() -> dict[str, Any]:
        names = chosen.sample(TOOL_WORDS, chosen.randint(1, 5))
        properties = {name: {"type": "string", "description": f"The {name} that is meant."} for name in names}
        parameters = {"type": "object", "properties": properties, "required": names[:1]}
        name = f"{chosen.choice(('get', 'find', 'set'))}_{names[0]}"
        return {"name": name, "description": f"Looks up a {names[0]} for the user.", "parameters": parameters}

    return [{"type": "function", "function": one()} for _ in range(chosen.randint(1, 6))]


def bodies(model: str, data: Path) -> dict[str, list[Body]]:
    chosen = random.Random(SEED)
    found = {
        kind: [scan(orjson.dumps({"model": model, "messages": messages})) for messages in requests]
        for kind, requests in kinds(data).items()
    }
    short = [json.loads(body.raw) for body in found["short questions"]]
    found["with tools"] = [scan(orjson.dumps({**body, "tools": tools(chosen)})) for body in short[: EACH // 3]]
    return found


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def spread(errors: list[float]) -> str:
    return " ".join(f"{percentile(errors, share) * 100:+.1f}" for share in (0.01, 0.05, 0.5, 0.95, 0.99))


def judge(model: str, count: Count, data: Path, told: Callable[[results.Row], object]) -> list[results.Row]:
    """All kinds of requests to one model."""
    fresh, taught = Estimator(), Estimator()
    chosen = random.Random(SEED)
    halves: dict[str, list[tuple[Body, int]]] = {}
    lessons: list[tuple[Body, int]] = []
    for kind, requests in bodies(model, data).items():
        counted = [(body, truth(body, count)) for body in requests]
        chosen.shuffle(counted)
        lessons += counted[::2]
        halves[kind] = counted[1::2]
    chosen.shuffle(lessons)
    for body, true in lessons:
        taught.learn(model, ENDPOINT, body, true)
    found = [row(model, kind, half, fresh, taught) for kind, half in halves.items()]
    found.append(row(model, "all of them", [one for half in halves.values() for one in half], fresh, taught, True))
    for each in found:
        told(each)
    return found


def truth(body: Body, count: Count) -> int:
    pieces = pieces_of(ENDPOINT, body)
    assert pieces is not None
    return count(pieces[0]) + pieces[1]


def row(
    model: str, kind: str, half: list[tuple[Body, int]], fresh: Estimator, taught: Estimator, whole: bool = False
) -> results.Row:
    before = [fresh.estimate(model, ENDPOINT, body) / true - 1 for body, true in half]
    guesses = [taught.estimate(model, ENDPOINT, body) for body, _ in half]
    after = [guess / true - 1 for guess, (_, true) in zip(guesses, half, strict=True)]
    over = sum(taught.p99(model, guess) < true for guess, (_, true) in zip(guesses, half, strict=True)) / len(half)
    bounds = [(taught.bound(model, ENDPOINT, body) or 0) / true for body, true in half]
    total = sum(guesses) / sum(true for _, true in half) - 1
    seen = f"new: {spread(before)} %, taught: {spread(after)} %, in all {total * 100:+.1f} %"
    note = (
        f"n = {len(half)}; {over * 100:.2f} % above the learnt p99; bound {percentile(bounds, 0.5):.1f}x, at least "
        f"{min(bounds):.2f}x the truth"
    )
    ok = min(bounds) >= 1 and (not whole or over <= MOST_OVER)
    return results.judged(
        f"{model}: {kind}", f"bound kept{f', <= {MOST_OVER:.0%} above p99' if whole else ''}", seen, ok, note
    )


def counters(data: Path, named: list[str]) -> dict[str, Count]:
    encodings = Encodings(data / "tiktoken")
    found: dict[str, Count] = {}
    for model, encoding in (("gpt-4o", "o200k_base"), ("gpt-4", "cl100k_base")):
        if encodings.count(encoding, []) is not None:
            found[model] = lambda texts, encoding=encoding: encodings.count(encoding, texts) or 0
            found[f"unheard-of ({encoding})"] = found[model]
    for each in named:
        model, _, path = each.partition("=")
        found[model] = from_file(path)
    return found


def from_file(path: str) -> Count:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    return lambda texts: sum(len(one.ids) for one in tokenizer.encode_batch(texts, add_special_tokens=False))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tokens", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="where the texts are (or WEIR_DATA)")
    parser.add_argument("--tokenizer", action="append", default=[], metavar="MODEL=FILE", help="a tokenizer.json")
    asked = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if not (asked.data / "tiktoken").is_dir():
        console.print(f"skipped: no texts and no ranks under {asked.data}; name another directory by --data")
        return 0
    console.print("errors in percent: 1st, 5th, 50th, 95th, 99th percentile of requests")
    rows: list[results.Row] = []
    for model, count in counters(asked.data, asked.tokenizer).items():
        rows += judge(
            model, count, asked.data, lambda row: console.print(f"  {row.verdict:4} {row.number}: {row.seen}")
        )
    return runner.finished("tokens", rows, machine.facts(), console)


if __name__ == "__main__":
    sys.exit(main())
