"""The backends of the Store: each test of the contract runs over all of them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.state import servers
from tests.state.backends import BACKENDS, Backend

PROGRAMS = {
    "redis": (servers.redis_program, servers.running),
    "valkey": (servers.valkey_program, servers.cluster_of_one),
}


@pytest.fixture(scope="session")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], servers.Server]]:
    """One server of a kind for the whole run, started when first asked for."""
    started: dict[str, servers.Server] = {}
    with ExitStack() as stack:

        def server(kind: str) -> servers.Server:
            if kind not in started:
                directory = tmp_path_factory.mktemp(kind)
                try:
                    program, start = PROGRAMS[kind]
                    started[kind] = stack.enter_context(start(program(), directory))
                except servers.Unavailable as error:
                    pytest.skip(str(error))
            return started[kind]

        yield server


_prefixes = itertools.count()


@pytest.fixture(params=BACKENDS)
async def backend(
    request: pytest.FixtureRequest, tmp_path: Path, server_of: Callable[[str], servers.Server]
) -> AsyncIterator[Backend]:
    """A backend with nothing in it."""
    made = BACKENDS[request.param](tmp_path, server_of, f"test{next(_prefixes)}")
    async with made:
        yield made
