"""1,000 identical requests at once through the layer: calls made, and answers that are whole and right."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from bench.batch.lone import layer, request
from proxy.exchange import Request
from proxy.response import Response
from proxy.stream import Stream
from proxy.wire.sse import event

CLIENTS: Final = 1000


class _Flow:
    def pause(self) -> None:
        """Not here."""

    resume = cancel = pause


async def measure() -> dict[str, Any]:
    """(calls, right answers) for answers in one piece and for streams."""
    return {"unary": await _asked(streamed=False), "stream": await _asked(streamed=True)}


async def _asked(streamed: bool) -> tuple[int, int]:
    policy, calls = layer(), 0
    words = [event(b'{"word":%d}' % n).raw for n in range(100)]
    right = b"".join(words)

    async def forward(request: Request) -> Response:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.1)
        if not streamed:
            return Response(200, [(b"content-type", b"application/json")], right)
        stream = Stream(_Flow())
        _tasks.append(asyncio.ensure_future(_tell(stream, words)))
        return Response(200, [(b"content-type", b"text/event-stream")], stream)

    async def client() -> bool:
        response = await policy(request("the same"), forward=forward)
        return await response.read() == right

    _tasks: list[asyncio.Future[None]] = []
    answers = await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return calls, sum(answers)


async def _tell(stream: Stream, words: list[bytes]) -> None:
    for word in words:
        stream.feed([event(word.removeprefix(b"data: ").strip())])
        await asyncio.sleep(0)
    stream.end()
