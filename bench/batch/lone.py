"""What both layers cost a request that is alone: the layer around a `forward` that answers at once.

Measured without a wire, in pairs of short rounds: a forward alone, the same through the layer. Of each the lower decile
counts: what the code takes when nobody else has the core. The answers are whole; a stream's events are timed by
`chunks.py`.
"""

from __future__ import annotations

import asyncio
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import orjson

from policies import coalesce, microbatch
from proxy.body import scan
from proxy.endpoints import endpoint_of
from proxy.exchange import Exchange, Forward, Identity, Request
from proxy.response import Response

ROUNDS: Final = 400
EACH: Final = 100
_PATH: Final = "/v1/chat/completions"


class _Services:
    """As much of what a policy is built with as the layer asks for."""

    name, source, observing, spawn = "coalesce", "bench", False, None


def layer() -> Any:
    """The layer, sharing what is sampled too."""
    return coalesce.build(coalesce.Config(sampled=True), _Services())  # type: ignore[arg-type]


def request(text: str, exchange: Exchange | None = None) -> Request:
    """A chat request."""
    raw = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "temperature": 0})
    endpoint = endpoint_of("POST", _PATH)
    assert endpoint is not None
    exchange = exchange or Exchange(Identity("tenant", "key"), endpoint.name)
    return Request(exchange, endpoint, "POST", _PATH.encode(), _PATH, [], scan(raw), "gpt-4o-mini")


def embedding(text: str) -> Request:
    """A request for one vector."""
    raw = orjson.dumps({"model": "text-embedding-3-small", "input": text})
    endpoint = endpoint_of("POST", "/v1/embeddings")
    assert endpoint is not None
    exchange = Exchange(Identity("tenant", "key"), endpoint.name)
    path = "/v1/embeddings"
    return Request(exchange, endpoint, "POST", path.encode(), path, [], scan(raw), "text-embedding-3-small")


async def _answer(request: Request) -> Response:
    return Response(200, [(b"content-type", b"application/json")], b"{}")


async def _mean_ns(forward: Forward, requests: list[Request]) -> float:
    began = time.perf_counter_ns()
    for one in requests:
        await forward(one)
    return (time.perf_counter_ns() - began) / len(requests)


async def measure() -> dict[str, Any]:
    """Nanoseconds that each layer adds, by the size of the question."""
    batching: Any = microbatch.build(microbatch.Config(), _Services())  # type: ignore[arg-type]
    return {"coalesce": await _added(layer(), request), "microbatch": await _added(batching, embedding)}


async def _added(policy: Any, make: Callable[[str], Request]) -> dict[str, int]:
    found = {}
    through = functools.partial(policy, forward=_answer)  # as `proxy.chain` puts layers together
    for size in (100, 2_000, 20_000):
        made = [make(f"{number} {'word ' * (size // 5)}") for number in range(EACH)]
        pairs = [(await _mean_ns(_answer, made), await _mean_ns(through, made)) for _ in range(ROUNDS)]
        before, after = ([pair[side] for pair in pairs] for side in (0, 1))
        found[f"{size}"] = round(statistics.quantiles(after, n=10)[0] - statistics.quantiles(before, n=10)[0])
    return found


if __name__ == "__main__":
    print(asyncio.run(measure()))
