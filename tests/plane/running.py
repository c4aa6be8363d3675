"""A data plane with its whole surroundings in one loop: its listener, the supervisor's files, a simulated provider."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from proxy import journal as journals
from proxy.clients.keys import KeyRecord
from proxy.config import Configuration, PolicyEntry
from proxy.config.deployment import DeploymentFile
from proxy.config.policies import Honour
from proxy.dataplane import DataPlane
from proxy.journal import Journal
from proxy.metrics import Metrics
from proxy.pricing import RateCards
from proxy.state.protocol import Store
from proxy.supervisor.lookups import Lookups
from proxy.wire.connect import Connector, Resolver
from proxy.wire.server import ServerConnection
from proxy.wire.ticker import Ticker
from proxy.worker import limits_of
from tests.patience import PATIENCE_S
from tests.wire.raw import Answer, Raw, chat, get, post

UPSTREAM_KEY = "sk-upstream-canary-7d1f"
TICK_S = 0.01


def key(secret: str, id: str = "key-1", **fields: Any) -> KeyRecord:
    """A virtual key's record."""
    return KeyRecord(id=id, sha256=hashlib.sha256(secret.encode()).hexdigest(), **fields)


def entry(use: str, line: int = 1, **fields: Any) -> PolicyEntry:
    """A policy of the chain, as the files would give it; what isn't of the envelope is the policy's own option."""
    own = {name: fields.pop(name) for name in list(fields) if name not in PolicyEntry.model_fields}
    values = {"name": use, "source": f"policies.yaml:{line}", **fields}
    return PolicyEntry.model_validate({"use": use, **values, "options": {**own, **fields.get("options", {})}})


def configuration(
    upstreams: Mapping[str, Mapping[str, Any]],
    home: Path,
    policies: Iterable[PolicyEntry] = (),
    bypass: tuple[str, ...] = (),
    **deployment: Any,
) -> Configuration:
    """A resolved configuration, without files."""
    file = {"version": 1, "home": home, "upstreams": upstreams, **deployment}
    if "models" not in file:
        file["models"] = {"*": {"upstream": next(iter(upstreams))}}
        if "claude" in upstreams:
            file["models"]["claude*"] = {"upstream": "claude"}
    entries = tuple(policies)
    return Configuration(
        deployment=DeploymentFile.model_validate(file),
        policies=entries,
        honour=Honour(bypass=bypass),
        hash=str(len(entries)),
        policy_hash=hashlib.sha256(repr(entries).encode()).hexdigest()[:16],
    )


def upstream(url: str, **fields: Any) -> dict[str, Any]:
    """An upstream with a key of ours, whose prices are OpenAI's."""
    return {
        "url": url,
        "key": {"env": "UP", "value": UPSTREAM_KEY},
        "provider": "openai",
        "pool": {"warm": 0},
        **fields,
    }


