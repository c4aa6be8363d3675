"""The data plane under the guard: the one place that knows which classes of the proxy a worker is made of.

It is built as `proxy.worker` builds it, from a configuration and rate cards that were prepared beforehand, as the
supervisor prepares them; only the sockets, the control channel and the clock of the loop are not the real ones.
"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

from proxy.config import Configuration, load
from proxy.dataplane import DataPlane
from proxy.journal import Journal
from proxy.metrics import Metrics
from proxy.pricing import RateCards
from proxy.wire.call import ServerLimits
from proxy.wire.connect import Connector, Resolver
from proxy.wire.server import ServerConnection
from proxy.wire.ticker import Ticker

_FILE = """
version: 1
upstreams:
  up: {url: "http://127.0.0.1:9/v1", provider: openai}
models:
  "*": {upstream: up}
"""
_CACHING = """
policies:
  - use: cache
    exact: {sampled: true}
"""
_CONFIGURATIONS, _CARDS = {False: "configuration.json", True: "caching.json"}, "cards"
_numbers = itertools.count()


def prepare(directory: Path) -> None:
    """Write what every data plane of a run is made from: the slow part, done once."""
    (directory / "policies.yaml").write_text(f"version: 1{_CACHING}")
    for cached, name in _CONFIGURATIONS.items():
        (directory / "weir.yaml").write_text(_FILE + "policies: policies.yaml\n" * cached)
        (directory / name).write_text(load(directory / "weir.yaml", {}).model_dump_json())
    (directory / _CARDS).write_bytes(RateCards.compile().to_bytes())


class Plane:
    """A worker without its sockets."""

    def __init__(self, directory: Path, cached: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._ticker = Ticker(self._loop)
        self._resolver = Resolver()
        self._connections: set[ServerConnection] = set()
        number = next(_numbers)
        self._plane = DataPlane(
            Configuration.model_validate_json((directory / _CONFIGURATIONS[cached]).read_text()),
            journal=Journal(directory / f"journal-{number}", number),
            metrics=Metrics(),
            keys=[],
            cards=RateCards.from_bytes((directory / _CARDS).read_bytes()),
            connector=Connector(self._resolver),
            ticker=self._ticker,
            env={},
            lookup=self._lookup,
            log=self._log,
        )

    def connection(self) -> asyncio.Protocol:
        """The protocol of a new client connection."""
        return ServerConnection(self._plane, ServerLimits(), self._ticker, self._connections)

    async def warm(self) -> None:
        self._plane.generations.warm()

    async def close(self) -> None:
        """End what runs; nothing is left on the loop."""
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)
        await self._plane.aclose()
        await asyncio.sleep(0)
        self._plane.journal.close()
        self._ticker.close()
        self._resolver.close()

    def _lookup(self, kind: str, **_: Any) -> asyncio.Future[dict[str, Any] | None]:
        raise AssertionError(f"the guard's requests need no {kind} from a supervisor")

    def _log(self, level: str, event: str, **fields: Any) -> None:
        if level == "error":
            raise AssertionError(f"{event}: {fields}")


async def make(directory: Path, *, cached: bool = False) -> Plane:
    """The data plane on the running loop; `cached`: with a cache."""
    plane = Plane(directory, cached)
    await plane.warm()
    return plane
