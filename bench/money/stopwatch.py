"""A policy that times the guards of all layers outside of it, in the worker that serves the requests.

Each sample is two 64-bit numbers in the file `<pid>` of its directory: when the guard was asked, and how long it took,
in nanoseconds of the machine's monotonic clock.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from time import perf_counter_ns
from typing import Final

from pydantic import BaseModel, ConfigDict

from proxy.chain import Services
from proxy.exchange import Attempt, Forward, Guard, Request, Settle
from proxy.response import Response

_AT_ONCE: Final = 512  # samples kept before they are written


class Config(BaseModel):
    """Where the samples go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: str


class Stopwatch:
    """The layer."""

    def __init__(self, config: Config) -> None:
        self._path = Path(config.directory) / str(os.getpid())
        self._taken = array("q")

    async def __call__(self, request: Request, forward: Forward) -> Response:
        guards = request.exchange.guards
        guards[:] = [self._timed(guard) for guard in guards]
        return await forward(request)

    def _timed(self, guard: Guard) -> Guard:
        async def timed(attempt: Attempt) -> Settle | None:
            start = perf_counter_ns()
            settle = await guard(attempt)
            taken = self._taken
            taken.append(start)
            taken.append(perf_counter_ns() - start)
            if len(taken) >= 2 * _AT_ONCE:
                self._write()
            return settle

        return timed

    def _write(self) -> None:
        with self._path.open("ab") as file:
            self._taken.tofile(file)
        del self._taken[:]

    async def aclose(self) -> None:
        """Writes what is left."""
        self._write()


def build(config: Config, services: Services) -> Stopwatch:
    """The policy for one entry of a policy file."""
    return Stopwatch(config)


def read(directory: Path, since_ns: int, until_ns: int) -> list[float]:
    """What guards took in a span of time, in microseconds."""
    found: list[float] = []
    for path in directory.iterdir():
        numbers = array("q", path.read_bytes())
        found += [t / 1000 for at, t in zip(numbers[::2], numbers[1::2], strict=True) if since_ns <= at < until_ns]
    return found
