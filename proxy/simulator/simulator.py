"""The simulator as a server: `Simulator` inside a running loop, `run` as a process of its own."""

from __future__ import annotations

import asyncio
import gc
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import uvloop

from proxy.simulator import faults
from proxy.simulator.connection import Connection
from proxy.simulator.incoming import Incoming
from proxy.simulator.invoice import Statement
from proxy.simulator.latency import Latency
from proxy.simulator.playing import Wheel
from proxy.simulator.provider import Options, Provider
from proxy.simulator.record import Record, State
from proxy.simulator.scenario import Rule, Scenario, load
from proxy.simulator.speech.batches import Batches

_BACKLOG = 4096


class Simulator:
    """An OpenAI-compatible provider on `host:port`, for the length of an `async with`.

    Latencies are written as `"20ms"`, `"exponential(20ms)"` or `"lognormal(300ms, 0.5)"`. With `tls` it speaks HTTPS.
    `url` ends in `/v1`, as SDKs want their base URL; `origin` does not.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        ttft: str = "0ms",
        per_token: str = "0ms",  # noqa: S107
        unary: str | None = None,
        scenario: Scenario | Path | None = None,
        key: str | None = None,
        tls: ssl.SSLContext | None = None,
        remember: int = 256,
        options: Options | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._tls = tls
        self._options = options or Options(
            seed=seed,
            ttft=Latency.parse(ttft),
            per_token=Latency.parse(per_token),
            unary=Latency.parse(unary) if unary else None,
            scenario=load(scenario) if isinstance(scenario, Path) else scenario or Scenario(),
            key=key,
            remember=remember,
        )
        self._record = Record(self._options.remember)
        self._provider = Provider(self._options, self._record)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._wheel: Wheel | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        wheel = self._wheel = Wheel(loop)

        def connected() -> Connection:
            return Connection(self._provider, self._record, wheel, self._connections)

        self._server = await loop.create_server(connected, self.host, self.port, ssl=self._tls, backlog=_BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is None or self._wheel is None:
            return
        server, self._server = self._server, None
        server.close()
        self._wheel.close()
        for connection in list(self._connections):
            connection.abort()
        await server.wait_closed()
        self._provider.shelf.close()

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL for SDKs: `http://127.0.0.1:PORT/v1`."""
        return self.origin + "/v1"

    @property
    def requests(self) -> list[Incoming]:
        """The last requests as they arrived, without those to `/sim/`."""
        return list(self._record.requests)

    def invoice(self) -> Statement:
        """What has been billed."""
        return self._record.statement()

    @property
    def state(self) -> State:
        """Counters, and the clients that left."""
        return self._record.snapshot()

    @property
    def batches(self) -> Batches:
        """What it does in batches; their clock can be set (`wall`), and so can what becomes of them (`terms`)."""
        return self._provider.batches

    @contextmanager
    def still(self) -> Iterator[None]:
        """Its time stands still: of answers, only what comes at once is written before the block ends."""
        assert self._wheel is not None
        self._wheel.stop()
        try:
            yield
        finally:
            self._wheel.turn_on()

    async def until(self, true: Callable[[State], object], timeout_s: float = 60) -> State:
        """Wait until `true(state)`. Raises TimeoutError."""
        return await self._record.until(true, timeout_s)

    def fault(
        self,
        fault: str,
        *,
        model: str | None = None,
        path: str | None = None,
        stream: bool | None = None,
        key: str | None = None,
        nth: int | None = None,
        every: int | None = None,
        first: int | None = None,
        probability: float | None = None,
    ) -> None:
        """Add a rule: the requests that meet all conditions meet the fault. Raises pydantic's ValidationError."""
        conditions = {"model": model, "path": path, "stream": stream, "key": key, "nth": nth, "every": every}
        rule = {**conditions, "first": first, "probability": probability, "fault": fault}
        self._provider.rules.add(Rule.model_validate(rule))

    def reset(self) -> None:
        """Forget requests, counters, invoice and rules."""
        self._record.reset()
        self._provider.rules.clear()
        self._provider.prefixes.clear()

    def __repr__(self) -> str:
        return f"<Simulator {self.url} {len(self._connections)} connections>"


def run(
    host: str = "127.0.0.1", port: int = 9999, options: Options | None = None, *, tls: ssl.SSLContext | None = None
) -> None:
    """Serve until SIGINT or SIGTERM; says where on standard output once it listens."""
    uvloop.run(_serve(host, port, options or Options(), tls))


async def _serve(host: str, port: int, options: Options, tls: ssl.SSLContext | None) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Simulator(host=host, port=port, options=options, tls=tls) as simulator:
        sys.stdout.write(
            f"simulating a provider at {simulator.url} (seed {options.seed}, {len(faults.FAULTS)} faults)\n"
        )
        sys.stdout.flush()
        # What is there now stays: full collections over it would show as latency.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        await stopped.wait()
