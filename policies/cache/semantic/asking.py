"""What the semantic tier asks of models itself: vectors, and whether two answers are the same.

Rules:
1. Each is a detached exchange: it has attempts, guards and a cost of its own, which is deducted from what the policy
   saves. It carries the tag `weir=embedding`, `weir=judge` or `weir=audit`, by which budgets may bound it.
2. Whatever goes wrong is no answer: no vector, no verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import numpy as np
import orjson

from policies.cache.semantic.static import Vector
from proxy.body import scan
from proxy.endpoints import endpoint_of
from proxy.errors import WeirError
from proxy.exchange import Exchange, Forward, Request

T = TypeVar("T")
_EMBEDDED_S: Final = 10.0
_JUDGED_S: Final = 60.0
_LONGEST: Final = 6000  # characters of an answer that a judge reads
_OWN: Final = frozenset((b"content-length", b"content-encoding", b"accept-encoding", b"cache-control", b"accept"))
_DEPTH: Final = 64
_JUDGE: Final = (
    "You compare two answers to nearly the same question. Reply with one word, yes or no: would a person who asked the "
    "question get the same information and the same advice from both? Other wording, order or politeness doesn't "
    "matter. Any other fact, number, name, condition, step or recommendation does."
)


def made(request: Request, path: str, fields: dict[str, Any], exchange: Exchange) -> Request:
    """A request of ours, with the client's own headers and key."""
    endpoint = endpoint_of("POST", path)
    assert endpoint is not None
    headers = [(name, value) for name, value in request.headers if name not in _OWN]
    body = scan(orjson.dumps(fields), _DEPTH)
    return Request(exchange, endpoint, "POST", path.encode(), path, headers, body, fields["model"])


def detached(
    exchange: Exchange, kind: str, policy: str, timeout_s: float, run: Callable[[Exchange], Awaitable[T]]
) -> asyncio.Task[T]:
    """A background exchange with a tag of its own."""

    async def tagged(background: Exchange) -> T:
        background.tags = {**background.tags, "weir": kind}
        return await run(background)

    return exchange.detached(kind, tagged, timeout_s=timeout_s, policy=policy)


async def embedded(request: Request, forward: Forward, model: str, text: str, policy: str) -> Vector | None:
    """A text's vector, of length 1, by the upstream's embeddings endpoint."""

    async def run(background: Exchange) -> Vector | None:
        fields = {"model": model, "input": text, "encoding_format": "float"}
        response = await forward(made(request, "/v1/embeddings", fields, background))
        answer = orjson.loads(await response.read())
        if response.status != 200:
            return None
        vector = np.array(answer["data"][0]["embedding"], np.float32)
        length = float(np.sqrt(vector @ vector))
        return vector / np.float32(length) if vector.ndim == 1 and np.isfinite(length) and length > 0 else None

    return await _asked(request, "embedding", policy, _EMBEDDED_S, run)


async def judged(
    request: Request, forward: Forward, model: str, question: str, answers: tuple[str, str], policy: str
) -> bool | None:
    """Whether a model takes both for the same answer; None where it didn't say."""

    async def run(background: Exchange) -> bool | None:
        parts = {"Question": question, "First answer": answers[0], "Second answer": answers[1]}
        told = "\n\n".join(f"{name}:\n{text[:_LONGEST]}" for name, text in parts.items())
        messages = [{"role": "system", "content": _JUDGE}, {"role": "user", "content": told}]
        fields = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 5}
        response = await forward(made(request, "/v1/chat/completions", fields, background))
        answer = orjson.loads(await response.read())
        if response.status != 200:
            return None
        word = str(answer["choices"][0]["message"]["content"]).strip().strip(".!\"'*").lower()
        return {"yes": True, "no": False}.get(word)

    return await _asked(request, "judge", policy, _JUDGED_S, run)


async def _asked(
    request: Request, kind: str, policy: str, timeout_s: float, run: Callable[[Exchange], Awaitable[T | None]]
) -> T | None:
    try:
        return await detached(request.exchange, kind, policy, timeout_s, run)
    except (WeirError, TimeoutError, ValueError, KeyError, IndexError, TypeError):
        return None
