"""What a reservation costs on the path of a request, timed around the budget's guard in the workers themselves.

Far from the limit it comes from a lease; there the workers are kept as busy as leaves two cores room for the ingest,
which waits for theirs (decision 100), so that it is the guard that is timed and not how long a core takes to find its
way back from sleep. Near it (so that no lease is drawn, but nobody has to wait) each one is exact, and made by the
state process or by Redis. Then both again while the same Weir ingests 20,000 records a second.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from bench.money import backends, leased, stopwatch
from bench.money.kinds import Kind, bound
from bench.money.load import Load
from bench.money.world import ROOT, Setup, Weir, world
from bench.quantiles import percentile
from bench.results import Row, judged, skipped

P50_US, P99_US, SLOWER = 5.0, 1000.0, 2.0
RATE: Final = 20_000
CLIENTS: Final = 8
_KIND: Final = Kind("small", "gpt-4o-mini", cap=16_000)
_PACE: Final = {True: ("--unary", "0ms"), False: ("--unary", "lognormal(20ms, 0.3)")}  # with leases, without
_NEAR: Final = 40  # reservations that fit at once: fewer than 64 (no lease of 4 workers), more than there are clients


@dataclass(frozen=True, slots=True)
class Seen:
    """Microseconds."""

    samples: int
    p50_us: float
    p99_us: float

    def __str__(self) -> str:
        return f"p50 {self.p50_us:.1f} µs, p99 {self.p99_us:.0f} µs"


def rows(directory: Path, *, quick: bool) -> Iterator[Row]:
    """With leases, and near the limit, each alone and beside the ingest."""
    seconds = 5.0 if quick else 20.0
    far = f"{1_000_000} USD/month"
    near = f"{_NEAR * bound(_KIND.model, 16_000) / 1e9:.9f} USD/month"
    p50_us, p99_us = leased.median_us(5_000 if quick else 50_000)
    yield judged(
        "reservation with leases, the guard alone",
        f"p50 <= {P50_US:.0f} µs",
        f"p50 {p50_us:.1f} µs, p99 {p99_us:.0f} µs",
        p50_us <= P50_US,
        "in one process, call by call",
    )
    yield from _both(directory / "leases", "sqlite", "with leases", far, seconds)
    for backend in backends.BACKENDS:
        yield from _both(directory / f"near-{backend}", backend, f"near the limit, {backend}", near, seconds)


def _both(directory: Path, backend: str, name: str, limit: str, seconds: float) -> Iterator[Row]:
    times, target = directory / "times", f"p50 <= {P50_US:.0f} µs" if "leases" in name else f"p99 <= {P99_US:.0f} µs"
    times.mkdir(parents=True)
    try:
        with backends.state(backend, directory / "redis") as url:
            watch = f"{{use: stopwatch, directory: {times}}}"
            setup = Setup(policies=f"[{{use: budget, name: all, limit: {limit}}}, {watch}]", state=url)
            with world(directory, setup, *_PACE["leases" in name]) as (_, weir):
                spans = uvloop.run(_spans(weir, seconds, 0.005 if "leases" in name else 0.01))
    except backends.MissingError as error:
        yield skipped(f"reservation, {name}", target, str(error))
        return
    alone, beside = (_seen(stopwatch.read(times, *span[:2])) for span in spans)
    leases, note = "leases" in name, f"{alone.samples} reservations, 4 workers"
    if leases:  # what is judged is the guard alone; here the caches are cold, and workers take turns on the cores
        yield Row("reservation with leases, in workers", "", str(alone), "-", note)
    else:
        yield judged(f"reservation, {name}", target, str(alone), alone.p99_us <= P99_US, note)
    ratio = beside.p50_us / alone.p50_us if leases else beside.p99_us / alone.p99_us
    events, took_s = spans[1][2], (spans[1][1] - spans[1][0]) / 1e9
    yield judged(
        f"reservation beside the ingest, {name}",
        f"no worse than {SLOWER:.0f}x at {RATE} records/s",
        f"{ratio:.2f}x: {beside}",
        ratio <= SLOWER and events / took_s >= 0.9 * RATE,
        f"{events / took_s:.0f} records/s written and ingested; p50 {beside.p50_us / alone.p50_us:.2f}x, "
        f"p99 {beside.p99_us / alone.p99_us:.2f}x",
    )


def _seen(samples: list[float]) -> Seen:
    return Seen(len(samples), percentile(samples, 50), percentile(samples, 99))


Span = tuple[int, int, int]
"""From, until (nanoseconds, monotonic), and how many records the ledger took in meanwhile."""


async def _spans(weir: Weir, seconds: float, pause_s: float) -> list[Span]:
    """One alone, one with a growing journal."""
    command = [sys.executable, "-m", "bench.money.feed", str(weir.home), str(RATE), str(seconds + 2)]
    load = Load((_KIND,), longest=20, pause_s=pause_s)
    feed = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert feed.stdin is not None
    assert feed.stdout is not None
    spans: list[Span] = []
    try:
        await asyncio.to_thread(feed.stdout.readline)
        running = asyncio.create_task(load.run(CLIENTS, weir.url, 2 * seconds + 8), name="load")
        await asyncio.sleep(3)
        spans.append(await _span(weir, seconds))
        feed.stdin.write("\n")
        feed.stdin.flush()
        await asyncio.sleep(1.5)
        spans.append(await _span(weir, seconds))
        await running
    finally:
        feed.kill()
        feed.wait()
    return spans


async def _span(weir: Weir, seconds: float) -> Span:
    start, before = time.perf_counter_ns(), await asyncio.to_thread(_ingested, weir)
    await asyncio.sleep(seconds)
    after = await asyncio.to_thread(_ingested, weir)
    return start, time.perf_counter_ns(), after - before


def _ingested(weir: Weir) -> int:
    """Records in the ledger, by the metric."""
    return weir.metric("weir_ledger_events_total")
