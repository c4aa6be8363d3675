"""A worker with few descriptors refuses new clients before it has none left for those that it has."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from proxy.config import load
from proxy.supervisor.plan import loader
from proxy.supervisor.service import WORKER
from tests.patience import PATIENCE_S
from tests.supervisor.conftest import running
from tests.supervisor.test_real_workers import CHAT, Upstream, cards, upstream, write

__all__ = ["cards", "upstream"]

FEW = ("sh", "-c", 'ulimit -n 140; exec "$@"', "sh", *WORKER)


async def test_clients_are_refused_before_descriptors_run_out(
    tmp_path: Path, home: Path, upstream: tuple[Upstream, str], cards: Path
) -> None:
    """Sixty clients connect: each gets an answer, the first ones their upstream's, the others 503; nobody is reset."""

    async def compile(home: Path, prices: str) -> Path:
        return cards

    patient: dict[str, Any] = {"timeouts": {"header_s": PATIENCE_S}, "overload": {"lag_s": PATIENCE_S}}
    write(tmp_path / "v1", upstream[1], home, **patient)  # descriptors alone refuse anybody
    read = loader(lambda: load(tmp_path / "v1" / "weir.yaml", os.environ))
    async with running(read(), read, command=FEW, compile=compile) as here:
        host, port = here.address.split(":")
        clients = [await asyncio.open_connection(host, int(port)) for _ in range(60)]
        body = json.dumps(CHAT).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: weir\r\nContent-Length: {len(body)}\r\n"
        request = f"{head}Content-Type: application/json\r\n\r\n".encode() + body

        async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
            writer.write(request)
            return (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S))[:12]

        answers = await asyncio.gather(*(ask(*client) for client in clients))
        served, refused = answers.count(b"HTTP/1.1 200"), answers.count(b"HTTP/1.1 503")
        assert served + refused == 60
        assert 30 <= served < 60
        for _, writer in clients:
            writer.close()
        late = await asyncio.open_connection(host, int(port))
        assert await ask(*late) in (b"HTTP/1.1 200", b"HTTP/1.1 503")
        late[1].close()
        assert here.supervisor.status().restarts == 0
