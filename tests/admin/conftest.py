"""A supervisor's double: what the listeners ask of it is remembered."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.admin import api, ops
from proxy.admin.operated import Reloaded, Status, WorkerStatus
from proxy.admin.site import Site
from proxy.clients.keys import KeyStore
from proxy.errors import WeirError
from proxy.supervisor.listeners import bind, name_of
from tests.patience import PATIENCE_S

TOKEN = "the-admin-token"


class Operated:
    def __init__(self) -> None:
        self.asked: list[object] = []
        self.is_ready = True
        self.outcome = Reloaded(True, "h2", True)
        self.bypassed = False

    def ready(self) -> bool:
        return self.is_ready

    def status(self) -> Status:
        return Status(
            version="1.2.3",
            pid=7,
            uptime_s=1.5,
            ready=self.is_ready,
            draining="drain" in self.asked,
            bypass=self.bypassed,
            config_hash="h1",
            config_valid=True,
            problems=(),
            home="/home",
            listen=("127.0.0.1:1",),
            ops=None,
            admin="127.0.0.1:2",
            workers_wanted=2,
            workers=(WorkerStatus(0, 8, True, "h1", 1.0), WorkerStatus(1, 9, False, None, 0.1)),
            restarts=0,
            keys=1,
        )

    async def metrics(self) -> bytes:
        return b"weir_up 1\n"

    async def reload(self, why: str) -> Reloaded:
        self.asked.append(why)
        return self.outcome

    def drain(self) -> None:
        self.asked.append("drain")

    def restart(self) -> bool:
        self.asked.append("restart")
        return self.asked.count("restart") == 1

    def bypass(self, on: bool) -> None:
        self.bypassed = on

    async def explain(self, exchange: str, tenant: str | None) -> Mapping[str, Any] | None:
        self.asked.append((exchange, tenant))
        return {"exchange": exchange} if exchange == "known" else None

    async def operate(self, use: str, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if use != "lens":
            raise WeirError(404, f"No policy `{use}`.", code="policy_not_found")
        return {"done": operation, **arguments}


class Listener:
    """A listener under test, and a client that sets exactly the headers that it is given."""

    def __init__(self, address: str, operated: Operated, home: Path) -> None:
        self.address, self.operated, self.home = address, operated, home

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        status, _, content = await asyncio.to_thread(self._ask, method, path, headers or {}, body)
        return status, json.loads(content)

    async def raw(self, method: str, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        return await asyncio.to_thread(self._ask, method, path, {}, None)

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_S)
        try:
            content = body if isinstance(body, str | None) else json.dumps(body)
            connection.request(method, path, content, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Listener]:
    operated, sockets = Operated(), bind(["127.0.0.1:0"])
    site = Site(api.application(operated, TOKEN, KeyStore(tmp_path)), sockets)
    await site.start()
    yield Listener(name_of(sockets[0]), operated, tmp_path)
    await site.close()


@pytest.fixture
async def operations(tmp_path: Path) -> AsyncIterator[Listener]:
    operated, sockets = Operated(), bind(["127.0.0.1:0"])
    site = Site(ops.application(operated), sockets)
    await site.start()
    yield Listener(name_of(sockets[0]), operated, tmp_path)
    await site.close()
