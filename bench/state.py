"""What a reservation in the state process costs: `python -m bench.state`.

Pairs of reserve and close over three scopes, through the socket, with the file behind it: by one client with 1 and 64
pairs under way, then by four processes with 16 each. Also how long the process takes to start, what memory it takes
for itself (PSS), and its CPU for a pair.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from proxy.state.client import SocketStore
from proxy.state.opening import socket_path
from proxy.state.protocol import Granted, Hold, Part, Scope, StateLost
from proxy.supervisor.proc import usage_of

SCOPES = [Scope(f"usd:{who}", 10**15) for who in ("key", "team", "org")]
BOUND_S = 10.0


@dataclass
class Result:
    """One client's pairs: microseconds."""

    in_flight: int
    pair_us: float
    reserve_p50_us: float
    reserve_p99_us: float


async def load(path: Path, in_flight: int, pairs: int, name: str) -> Result:
    """Makes so many pairs, some at a time."""
    store, took_us = SocketStore(path, BOUND_S), []
    await store.ping()

    async def one(lane: int) -> None:
        for number in range(pairs // in_flight):
            id = f"{name}-{lane}-{number}"
            began = time.perf_counter()
            answer = await store.reserve(Hold(id, "bench/0/0", 0, tuple(Part(scope, 5) for scope in SCOPES)))
            took_us.append((time.perf_counter() - began) * 1e6)
            assert isinstance(answer, Granted)
            await store.close(id, (4, 4, 4))

    began = time.perf_counter()
    await asyncio.gather(*(one(lane) for lane in range(in_flight)))
    whole_us = (time.perf_counter() - began) * 1e6
    await store.aclose()
    took_us.sort()
    at = len(took_us)
    return Result(in_flight, whole_us / at, took_us[at // 2], took_us[at * 99 // 100])


async def measure(url: str, pairs: int) -> None:
    """Everything, against a process of its own."""
    with tempfile.TemporaryDirectory() as home:
        path = socket_path(Path(home))
        began = time.perf_counter()
        options = ["--state", url, "--home", home, "--socket", str(path)]
        process = subprocess.Popen([sys.executable, "-m", "proxy.state.process", *options])
        try:
            await _up(path)
            pss = _pss_bytes(process.pid) / 2**20
            print(f"start {time.perf_counter() - began:.2f} s, PSS {pss:.1f} MiB ({url})")
            for in_flight in (1, 64):
                _print("one client", await load(path, in_flight, pairs, f"one-{in_flight}"))
            before_s, _ = usage_of(process.pid)
            for result in await _clients(path, pairs):
                _print("of four clients", result)
            used_us = (usage_of(process.pid)[0] - before_s) * 1e6 / (4 * pairs)
            print(f"CPU of the state process: {used_us:.0f} us a pair, with four clients")
        finally:
            process.terminate()
            process.wait()


async def _clients(path: Path, pairs: int) -> list[Result]:
    command = [sys.executable, "-m", "bench.state", "--client", str(path), "--pairs", str(pairs)]
    running = [subprocess.Popen([*command, "--name", str(i)], stdout=subprocess.PIPE) for i in range(4)]
    outputs = await asyncio.gather(*(asyncio.to_thread(one.communicate) for one in running))
    return [msgspec.json.decode(output, type=Result) for output, _ in outputs]


async def _up(path: Path) -> None:
    store = SocketStore(path)
    for _ in range(2000):
        try:
            await store.ping()
            break
        except StateLost:
            await asyncio.sleep(0.01)
    await store.aclose()


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _print(who: str, result: Result) -> None:
    print(
        f"{who}, {result.in_flight} in flight: {result.pair_us:.0f} us a pair; "
        f"reserve p50 {result.reserve_p50_us:.0f} us, p99 {result.reserve_p99_us:.0f} us",
        flush=True,
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="bench.state", description=__doc__)
    parser.add_argument("--state", default="sqlite:///state.db")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--client", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client is not None:
        result = uvloop.run(load(options.client, 16, options.pairs, f"client-{options.name}"))
        sys.stdout.buffer.write(msgspec.json.encode(result))
        return
    uvloop.run(measure(options.state, options.pairs))


if __name__ == "__main__":
    main()