@dataclass
class Plane:
    """A running data plane and the port that it answers on."""

    port: int
    plane: DataPlane
    metrics: Metrics
    home: Path
    connections: set[ServerConnection]
    remake: Callable[..., Configuration]
    logged: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    async def connect(self, **options: Any) -> Raw:
        return await Raw.connect(self.port, **options)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def send(self, data: bytes, method: str = "POST") -> Answer:
        """One request on a connection of its own."""
        async with await self.connect() as client:
            return await client.ask(data, method)

    async def chat(self, *lines: str, fault: str = "", stream: bool = False, **fields: Any) -> Answer:
        """One chat request on a connection of its own."""
        return await self.send(post("/v1/chat/completions", chat(stream, **fields), *_lines(lines, fault)))

    async def post(self, path: str, fields: Mapping[str, Any], *lines: str, fault: str = "") -> Answer:
        """One JSON request on a connection of its own."""
        return await self.send(post(path, orjson.dumps(fields), *_lines(lines, fault)))

    async def get(self, path: str, *lines: str, method: str = "GET") -> Answer:
        """One request without a body on a connection of its own."""
        return await self.send(get(path, *lines, method=method), method)

    def journal(self, event: str | None = None) -> list[dict[str, Any]]:
        """The records on disk, all or of one kind, in the order of writing."""
        records = [record for path in journals.segments(self.home) for record in journals.read(path)]
        return records if event is None else [record for record in records if record["event"] == event]

    def settled(self) -> dict[str, Any]:
        """The only attempt's account."""
        (only,) = self.journal("settled")
        return only

    def ended(self) -> dict[str, Any]:
        """The only exchange's end."""
        (only,) = self.journal("ended")
        return only

    async def quiet(self, within_s: float = PATIENCE_S) -> None:
        """Waits until no exchange runs and no background work is left; fails if that doesn't come."""
        deadline = asyncio.get_running_loop().time() + within_s
        while self.plane.metrics.gauges.exchanges or self.plane.tasks.running:
            assert asyncio.get_running_loop().time() < deadline, (
                f"{self.plane.metrics.gauges.exchanges} exchanges and {self.plane.tasks.running} still run"
            )
            await asyncio.sleep(0.002)

    def reused(self) -> int:
        """Upstream connections that are busy: open, but not idle."""
        return sum(
            sum(connection._busy for connection in upstream.pool._open)
            for upstream in self.plane.generations.upstreams.values()
        )


def _lines(lines: tuple[str, ...], fault: str) -> list[str]:
    return [*lines, f"x-sim-fault: {fault}"] if fault else list(lines)


@asynccontextmanager
async def running(
    url: str,
    directory: Path,
    policies: Iterable[PolicyEntry] = (),
    registry: Mapping[str, Any] | None = None,
    keys: Iterable[KeyRecord] = (),  # with any, they are required
    cards: RateCards | None = None,
    store: Store | None = None,
    **settings: Any,
) -> AsyncIterator[Plane]:
    """A data plane whose upstream is at `url`; `settings` are of the deployment file, `upstream` of its upstream."""
    loop, home = asyncio.get_running_loop(), directory / "home"
    given = {"url": url, **settings.pop("upstream", {})}
    upstreams = settings.pop("upstreams", None) or {
        "up": upstream(**given),
        "claude": upstream(**{"auth": "x-api-key", "provider": "anthropic", **given}),
    }

    def remake(policies: Iterable[PolicyEntry] = policies, **changed: Any) -> Configuration:
        return configuration(upstreams, home, policies, **{**settings, **changed})

    if (keys := list(keys)) and "keys" not in settings:
        settings["keys"] = "required"
    made = remake()
    ticker, metrics, lookups = Ticker(loop, TICK_S), Metrics(), Lookups(home)
    journal = Journal(home / "journal", 0)
    logged: list[tuple[str, str, dict[str, Any]]] = []

    def log(level: str, event: str, **fields: Any) -> None:
        logged.append((level, event, fields))

    def lookup(kind: str, **question: Any) -> asyncio.Future[Any]:
        return loop.create_task(lookups.answer({"kind": kind, **question}), name="lookup")

    found = None if registry is None else {name: _loader(module) for name, module in registry.items()}
    plane = DataPlane(
        made,
        journal=journal,
        metrics=metrics,
        keys=keys,
        cards=cards,
        connector=Connector(Resolver()),
        ticker=ticker,
        env={},
        lookup=lookup,
        log=log,
        registry=found,
        store=store,
    )
    connections: set[ServerConnection] = set()
    limits = limits_of(made.deployment)
    server = await loop.create_server(
        lambda: ServerConnection(plane, limits, ticker, connections), "127.0.0.1", 0, backlog=1024
    )
    try:
        yield Plane(server.sockets[0].getsockname()[1], plane, metrics, home, connections, remake, logged)
    finally:
        server.close()
        for connection in list(connections):
            connection.abort()
        await asyncio.sleep(0)
        await plane.aclose()
        journal.close()
        ticker.close()
        await lookups.close()


def _loader(module: Any) -> Callable[[], Any]:
    return lambda: module
