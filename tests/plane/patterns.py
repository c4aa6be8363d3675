"""What the interface is for, each as a policy of its own: the design's table of needs, row by row.

None is longer than 40 lines; `test_conformance.py` counts them, and runs them on the wire.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
from pydantic import BaseModel

from proxy.body import Body
from proxy.errors import RATE_LIMIT, WeirError
from proxy.exchange import Attempt, Exchange, Forward, Request, Settle
from proxy.response import Outcome, Response
from proxy.stream import Stream
from proxy.wire.headers import Headers
from proxy.wire.sse import Event


class Cache:
    """Answers what was asked before from memory, within a tenant; keeps only what was complete."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, bytes], tuple[Headers, bytes]] = {}

    async def __call__(self, request: Request, forward: Forward) -> Response:
        assert isinstance(request.body, Body)
        key = (request.exchange.identity.tenant, request.body.raw)
        if (found := self._kept.get(key)) is not None:
            request.exchange.note("cache", "hit", bytes=len(found[1]))
            return Response(200, list(found[0]), found[1])
        response = await forward(request)
        if response.status == 200:
            response.tap(self._collect(key, list(response.headers)))
        return response

    def _collect(self, key: tuple[str, bytes], headers: Headers) -> Any:
        pieces: list[bytes] = []

        def see(seen: Event | Outcome) -> None:
            if isinstance(seen, Event):
                pieces.append(seen.raw)
            elif seen is Outcome.COMPLETE:
                self._kept[key] = (headers, b"".join(pieces))

        return see


class Route:
    """Chooses another model."""

    async def __call__(self, request: Request, forward: Forward) -> Response:
        return await forward(request.using(model="gpt-4.1-nano"))


class Escalate:
    """Asks the small model, looks at its answer, and asks the large one if that won't do."""

    async def __call__(self, request: Request, forward: Forward) -> Response:
        small = await forward(request.using(model="gpt-4o-mini"))
        body = await small.read()
        if small.status == 200 and b"I do not know" not in body and request.field("hard") is None:
            return small
        request.exchange.note("escalate", "escalated", bytes=len(body))
        return await forward(request.using(model="gpt-4o"))


class Retry:
    """Tries again what nobody was billed for, then falls back to another model."""

    async def __call__(self, request: Request, forward: Forward) -> Response:
        for model in (request.model, request.model, "gpt-4o"):
            try:
                response = await forward(request.using(model=model))
            except WeirError as error:
                failed = error
                if error.status != 503 or not request.replayable:
                    raise
            else:
                if response.status != 429:
                    return response
                failed = WeirError(429, "The upstream is busy.", type=RATE_LIMIT)
                await response.aclose()
            request.exchange.note("retry", "tried_again", status=failed.status)
        raise failed


class Hedge:
    """Sends a second request if the first is slow; the first to answer wins, the other is given up."""

    def __init__(self, after_s: float = 0.02) -> None:
        self._after_s = after_s

    async def __call__(self, request: Request, forward: Forward) -> Response:
        running: set[asyncio.Task[Response]] = set()
        try:
            for number in (1, 2):
                running.add(asyncio.create_task(self._call(request, forward), name=f"hedge {number}"))
                wait_s = self._after_s if number == 1 else None
                done, _ = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    winner = done.pop()
                    running.discard(winner)
                    request.exchange.note("hedge", f"won_by_{winner.get_name()[-1]}")
                    return winner.result()
            raise AssertionError
        finally:
            for loser in running:
                loser.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _call(self, request: Request, forward: Forward) -> Response:
        return await forward(request)


class Budget:
    """Money for each team: admits, shortens the cap to what is left, or refuses. Settled exactly once an attempt."""

    def __init__(self, limit_nanodollars: int) -> None:
        self.left = limit_nanodollars
        self.reserved = 0
        self.settled: list[int | None] = []

    async def __call__(self, request: Request, forward: Forward) -> Response:
        request.exchange.guard(self._admit)
        return await forward(request)

    async def _admit(self, attempt: Attempt) -> Settle:
        held = attempt.estimate_nanodollars or 0
        if self.reserved + held > self.left:
            raise WeirError(429, "The budget is used up.", code="budget_exceeded", headers=((b"retry-after", b"60"),))
        if attempt.output_cap is None or attempt.output_cap > 20:
            attempt.output_cap = 20
        self.reserved += held

        def settle(settled: Attempt) -> None:
            self.reserved -= held
            self.left -= settled.nanodollars or 0
            self.settled.append(settled.nanodollars)

        return settle


