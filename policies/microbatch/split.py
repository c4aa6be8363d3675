"""One request for many, and its answer as many. Pure.

Rules:
1. An answer is cut apart without being read: each vector's bytes are the upstream's own, as numbers or as base64.
2. Tokens and cost are shared in proportion to the length of what each one sent, by largest remainder: the parts add up
   to what the upstream told.
3. An answer that doesn't hold exactly one vector for each input is nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import orjson

Kind = Literal["text", "tokens"]


class Inputs(msgspec.Struct, frozen=True, gc=False):
    """What one request wants embedded. `weight` is its length: bytes of texts, or tokens."""

    kind: Kind
    items: list[Any]
    weight: int


def inputs_of(told: Any) -> Inputs | None:
    """What `input` holds: a text, texts, tokens, or lists of tokens; None for anything else."""
    if type(told) is str:
        return Inputs("text", [told], _bytes(told)) if told else None
    if type(told) is not list or not told:
        return None
    if all(type(item) is str and item for item in told):
        return Inputs("text", told, sum(map(_bytes, told)))
    if all(type(item) is int for item in told):
        return Inputs("tokens", [told], len(told))
    if all(type(item) is list and item and all(type(token) is int for token in item) for item in told):
        return Inputs("tokens", told, sum(map(len, told)))
    return None


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def parts(amount: int, weights: Sequence[int]) -> list[int]:
    """Integers in proportion to `weights` that add up to `amount`: the largest remainders get what is left over."""
    total = sum(weights)
    if not total:
        weights, total = [1] * len(weights), len(weights)
    shares = [divmod(amount * weight, total) for weight in weights]
    found = [share for share, _ in shares]
    order = sorted(range(len(weights)), key=lambda at: (-shares[at][1], at))
    for at in order[: amount - sum(found)]:
        found[at] += 1
    return found


class _Vector(msgspec.Struct):
    index: int
    embedding: msgspec.Raw


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _Answer(msgspec.Struct):
    data: list[_Vector]
    model: str = ""
    usage: _Usage | None = None


_read: Final = msgspec.json.Decoder(_Answer).decode


class Apart(msgspec.Struct, frozen=True):
    """An answer cut apart: a body for each request, and its share of the tokens."""

    bodies: list[bytes]
    tokens: list[int]


def apart(body: bytes, counts: Sequence[int], weights: Sequence[int]) -> Apart | None:
    """Cuts an answer; None where it isn't one to the whole request."""
    try:
        told = _read(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    vectors = sorted(told.data, key=lambda vector: vector.index)
    if [vector.index for vector in vectors] != list(range(sum(counts))):
        return None
    usage = told.usage or _Usage()
    prompt, total = parts(usage.prompt_tokens, weights), parts(usage.total_tokens, weights)
    model, at, bodies = orjson.dumps(told.model), 0, []
    for number, count in enumerate(counts):
        entries = [
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, bytes(vector.embedding))
            for index, vector in enumerate(vectors[at : at + count])
        ]
        at += count
        used = b',"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (prompt[number], total[number])
        bodies.append(
            b'{"object":"list","data":[%b],"model":%b%b}' % (b",".join(entries), model, used if told.usage else b"")
        )
    return Apart(bodies, prompt)
