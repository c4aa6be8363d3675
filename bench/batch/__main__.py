"""`make bench-batch`: what one call for many costs and brings, against its targets. Exit status 1 if one was missed.

`--quick` makes the simulated day a small one.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import uvloop
from rich.console import Console

from bench import machine, runner
from bench.batch import chunks, day, embeddings, identical, lone
from bench.results import Row, judged

ALONE_NS, BATCH_ALONE_NS, CHUNK = 5_000, 50_000, 1.2


async def rows(quick: bool) -> list[Row]:
    """Every number in turn."""
    gc.collect()
    gc.freeze()
    found = await identical.measure()
    told = [
        judged(
            f"{identical.CLIENTS} identical requests at once, {form}",
            "1 call, all answers right",
            f"{calls} call, {right} right",
            (calls, right) == (1, identical.CLIENTS),
        )
        for form, (calls, right) in found.items()
    ]
    alone = await lone.measure()
    for layer, most_ns in (("coalesce", ALONE_NS), ("microbatch", BATCH_ALONE_NS)):
        for size, ns in alone[layer].items():
            name = f"{layer}: a request without company, {size} bytes"
            told.append(judged(name, f"<= {most_ns / 1000:g} µs", f"{ns / 1000:.1f} µs", ns <= most_ns))
    chunk = await chunks.measure()
    ratio = chunk["follower_ns"] / chunk["plain_ns"]
    told.append(
        judged("coalesce: a follower's chunk against a plain one", f"<= {CHUNK}x", f"{ratio:.2f}x", ratio <= CHUNK)
    )
    vectors = await embeddings.measure()
    free, tight = vectors["unbounded"], vectors["four at once"]
    told += [
        judged(
            "embeddings, 64 clients: upstream calls",
            ">= 10x fewer",
            f"{free['fewer_calls']}x",
            free["fewer_calls"] >= 10,
        ),
        judged("embeddings, 64 clients: p50", "<= 1.5x", f"{free['p50_ratio']}x", free["p50_ratio"] <= 1.5, **free),
        judged("the same, four at once: p50", "<= 0.2x", f"{tight['p50_ratio']}x", tight["p50_ratio"] <= 0.2, **tight),
    ]
    return told + _day(await day.measure(day.JOBS if not quick else 500))


def _day(seen: dict[str, Any]) -> list[Row]:
    """The simulated day of deferred requests."""
    exact = [
        judged(f"a day of {seen['accepted']} deferred requests: {name}", "0", str(seen[name]), seen[name] == 0)
        for name in ("lost", "run twice", "not booked", "booked twice", "late")
    ]
    saved = seen["saved"]
    return [*exact, judged("the same: saved against synchronous", ">= 45 %", f"{saved:.1%}", saved >= 0.45, **seen)]


def main() -> int:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    uvloop.install()
    made = asyncio.run(rows("--quick" in sys.argv))
    return runner.finished("batch", made, machine.facts(), console)


if __name__ == "__main__":
    sys.exit(main())
