"""The real data plane behind real connections, in the test's own process and loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from proxy import journal as journals
from proxy.clients.keys import KeyRecord
from proxy.config import load
from proxy.dataplane import DataPlane
from proxy.journal import Journal
from proxy.metrics import Metrics
from proxy.wire.connect import Connector, Resolver
from proxy.wire.server import ServerConnection
from proxy.wire.ticker import Ticker
from proxy.worker import limits_of
from tests.wire.raw import Raw

UPSTREAM_SECRET = "sk-upstream-secret"
SECRET = "wk-the-only-key-that-opens-this-door"


@dataclass
class Plane:
    """A data plane and the port that it answers on."""

    port: int
    plane: DataPlane
    metrics: Metrics
    home: Path
    connections: set[ServerConnection]
    logged: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    async def connect(self, **options: Any) -> Raw:
        return await Raw.connect(self.port, **options)

    def journal(self) -> list[dict[str, Any]]:
        """All records so far."""
        self.plane.journal.flush()
        found: list[dict[str, Any]] = []
        for path in sorted((self.home / "journal").glob("*.journal")):
            found.extend(journals.read(path))
        return found


def record(secret: str = SECRET, **fields: Any) -> KeyRecord:
    """A virtual key's record."""
    values: dict[str, Any] = {"id": "key-1", "org": "acme", "team": "search", **fields}
    return KeyRecord(sha256=hashlib.sha256(secret.encode()).hexdigest(), **values)


@asynccontextmanager
async def plane(
    url: str, directory: Path, records: list[KeyRecord] | None = None, tick_s: float = 0.02, **settings: Any
) -> AsyncIterator[Plane]:
    """A data plane whose only upstream is at `url`; `settings` are of the deployment file."""
    home = directory / "home"
    file = {
        "version": 1,
        "home": str(home),
        "upstreams": {"up": {"url": url, "key": "${UPSTREAM_KEY}", **settings.pop("upstream", {})}},
        "models": {"*": {"upstream": "up"}},
        **settings,
    }
    path = directory / "weir.yaml"
    path.write_bytes(orjson.dumps(file))  # JSON is YAML
    configuration = load(path, {"WEIR_HOME": str(home), "UPSTREAM_KEY": UPSTREAM_SECRET})
    loop = asyncio.get_running_loop()
    ticker, metrics = Ticker(loop, tick_s), Metrics()
    logged: list[tuple[str, str, dict[str, Any]]] = []

    def log(level: str, event: str, **fields: Any) -> None:
        logged.append((level, event, fields))

    def lookup(kind: str, **question: Any) -> asyncio.Future[dict[str, Any] | None]:
        told: asyncio.Future[dict[str, Any] | None] = loop.create_future()
        told.set_result(None)
        return told

    journal = Journal(home / "journal", 0)
    made = DataPlane(
        configuration,
        journal=journal,
        metrics=metrics,
        keys=[record()] if records is None else records,
        cards=None,
        connector=Connector(Resolver()),
        ticker=ticker,
        env={},
        lookup=lookup,
        log=log,
    )
    server_limits = limits_of(configuration.deployment)
    connections: set[ServerConnection] = set()

    def connected() -> ServerConnection:
        return ServerConnection(made, server_limits, ticker, connections)

    server = await loop.create_server(connected, "127.0.0.1", 0)
    try:
        yield Plane(server.sockets[0].getsockname()[1], made, metrics, home, connections, logged)
    finally:
        server.close()
        for connection in list(connections):
            connection.abort()
        await made.aclose()
        journal.close()
        ticker.close()
