"""What micro-batching brings: 64 clients, each asking for one vector after the other.

The upstream is a `forward` that takes 30 ms and 0.2 ms an input, and answers with vectors of 1,536 numbers; in the
second setting it serves four requests at once. Everything is as in a worker but the wire. Each setting runs with and
without the layer, in turn; the first tenth of the answers is left out.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import uvloop

from policies import microbatch
from proxy.body import scan
from proxy.endpoints import endpoint_of
from proxy.exchange import Exchange, Forward, Identity, Request
from proxy.response import Response

CLIENTS: Final = 64
SECONDS: Final = 3.0
FIXED_S, EACH_S = 0.030, 0.0002
_PATH: Final = "/v1/embeddings"
_VECTOR: Final = orjson.dumps([0.0123456789] * 1536)


@dataclass
class Upstream:
    """Takes its time, and counts."""

    at_once: int
    calls: int = 0
    room: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.room = asyncio.Semaphore(self.at_once)

    async def __call__(self, request: Request) -> Response:
        told = request.field("input")
        count = len(told) if isinstance(told, list) else 1
        self.calls += 1
        async with self.room:
            await asyncio.sleep(FIXED_S + EACH_S * count)
        entries = [b'{"object":"embedding","index":%d,"embedding":%b}' % (n, _VECTOR) for n in range(count)]
        usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (5 * count, 5 * count)
        body = b'{"object":"list","data":[%b],"model":"m","usage":%b}' % (b",".join(entries), usage)
        return Response(200, [(b"content-type", b"application/json")], body)


class _Services:
    name, source, observing = "microbatch", "bench", False


_TASKS: Final[set[asyncio.Task[Any]]] = set()


def _spawn(work: Any, name: str) -> asyncio.Task[Any]:
    task = asyncio.get_running_loop().create_task(work, name=name)
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)
    return task


async def _client(number: int, forward: Forward, until: float, took: list[tuple[float, float]]) -> None:
    endpoint = endpoint_of("POST", _PATH)
    assert endpoint is not None
    asked = 0
    while (began := time.perf_counter()) < until:
        asked += 1
        raw = orjson.dumps({"model": "m", "input": f"text {number} {asked}"})
        exchange = Exchange(Identity("t", "k"), "embeddings", spawn=_spawn)
        response = await forward(Request(exchange, endpoint, "POST", _PATH.encode(), _PATH, [], scan(raw), "m"))
        assert response.status == 200 and response.held().count(b'"index":0') == 1
        exchange.release()
        took.append((began, time.perf_counter() - began))


async def _run(batched: bool, at_once: int) -> tuple[float, float]:
    """p50 in ms, and upstream calls for each request."""
    upstream = Upstream(at_once)
    forward: Forward = upstream
    if batched:
        policy: Any = microbatch.build(microbatch.Config(), _Services())  # type: ignore[arg-type]

        async def through(request: Request) -> Response:
            return await policy(request, forward=upstream)  # type: ignore[no-any-return]

        forward = through
    took: list[tuple[float, float]] = []
    began = time.perf_counter()
    await asyncio.gather(*(_client(n, forward, began + SECONDS, took) for n in range(CLIENTS)))
    warm = [spent for at, spent in took if at > began + SECONDS / 10]
    return statistics.median(warm) * 1000, upstream.calls / len(took)


async def measure() -> dict[str, Any]:
    """Both settings."""
    gc.collect()
    gc.freeze()
    found = {}
    for name, at_once in (("unbounded", 10_000), ("four at once", 4)):
        plain_ms, plain_calls = await _run(False, at_once)
        batched_ms, batched_calls = await _run(True, at_once)
        found[name] = {
            "plain_p50_ms": round(plain_ms, 1),
            "batched_p50_ms": round(batched_ms, 1),
            "p50_ratio": round(batched_ms / plain_ms, 3),
            "fewer_calls": round(plain_calls / batched_calls, 1),
        }
    return found


if __name__ == "__main__":
    uvloop.install()
    print(asyncio.run(measure()))
