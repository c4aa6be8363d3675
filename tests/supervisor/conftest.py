"""A supervisor over fake workers, in this process, on ports that the kernel chooses."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.logs import Log
from proxy.supervisor.plan import LoadError, Plan
from proxy.supervisor.service import Supervisor
from tests.children import tied
from tests.patience import PATIENCE_S

FAKE_WORKER = (sys.executable, "-m", "tests.supervisor.fake_worker")


def plan(home: Path, **changed: Any) -> Plan:
    """A plan whose configuration fake workers understand; `configuration` adds to it."""
    configuration = {"hash": "h1", **changed.pop("configuration", {})}
    usual = Plan(
        hash=configuration["hash"],
        text=json.dumps(configuration),
        home=home,
        listen=("127.0.0.1:0",),
        ops="127.0.0.1:0",
        admin="127.0.0.1:0",
        drain_s=PATIENCE_S,
        log_form="json",
    )
    return replace(usual, **changed)


async def no_cards(home: Path, prices: str) -> Path:
    return home / "cards-test.bin"


class Running:
    """A supervisor that serves, and the means to look at it from outside."""

    def __init__(self, supervisor: Supervisor, logged: io.StringIO) -> None:
        self.supervisor = supervisor
        self.logged = logged
        self.task: asyncio.Task[int]

    @property
    def address(self) -> str:
        """The data port."""
        return self.supervisor.status().listen[0]

    def log(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.logged.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def ask(self, path: str = "/") -> dict[str, Any]:
        """One request on a new connection to the data port."""
        answer: dict[str, Any] = (await self.get(self.address, path))[1]
        return answer

    async def ops(self, path: str) -> tuple[int, Any]:
        return await self.get(str(self.supervisor.status().ops), path)

    async def tells(self, *lines: str) -> bool:
        """Whether `/metrics` has all of these. It may not yet: a worker that answers late counts as it last did."""
        text = (await self.ops("/metrics"))[1]
        return all(line in text for line in lines)

    async def get(self, address: str, path: str) -> tuple[int, Any]:
        def fetch() -> tuple[int, Any]:
            connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read()
                is_json = not answer.headers.get("content-type", "").startswith("text/plain")
                return answer.status, json.loads(body) if is_json else body.decode()
            finally:
                connection.close()

        return await asyncio.to_thread(fetch)


async def until(holds: Callable[[], bool] | Callable[[], Awaitable[bool]], within_s: float = PATIENCE_S) -> None:
    """Polls until it holds; fails the test if it doesn't in time."""
    deadline_s = time.monotonic() + within_s
    while True:
        found = holds()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline_s, "it didn't come to hold in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(first: Plan, load: Callable[[], Plan] | None = None, **options: Any) -> AsyncIterator[Running]:
    """Start, wait until ready, in the end stop."""
    logged = io.StringIO()
    supervisor = Supervisor(
        first,
        load or (lambda: first),
        log=Log("json", "debug", stream=logged),
        command=tied(options.pop("command", FAKE_WORKER)),
        compile=options.pop("compile", no_cards),
        **options,
    )
    here = Running(supervisor, logged)
    here.task = asyncio.create_task(supervisor.run())
    try:
        await until(lambda: supervisor.ready() or here.task.done())
        assert supervisor.ready(), logged.getvalue()
        yield here
    finally:
        supervisor.drain()
        supervisor.drain()
        await asyncio.wait_for(here.task, PATIENCE_S)


def broken(*problems: str) -> LoadError:
    return LoadError(problems)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"
