"""The same wire in front of a real worker process: TLS, the bound on connections, time limits, a drain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.config import load
from proxy.simulator import Simulator
from proxy.simulator.certificates import Authority
from proxy.supervisor.cards import compiled
from proxy.supervisor.plan import loader
from proxy.supervisor.service import WORKER
from proxy.wire.shed import Shed
from tests.patience import PATIENCE_S
from tests.supervisor.conftest import Running, running
from tests.wire.raw import Raw, chat, get, post


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rate cards, compiled once."""
    return asyncio.run(compiled(tmp_path_factory.mktemp("cards"), '{"prices": {}}'))


Weir = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def weir(simulator: Simulator, tmp_path: Path, cards: Path) -> Weir:
    """A supervisor in this process and one worker in its own: `async with weir(limits={…}) as here`."""

    async def compile(home: Path, prices: str) -> Path:
        return cards

    @asynccontextmanager
    async def serving(**settings: Any) -> AsyncIterator[Running]:
        file = {
            "version": 1,
            "home": str(tmp_path / "home"),
            "listen": "127.0.0.1:0",
            "ops": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "workers": 1,
            "upstreams": {"up": {"url": simulator.url}},
            "models": {"*": {"upstream": "up"}},
            **settings,
        }
        path = tmp_path / "weir.yaml"
        path.write_text(json.dumps(file))  # JSON is YAML
        read = loader(lambda: load(path, os.environ))
        async with running(read(), read, command=WORKER, compile=compile) as here:
            yield here

    return serving


def port(here: Running) -> int:
    return int(here.address.rsplit(":", 1)[1])


async def test_a_worker_answers_pipelines_streams_and_errors(weir: Weir) -> None:
    """One connection: three requests in one write, a stream among them, and a last one that is refused."""
    async with weir() as here, await Raw.connect(port(here)) as client:
        await client.send(post(body=chat()) + post(body=chat(True)) + get("/v1/models") + b"GARBAGE\r\n\r\n")
        first, second, third, last = [await client.answer() for _ in range(4)]
        assert (first.status, second.status, third.status, last.status) == (200, 200, 200, 400)
        assert b"[DONE]" in second.body
        assert last.error["code"] == "bad_request"
        assert await client.closed()


async def test_connections_over_the_bound_are_told_so(weir: Weir) -> None:
    """503 with Retry-After, also where the request was sent before it could be read; then there is room again."""
    async with weir(limits={"connections": 2}) as here:
        kept = [await Raw.connect(port(here)) for _ in range(2)]
        for client in kept:
            assert (await client.ask(post(body=chat()))).status == 200
        for _ in range(10):
            async with await Raw.connect(port(here)) as client:
                await client.send(post(body=chat()))
                answer = await client.answer()
                assert (answer.status, answer.error["code"]) == (503, "overloaded")
                assert answer.header(b"retry-after") == b"1"
                assert await client.closed()
        kept[0].close()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with await Raw.connect(port(here)) as client:
                    if (await client.ask(post(body=chat()))).status == 200:
                        break
        kept[1].close()


async def test_the_bound_holds_for_those_who_come_at_once(weir: Weir) -> None:
    """Thirty wait before a worker that didn't run: no more are let in than may be, and the others are told."""
    async with weir(limits={"connections": 5}) as here:
        (pid,) = [worker.pid for worker in here.supervisor.status().workers]
        os.kill(pid, signal.SIGSTOP)
        clients = [await Raw.connect(port(here)) for _ in range(30)]
        for client in clients:
            await client.send(get("/v1/models"))
        os.kill(pid, signal.SIGCONT)
        statuses = [(await client.answer("GET")).status for client in clients]
        assert set(statuses) == {200, 503}
        assert 5 <= statuses.count(200) < 10  # the event loop itself lets in one a turn, which counts a turn later
        for client in clients:
            client.close()


async def test_time_limits_come_from_the_deployment_file(weir: Weir) -> None:
    """Half a head is closed, half a body gets 408, an idle connection is closed."""
    timeouts = {"header_s": "1s", "body_idle_s": "200ms", "keep_alive_s": "200ms"}
    async with weir(timeouts=timeouts) as here:
        async with await Raw.connect(port(here)) as client:
            await client.send(b"GET / HT")
            assert await client.rest() == b""
        async with await Raw.connect(port(here)) as client:
            await client.send(post(body=chat())[:-1])
            assert (await client.answer()).status == 408
        async with await Raw.connect(port(here)) as client:
            assert (await client.ask(post(body=chat()))).status == 200
            assert await client.closed()


async def test_tls_on_the_data_port(weir: Weir, tmp_path: Path) -> None:
    """Answers, a stream, a body refused while it is sent, and plain HTTP on the TLS port."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    limits = {"body_bytes": "1 MiB"}
    async with weir(tls={"cert": str(certificate), "key": str(key)}, limits=limits) as here:
        context = authority.trusting()
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port(here), ssl=context)
            for body in (chat(), chat(True)):
                writer.write(post(body=body))
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                if b"chunked" in head:
                    await reader.readuntil(b"0\r\n\r\n")
                else:
                    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    await reader.readexactly(length)
            writer.write(post(body=b"x" * (8 << 20))[: 2 << 20])
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
            writer.close()
        async with await Raw.connect(port(here)) as plain:
            await plain.send(get())
            assert not (await plain.rest()).startswith(b"HTTP/1.1 200")
        old = ssl.create_default_context(cafile=str(authority.path))
        assert old.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_a_drain_lets_a_stream_end(weir: Weir) -> None:
    """A stream that runs is finished, an idle connection is closed at once, and the process ends."""
    async with weir() as here:
        async with await Raw.connect(port(here)) as idle, await Raw.connect(port(here)) as busy:
            assert (await idle.ask(get("/v1/models"))).status == 200
            await busy.send(post("/v1/chat/completions", chat(True), "x-sim-fault: stall:3:0.5"))
            await busy.read_until(b"data: ")
            here.supervisor.drain()
            assert await idle.closed()
            rest = await busy.rest()
            assert b"data: [DONE]" in rest
            assert rest.endswith(b"0\r\n\r\n")
        assert await asyncio.wait_for(here.task, PATIENCE_S) == 0


async def test_a_shed_connection_is_let_go() -> None:
    """A client that neither reads nor closes is cut after a second; one that closes is let go at once."""
    loop = asyncio.get_running_loop()
    made: list[Shed] = []

    def connected() -> Shed:
        made.append(Shed())
        return made[-1]

    server = await loop.create_server(connected, "127.0.0.1", 0)
    number = server.sockets[0].getsockname()[1]
    async with await Raw.connect(number) as client:
        assert (await client.answer()).status == 503
        assert await client.closed()
        await client.send(b"still here")
        async with asyncio.timeout(PATIENCE_S):
            with_end = made[0]._end
            assert with_end is not None
            while not with_end.cancelled() and loop.time() < with_end.when():
                await asyncio.sleep(0.05)
            while True:
                try:
                    await client.send(b"x")
                except OSError:
                    break
                await asyncio.sleep(0.01)
    server.close()