class RateLimit:
    """At most so many attempts at once; others wait their turn."""

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self.most = self.running = 0

    async def __call__(self, request: Request, forward: Forward) -> Response:
        request.exchange.guard(self._wait)
        return await forward(request)

    async def _wait(self, attempt: Attempt) -> Settle:
        await self._free.acquire()
        self.running += 1
        self.most = max(self.most, self.running)
        return self._left

    def _left(self, attempt: Attempt) -> None:
        self.running -= 1
        self._free.release()


class Coalesce:
    """Equal requests that overlap share one call, which outlives the client that caused it, not the last one."""

    def __init__(self) -> None:
        self.shared: dict[tuple[str, bytes], Shared] = {}

    async def __call__(self, request: Request, forward: Forward) -> Response:
        assert isinstance(request.body, Body)
        key = (request.exchange.identity.tenant, request.body.raw)
        shared = self.shared.get(key)
        if shared is None:
            shared = self.shared[key] = Shared()

            async def run(exchange: Exchange) -> None:
                await shared.run(request.using(exchange=exchange), forward)

            shared.task = request.exchange.detached("shared", run, timeout_s=600)
            shared.task.add_done_callback(lambda _: self.shared.pop(key, None))
        return await shared.subscribe(request.exchange)


class Shared:
    """One call, those who read its answer, and what each owes."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.head: asyncio.Future[tuple[int, Headers]] = asyncio.get_running_loop().create_future()
        self.events: list[Event] = []
        self.readers: dict[str, Stream] = {}
        self.share = 0

    async def run(self, request: Request, forward: Forward) -> None:
        try:
            response = await forward(request)
            self.head.set_result((response.status, response.headers))
            async for piece in response:
                self.events.append(Event(piece, None))
                for reader in self.readers.values():
                    reader.feed(self.events[-1:])
            self.share = (request.exchange.nanodollars or 0) // max(1, len(self.readers))
            self._end(None)
        except WeirError as error:
            if not self.head.done():
                self.head.set_exception(error)
            self._end(error)

    def _end(self, error: WeirError | None) -> None:
        for reader in list(self.readers.values()):
            reader.end(error)

    async def subscribe(self, exchange: Exchange) -> Response:
        stream = self.readers[exchange.id] = Stream(Free(), 1 << 40)
        if self.events:
            stream.feed(list(self.events))
        exchange.defer(self._left)
        status, headers = await asyncio.shield(self.head)
        return Response(status, list(headers), stream)

    def _left(self, exchange: Exchange) -> None:
        del self.readers[exchange.id]
        exchange.charge(self.share)
        if not self.readers:
            self.task.cancel()


class Free:
    """The source of a copy, which follows nobody's pace."""

    def pause(self) -> None:
        """It can't."""

    resume = cancel = pause


class MicroBatch:
    """Embeddings that are asked for at about the same time go up as one request; each pays its share."""

    def __init__(self, window_s: float = 0.02) -> None:
        self._window_s = window_s
        self._waiting: list[tuple[Request, asyncio.Future[dict[str, Any]]]] = []

    async def __call__(self, request: Request, forward: Forward) -> Response:
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if len(self._waiting) == 1:
            request.exchange.detached("batch", lambda exchange: self._run(exchange, forward), timeout_s=60)
        told = await answer
        request.exchange.charge(told.pop("nanodollars"))
        return Response(200, [(b"content-type", b"application/json")], orjson.dumps(told))

    async def _run(self, exchange: Exchange, forward: Forward) -> None:
        await asyncio.sleep(self._window_s)
        batch, self._waiting = self._waiting, []
        first = batch[0][0]
        try:
            inputs = [request.field("input") for request, _ in batch]
            response = await forward(first.using(fields={"input": inputs}, exchange=exchange))
            told = orjson.loads(await response.read())
        except BaseException as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(WeirError(502, f"The batch failed: {type(error).__name__}."))
            raise
        for at, (_, answer) in enumerate(batch):
            share = (exchange.nanodollars or 0) * (at + 1) // len(batch) - (exchange.nanodollars or 0) * at // len(
                batch
            )
            if not answer.done():
                answer.set_result({**told, "data": [{**told["data"][at], "index": 0}], "nanodollars": share})


class Watch:
    """Looks at what passes."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.outcomes: list[Outcome] = []

    async def __call__(self, request: Request, forward: Forward) -> Response:
        response = await forward(request)
        response.tap(lambda seen: (self.outcomes if isinstance(seen, Outcome) else self.events).append(seen))  # type: ignore[arg-type]
        return response


class Options(BaseModel):
    """None: the policies here are made by the tests."""


def module(policy: Any) -> Any:
    """A policy module that gives this policy."""
    return SimpleNamespace(Config=Options, build=lambda config, services: policy)
