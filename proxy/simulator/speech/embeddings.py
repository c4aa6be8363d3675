"""`/v1/embeddings`: bags of hashed words, so equal texts have equal vectors and similar texts near ones.

Each lower-cased word and each pair of neighbours adds to a few signed coordinates that its hash names; the sum is
brought to length 1. Vectors don't depend on the seed. `dimensions` folds the coordinates into fewer.
"""

from __future__ import annotations

import base64
import math
import re
from array import array
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Any

from proxy.simulator.reply import Bill, Reply, jsonly
from proxy.simulator.speech.chat import roomy
from proxy.simulator.speech.completions import prompts_of
from proxy.simulator.speech.terms import Call, Refusal, Turn
from proxy.simulator.usage import Tally

ENDPOINT = "embeddings"
_MOST_INPUTS = 2048
_COORDINATES = 12
_WORD = re.compile(r"\w+|[^\w\s]")


@lru_cache(100_000)
def _coordinates(term: str) -> tuple[tuple[int, float], ...]:
    digest = blake2b(term.encode(), digest_size=_COORDINATES * 4).digest()
    numbers = (int.from_bytes(digest[at : at + 4], "big") for at in range(0, len(digest), 4))
    return tuple((number >> 1, 1.0 if number & 1 else -1.0) for number in numbers)


def vector(text: str, dimensions: int) -> list[float]:
    """The embedding of a text: a unit vector."""
    words = _WORD.findall(text.lower()) or ["\x00"]
    summed = [0.0] * dimensions
    for term, weight in [(w, 1.0) for w in words] + [(f"{a} {b}", 0.5) for a, b in pairwise(words)]:
        for index, sign in _coordinates(term):
            summed[index % dimensions] += sign * weight
    length = math.sqrt(sum(x * x for x in summed)) or 1.0
    return [x / length for x in summed]


def prepare(call: Call) -> EmbeddingAnswer:
    """Read a request. Raises Refusal."""
    return EmbeddingAnswer(call)


class EmbeddingAnswer:
    """The vectors of one request."""

    def __init__(self, call: Call) -> None:
        self.model = model = call.model("embedding")
        inputs = prompts_of(call.body, "input")
        if len(inputs) > _MOST_INPUTS:
            raise Refusal(400, f"'input' may have at most {_MOST_INPUTS} items.", param="input")
        for _, count in inputs:
            roomy(count, model.context)
        dimensions = call.whole("dimensions", 1, model.dimensions) or model.dimensions
        coded = call.body.get("encoding_format") == "base64"
        self._tokens = sum(count for _, count in inputs)
        self._entries = [
            {"object": "embedding", "index": index, "embedding": _told(vector(text, dimensions), coded)}
            for index, (text, _) in enumerate(inputs)
        ]

    def reply(self, turn: Turn) -> Reply:
        usage = turn.form.told({"prompt_tokens": self._tokens, "total_tokens": self._tokens})
        answer: dict[str, Any] = {
            "object": "list",
            "data": self._entries,
            "model": self.model.served or self.model.name,
        }
        if usage is not None:
            answer["usage"] = usage
        bill = Bill(self.model.served, ENDPOINT, Tally(input=self._tokens))
        return jsonly(answer, delay=turn.pace.duration(1), bill=bill)


def _told(values: list[float], coded: bool) -> list[float] | str:
    floats = array("f", values)
    return base64.b64encode(floats.tobytes()).decode() if coded else floats.tolist()
