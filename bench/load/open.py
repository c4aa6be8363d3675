"""Open loop with as many connections as it takes: streams and unary answers, refusals counted apart.

Arrivals are a Poisson process; what an answer took counts from the intended time of sending. A refused request is not
sent again: the offered load stays what it is, which no real client does to a server that says Retry-After.
"""

from __future__ import annotations

import asyncio
import gc
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.load import poisson, wire

BACK_S = 1.0  # what Retry-After says
_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Flow:
    """Requests of one kind, at a rate a second."""

    name: str
    request: bytes
    rate: float


@dataclass(slots=True)
class Seen:
    """What became of one flow. Times in milliseconds, of whole answers. `late`: not sent, because as many as may be
    were still unanswered.
    """

    sent: int = 0
    done_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    late: int = 0


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._answer = b""
        self.due = 0.0
        self.seen: Seen | None = None
        self.counts = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def send(self, request: bytes, due: float, seen: Seen, counts: bool) -> None:
        self.due, self.seen, self.counts, self._answer = due, seen, counts, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.seen is None:
            return
        if not self._answer:
            self._answer = data[:13]
        if self._answer.startswith(b"HTTP/1.1 200"):
            if data.endswith(_END):
                self._over(self.seen.done_ms)
        elif self._answer.startswith(b"HTTP/1.1 503"):
            self._over(self.seen.refused_ms)
        else:
            self.seen.wrong[self._answer.decode("latin-1")] += 1
            self._over([])

    def _over(self, times: list[float]) -> None:
        if self.counts:
            times.append((self._run.loop.time() - self.due) * 1000)
        self.seen = None
        self._run.outstanding -= 1
        if not self.transport.is_closing():
            self._run.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.seen is not None:
            self.seen.wrong["cut"] += 1
            self._run.outstanding -= 1
            self.seen = None
        elif self in self._run.free:
            self._run.free.remove(self)


class _Run:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.free: list[_Connection] = []
        self.outstanding = 0


async def offer(
    url: str,
    flows: Sequence[Flow],
    *,
    seconds: float,
    warm_up_s: float,
    seed: int = 1,
    most: int = 2048,
    wait_s: float = 10.0,
) -> tuple[dict[str, Seen], float]:
    """What came of it, by flow, and the share of a core that this generator took. The warm-up doesn't count."""
    loop, where = asyncio.get_running_loop(), wire.address(url)
    run, seen = _Run(loop), {flow.name: Seen() for flow in flows}
    merged = sorted(
        (at_ns, number)
        for number, flow in enumerate(flows)
        for at_ns in poisson.arrivals_ns(flow.rate, warm_up_s + seconds, seed * 10 + number)
    )
    opening: set[asyncio.Task[None]] = set()

    async def opened(request: bytes, due: float, one: Seen, counts: bool) -> None:
        try:
            _, made = await loop.create_connection(lambda: _Connection(run), where.host, where.port)
        except OSError as error:
            one.wrong[type(error).__name__] += 1
            run.outstanding -= 1
            return
        made.send(request, due, one, counts)

    gc.collect()
    gc.disable()
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = loop.time() + 0.1
    for at_ns, number in merged:
        flow, at_s = flows[number], at_ns / 1e9
        due = start + at_s
        if (left := due - loop.time()) > 0.0005:
            await asyncio.sleep(left)
        one, counts = seen[flow.name], at_s >= warm_up_s
        one.sent += counts
        run.outstanding += 1
        if run.free:
            run.free.pop().send(flow.request, due, one, counts)
        elif run.outstanding > most:
            run.outstanding -= 1
            one.late += counts
        else:
            task = loop.create_task(opened(flow.request, due, one, counts), name="open")
            opening.add(task)
            task.add_done_callback(opening.discard)
    after = resource.getrusage(resource.RUSAGE_SELF)
    share = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / (loop.time() - start)
    give_up = loop.time() + wait_s
    while run.outstanding and loop.time() < give_up:
        await asyncio.sleep(0.05)
    gc.enable()
    first = seen[flows[0].name]
    first.unanswered = run.outstanding
    for connection in run.free:
        connection.transport.abort()
    await asyncio.sleep(0)
    return seen, share


async def saturate(url: str, request: bytes, *, clients: int, seconds: float, warm_up_s: float) -> float:
    """Closed loop: whole answers a second with this many clients, each sending its next as the last ends, and a
    second later where it was refused.
    """
    loop, where = asyncio.get_running_loop(), wire.address(url)
    begins, ends = loop.time() + warm_up_s, loop.time() + warm_up_s + seconds
    done = 0

    async def client(number: int) -> None:
        nonlocal done
        await asyncio.sleep(number / clients * warm_up_s / 2)
        _, connection = await loop.create_connection(lambda: _Closed(loop), where.host, where.port)
        while loop.time() < ends:
            if await connection.ask(request):
                done += begins <= loop.time() < ends
            else:
                await asyncio.sleep(BACK_S)
        connection.transport.abort()

    gc.collect()
    gc.disable()
    await asyncio.gather(*(client(number) for number in range(clients)))
    gc.enable()
    return done / seconds


class _Closed(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[bool] | None = None
        self._begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    async def ask(self, request: bytes) -> bool:
        """Whether it was answered, not refused."""
        self._waiter, self._begun = self._loop.create_future(), False
        self.transport.write(request)
        return await self._waiter

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if not self._begun and data.startswith(b"HTTP/1.1 503"):
            waiter.set_result(False)
        elif not self._begun and not data.startswith(b"HTTP/1.1 200"):
            waiter.set_exception(ValueError(f"not a 200: {data[:200]!r}"))
        elif data.endswith(_END):
            waiter.set_result(True)
        self._begun = True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionError("cut"))
