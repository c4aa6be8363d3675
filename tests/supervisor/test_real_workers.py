"""The supervisor over real workers, a real configuration file and a real upstream: what operators rely on."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from proxy.admin.client import AdminClient
from proxy.admin.running import running_in
from proxy.clients.keys import KeyStore
from proxy.config import load
from proxy.supervisor.cards import compiled
from proxy.supervisor.plan import loader
from proxy.supervisor.service import WORKER
from tests.children import at_our_end
from tests.patience import PATIENCE_S
from tests.supervisor.conftest import Running, running, until

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Upstream:
    """Answers every chat at once, or, if the model is `slow`, when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.waiting = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)content-length: (\d+)", head)
                assert length is not None
                asked = json.loads(await reader.readexactly(int(length[1])))
                if asked["model"] == "slow":
                    self.waiting += 1
                    await self.go.wait()
                body = json.dumps({**ANSWER, "model": asked["model"]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n%s" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[Upstream, str]]:
    answering = Upstream()
    server = await asyncio.start_server(answering.serve, "127.0.0.1", 0)
    yield answering, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    answering.go.set()
    server.close()


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real rate cards, compiled once for all tests by the process that does it in production."""
    return asyncio.run(compiled(tmp_path_factory.mktemp("cards"), '{"prices": {}}'))


Serve = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def serve(tmp_path: Path, home: Path, upstream: tuple[Upstream, str], cards: Path) -> Serve:
    """Run a proxy on `weir.yaml`, which is reached by links as in Kubernetes."""

    async def compile(home: Path, prices: str) -> Path:
        return cards

    def serving(**settings: Any) -> AbstractAsyncContextManager[Running]:
        write(tmp_path / "v1", upstream[1], home, **settings)
        (tmp_path / "..data").symlink_to("v1")
        (tmp_path / "weir.yaml").symlink_to("..data/weir.yaml")
        read = loader(lambda: load(tmp_path / "weir.yaml", os.environ))
        return running(read(), read, command=WORKER, compile=compile)

    return serving


def write(directory: Path, url: str, home: Path, **settings: Any) -> None:
    directory.mkdir()
    file = {
        "version": 1,
        "listen": "127.0.0.1:0",
        "ops": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "home": str(home),
        "upstreams": {"up": {"url": url}},
        "models": {"*": {"upstream": "up"}},
        **settings,
    }
    (directory / "weir.yaml").write_text(json.dumps(file))  # JSON is YAML


class Client:
    """One keep-alive connection."""

    def __init__(self, address: str, key: str = "any") -> None:
        self.connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
        self.key = key

    async def chat(self, model: str = "m") -> int:
        """The status; raises what http.client raises when the connection is cut."""
        return (await asyncio.to_thread(self._chat, model)).status

    def _chat(self, model: str) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        self.connection.request("POST", "/v1/chat/completions", json.dumps({**CHAT, "model": model}), headers)
        answer = self.connection.getresponse()
        answer.read()
        return answer

    def close(self) -> None:
        self.connection.close()


async def test_kill_9_under_traffic_refuses_nobody(serve: Serve) -> None:
    """Workers die while clients send: who was on one connects again at once, and no connection is refused."""
    async with serve(workers=2) as here:
        done, cut, stop = 0, 0, False

        async def client() -> None:
            nonlocal done, cut
            one = Client(here.address)
            while not stop:
                try:
                    assert await one.chat() == 200
                    done += 1
                except ConnectionRefusedError:
                    raise
                except (http.client.HTTPException, ConnectionError):
                    cut += 1
                    one.close()
                    one = Client(here.address)
            one.close()

        clients = [asyncio.create_task(client()) for _ in range(4)]
        for kills in range(1, 4):
            seen = done
            await until(lambda seen=seen: done > seen + 20)
            os.kill(here.supervisor.status().workers[0].pid, signal.SIGKILL)
            await until(lambda kills=kills: here.supervisor.status().restarts == kills)
        await until(lambda: all(worker.ready for worker in here.supervisor.status().workers))
        stop = True
        await asyncio.gather(*clients)
        assert cut <= 3 * len(clients)
        assert here.supervisor.status().restarts == 3


async def test_counters_and_journal_outlive_a_killed_worker(serve: Serve) -> None:
    """What a worker counted and wrote before kill -9 is in the sum and in the journal."""
    async with serve() as here:
        client = Client(here.address)
        for _ in range(5):
            assert await client.chat() == 200
        client.close()
        await until(lambda: here.tells('outcome="complete",status="200"} 5.0'))
        os.kill(here.supervisor.status().workers[0].pid, signal.SIGKILL)
        await until(lambda: here.supervisor.status().restarts == 1 and here.supervisor.ready())
        client = Client(here.address)
        answer = await asyncio.to_thread(client._chat, "m")
        client.close()
        await until(lambda: here.tells('outcome="complete",status="200"} 6.0'))
        told = await here.supervisor.explain(str(answer.headers["x-weir-exchange"]), None)
        assert told is not None
        assert (told["state"], told["attempts"][0]["tokens"]["input_tokens"]) == ("ended", 5)


async def test_a_drain_finishes_the_running_exchange(serve: Serve, upstream: tuple[Upstream, str]) -> None:
    """The answer comes whole, idle connections close, new ones are refused, the status is 0."""
    async with serve() as here:
        idle, busy = Client(here.address), Client(here.address)
        assert await idle.chat() == 200
        slow = asyncio.create_task(busy.chat("slow"))
        await until(lambda: upstream[0].waiting == 1)
        here.supervisor.drain()
        await until(lambda: _closed(idle))
        assert not here.task.done()
        upstream[0].go.set()
        assert await slow == 200
        assert await asyncio.wait_for(here.task, PATIENCE_S) == 0
        idle.close()
        busy.close()


async def test_an_exchange_that_outlasts_the_drain_is_cut(serve: Serve, upstream: tuple[Upstream, str]) -> None:
    """Status 1 says so, and the journal has its end."""
    async with serve(timeouts={"drain_s": "200ms"}) as here:
        busy = Client(here.address)
        slow = asyncio.create_task(busy.chat("slow"))
        await until(lambda: upstream[0].waiting == 1)
        here.supervisor.drain()
        assert await asyncio.wait_for(here.task, PATIENCE_S) == 1
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            await slow
        busy.close()


async def test_a_swapped_link_changes_the_models_on_offer(
    serve: Serve, upstream: tuple[Upstream, str], tmp_path: Path, home: Path
) -> None:
    """The new file is in force in every worker, on connections that were open before, too."""
    async with serve(workers=2) as here:
        client = Client(here.address)
        assert await client.chat("m") == 200
        write(tmp_path / "v2", upstream[1], home, workers=2, models={"only-this": {"upstream": "up"}})
        (tmp_path / "..tmp").symlink_to("v2")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        await until(lambda: here.supervisor.upkeep.reloads == 1)
        assert len({worker.config_hash for worker in here.supervisor.status().workers}) == 1
        assert await client.chat("m") == 404
        assert await client.chat("only-this") == 200
        client.close()


async def test_a_broken_file_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    """Its place is logged; requests are answered as before."""
    async with serve() as here:
        (tmp_path / "v1" / "weir.yaml").write_text("version: 1\nupstreems: {}\n")
        await until(lambda: not here.supervisor.status().config_valid)
        client = Client(here.address)
        assert await client.chat() == 200
        client.close()
        problems = [line["problem"] for line in here.log("configuration")]
        assert any("weir.yaml:2:1" in problem and "upstreams" in problem for problem in problems)


async def test_a_revoked_key_is_refused_by_all_workers(serve: Serve, home: Path) -> None:
    """Made and revoked while it runs, with two workers and connections that stay open."""
    async with serve(workers=2, keys="required") as here:
        store = KeyStore(home)
        secret, record = await asyncio.to_thread(store.create, team="search")
        clients = [Client(here.address, secret) for _ in range(12)]

        async def all_get(status: int) -> bool:
            return {await client.chat() for client in clients} == {status}

        await until(lambda: all_get(200))
        await asyncio.to_thread(store.revoke, record.id)
        await until(lambda: all_get(401))
        for client in clients:
            client.close()


async def test_own_exchanges_and_usage_are_told_on_the_data_port(serve: Serve) -> None:
    """`GET /weir/exchanges/ID` and `/weir/me` read what the journal holds, for the own key only."""
    async with serve() as here:
        client = Client(here.address)
        answer = await asyncio.to_thread(client._chat, "m")
        exchange = answer.headers["x-weir-exchange"]
        status, told = await _get(here, f"/weir/exchanges/{exchange}", "any")
        assert (status, told["asked"], told["outcome"]) == (200, "m", "complete")
        assert (await _get(here, f"/weir/exchanges/{exchange}", "somebody-else"))[0] == 404
        assert (await _get(here, "/weir/me", "any"))[1]["usage"]["today"]["input_tokens"] == 5
        client.close()


async def _closed(client: Client) -> bool:
    """Whether the other end has closed: reading an idle connection gives the end instead of blocking."""
    client.connection.sock.setblocking(False)
    try:
        return client.connection.sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def _get(here: Running, path: str, key: str) -> tuple[int, Any]:
    def fetch() -> tuple[int, Any]:
        connection = http.client.HTTPConnection(here.address, timeout=PATIENCE_S)
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    return await asyncio.to_thread(fetch)


async def test_workers_outlive_a_killed_supervisor(upstream: tuple[Upstream, str], tmp_path: Path, home: Path) -> None:
    """`weir serve` is killed by kill -9: its workers answer, on the connection of before and on new ones."""
    write(tmp_path / "v1", upstream[1], home, workers=2)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli", "serve", "--config", str(tmp_path / "v1" / "weir.yaml")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        preexec_fn=at_our_end(signal.SIGTERM),
    )
    await until(lambda: running_in(home) is not None)
    status = await asyncio.to_thread(AdminClient(home).status)
    try:
        before = Client(status.listen[0])
        assert await before.chat() == 200
        process.kill()
        await process.wait()
        for client in (before, Client(status.listen[0]), Client(status.listen[0])):
            assert await client.chat() == 200
            client.close()
    finally:
        for worker in status.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM)
