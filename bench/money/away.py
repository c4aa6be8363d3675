"""The databases away for half a minute, frozen or stopped, and the journal's disk full: nothing is lost, nothing hangs.

- PostgreSQL keeps the ledger: while it is away nobody notices, and afterwards every request is in it.
- Redis keeps the state: soft budgets admit and count later; hard ones refuse in bounded time, and are never overspent.
- The journal's disk: what can't be announced isn't sent; what runs is finished, and gets into the ledger later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.money import backends, ledgers
from bench.money.clients import Client
from bench.money.kinds import SMALL, STREAM
from bench.money.load import Load, now_s
from bench.money.world import Provider, Setup, Weir, key_of, until, world
from bench.processes import tree
from bench.results import Row, judged, skipped
from tests.ledger.postgres import Postgres, PostgresMissing

CLIENTS: Final = 16
BOUND_S: Final = 2.0  # a refusal for a lost Store takes no longer
CAUGHT_UP_S: Final = 60.0
_PACE: Final = ("--unary", "lognormal(40ms, 0.5)", "--ttft", "20ms", "--per-token", "0.3ms")
_SOFT: Final = "[{use: budget, name: all, limit: 1000 USD/month, hard: false}]"
_HARD: Final = "[{use: budget, name: all, limit: 1000 USD/month}]"
_CALM: Final = "overload: {lag_s: 10s, queue_s: 30s}"  # what a busy machine refuses isn't looked at here
_DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")

Away = Callable[[float], Awaitable[None]]
"""Takes something away for so many seconds."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Seconds before, during and after."""

    before_s: float
    away_s: float
    after_s: float

    @property
    def whole_s(self) -> float:
        return self.before_s + self.away_s + self.after_s


def rows(directory: Path, *, quick: bool) -> Iterator[Row]:
    """All of them."""
    shape = Shape(3, 8, 5) if quick else Shape(5, 30, 10)
    yield from _postgres(directory / "postgres", shape)
    yield from _redis(directory / "redis", shape)
    yield from _disk(directory / "disk")


# --- PostgreSQL


def _postgres(directory: Path, shape: Shape) -> Iterator[Row]:
    number = f"PostgreSQL away for {shape.away_s:.0f} s"
    try:
        server = Postgres()
    except PostgresMissing as error:
        yield skipped(number, "no request and no row lost", str(error))
        return
    try:
        with ThreadPoolExecutor(1) as keeper:  # the server ends with the thread that started it: not with a loop's
            yield from _without(server, keeper, number, directory, shape)
    finally:
        server.remove()


def _without(server: Postgres, keeper: ThreadPoolExecutor, number: str, directory: Path, shape: Shape) -> Iterator[Row]:
    async def frozen(away_s: float) -> None:
        postmaster = int((server.directory / "data" / "postmaster.pid").read_text().split()[0])
        stopped = tree(postmaster)
        _signal(stopped, signal.SIGSTOP)
        await asyncio.sleep(away_s)
        _signal([*tree(postmaster), *stopped], signal.SIGCONT)

    async def gone(away_s: float) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(keeper, server.stop)
        await asyncio.sleep(away_s)
        await loop.run_in_executor(keeper, server.start)

    keeper.submit(server.start).result()
    for how, away in (("frozen", frozen), ("stopped", gone)):
        setup = Setup(policies=_SOFT, ledger=server.database(how), more=_CALM)
        yield _no_request_lost(f"{number}, {how}", directory / how, setup, shape, away)


def _signal(pids: list[int], number: int) -> None:
    for pid in dict.fromkeys(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _no_request_lost(number: str, directory: Path, setup: Setup, shape: Shape, away: Away) -> Row:
    """Everything is answered, and everything is in the ledger and in the budget, to the nano-dollar."""
    load = Load((SMALL, STREAM))
    with world(directory, setup, *_PACE) as (provider, weir):
        start_s = uvloop.run(_taken_away(load, weir, shape, away))
        provider.quiet()
        billed = provider.spent()
        caught_up_s = until(lambda: weir.counted("all") == billed, CAUGHT_UP_S)
        counted, invoice = weir.counted("all"), provider.rows()
    ledgers.finish(weir.home, setup.ledger)
    found = ledgers.compare(weir.home, setup.ledger, invoice, load.answered())
    codes, slowest_s = load.codes(), load.slowest_s(start_s, start_s + shape.away_s)
    refused = sum(codes.values()) - codes["200"]
    return judged(
        number,
        "no request and no row lost",
        f"{refused} of {len(load.answers)} requests refused, {len(found.lost)} rows lost, {len(found.twice)} twice",
        not refused and found.clean and caught_up_s is not None,
        f"slowest meanwhile {slowest_s:.2f} s; the budget differs by {counted - billed} nano-dollars; "
        f"{dict(codes)}{'; '.join(found.problems)}",
        lost=found.lost[:20],
    )


async def _taken_away(load: Load, weir: Weir, shape: Shape, away: Away) -> float:
    """Load, and in the midst of it something is away; when that was."""

    async def taking() -> float:
        await asyncio.sleep(shape.before_s)
        start_s = now_s()
        await away(shape.away_s)
        return start_s

    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(CLIENTS, weir.url, shape.whole_s), name="load")
        taken = group.create_task(taking(), name="away")
    return taken.result()


# --- Redis


def _redis(directory: Path, shape: Shape) -> Iterator[Row]:
    number = f"Redis away for {shape.away_s:.0f} s"
    for how in ("frozen", "stopped"):
        for policies in (_SOFT, _HARD):
            where = directory / f"{how}-{'soft' if policies is _SOFT else 'hard'}"
            try:
                with backends.redis(where / "server", *_DURABLE) as server:

                    async def away(away_s: float, how: str = how, server: Any = server) -> None:
                        # In this thread: the server ends with the one that started it.
                        (server.freeze if how == "frozen" else server.kill)()
                        await asyncio.sleep(away_s)
                        (server.thaw if how == "frozen" else server.start)()

                    setup = Setup(policies=policies, state=server.url, more=_CALM)
                    if policies is _SOFT:
                        yield _no_request_lost(f"{number}, {how}, soft budget", where, setup, shape, away)
                    else:
                        yield _refused_in_time(f"{number}, {how}, hard budget", where, setup, shape, away)
            except backends.MissingError as error:
                yield skipped(number, "no request and no row lost", str(error))
                return


def _refused_in_time(number: str, directory: Path, setup: Setup, shape: Shape, away: Away) -> Row:
    """A hard budget refuses, soon, and goes on by itself."""
    load = Load((SMALL, STREAM))
    with world(directory, setup, *_PACE) as (provider, weir):
        start_s = uvloop.run(_taken_away(load, weir, shape, away))
        provider.quiet()
        billed, invoice = provider.spent(), provider.rows()
        # Who is asked knows what it hasn't told itself, too: so as many are asked that each has said it.
        until(lambda: all(weir.counted("all") >= billed for _ in range(4 * weir.setup.workers)), CAUGHT_UP_S)
        counted = weir.counted("all")
    ledgers.finish(weir.home, setup.ledger)
    found = ledgers.compare(weir.home, setup.ledger, invoice, load.answered())
    end_s = start_s + shape.away_s
    meanwhile, later = load.codes(start_s, end_s), load.codes(end_s + 2.0)
    slowest_s = load.slowest_s(start_s, end_s)
    others = {code for code in load.codes() if code not in ("200", "503 budget_unavailable")}
    return judged(
        number,
        f"refuses within {BOUND_S:.0f} s, nothing lost, goes on by itself",
        f"slowest {slowest_s:.2f} s; {len(found.lost)} rows lost; {later['200']} answered afterwards",
        slowest_s <= BOUND_S and not others and found.clean and set(later) == {"200"} and counted >= billed,
        f"meanwhile {dict(meanwhile)}, afterwards {dict(later)}; counted {counted - billed:+} nano-dollars",
    )


# --- the disk


def _disk(directory: Path) -> Iterator[Row]:
    load, setup = Load((SMALL, STREAM)), Setup(policies=_HARD, workers=2, more=_CALM)
    with contextlib.ExitStack() as stack:
        journal = directory / "home" / "journal"
        journal.mkdir(parents=True)
        disk = Disk(journal)
        stack.callback(disk.leave)
        provider, weir = stack.enter_context(world(directory, setup, *_PACE))
        seen = uvloop.run(_full(load, provider, weir, disk))
        provider.quiet()
        invoice = provider.rows()
        weir.stop()
        ledgers.finish(weir.home, setup.ledger)
        found = ledgers.compare(weir.home, setup.ledger, invoice, load.answered() | seen.streams)
    yield judged(
        f"journal's disk full ({disk.how})",
        "503 before dispatch, in-flight requests finish",
        f"{seen.refused} refused by 503, {seen.dispatched} of them dispatched, "
        f"{sum(seen.streams.values())} of {len(seen.streams)} streams finished, {seen.again} afterwards",
        bool(seen.refused)
        and not seen.dispatched
        and not seen.other
        and all(seen.streams.values())
        and seen.again == "200"
        and found.clean,
        f"others {seen.other}; in the ledger {len(found.lost)} lost, {len(found.forgotten)} forgotten",
        lost=found.lost[:20],
        problems=found.problems,
    )


class Disk:
    """The journal's directory, on a small file system of its own where this machine allows it; else a worker's files
    may grow no further.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        program = shutil.which("mount")
        mounted = program is not None and not subprocess.run(
            [program, "-t", "tmpfs", "-o", "size=4m,mode=0700", "bench", str(journal)], capture_output=True, check=False
        )
        self.mounted = bool(mounted) or os.path.ismount(journal)
        self.how = "a file system of 4 MB" if self.mounted else "by the limit of a file's size"

    def fill(self, weir: Weir) -> None:
        """No byte more."""
        if not self.mounted:
            for pid in weir.workers():
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            return
        with contextlib.suppress(OSError), (self._journal / "filler").open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def empty(self, weir: Weir) -> None:
        """Room again."""
        if self.mounted:
            (self._journal / "filler").unlink()
            return
        for pid in weir.workers():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def leave(self) -> None:
        """The file system goes, and its files."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self._journal)], check=False, capture_output=True)


@dataclass(slots=True)
class Full:
    """What was seen while the disk was full."""

    streams: dict[int, bool]
    refused: int = 0
    dispatched: int = 0
    other: str = ""
    again: str = ""


async def _full(load: Load, provider: Provider, weir: Weir, disk: Disk) -> Full:
    """Streams begin, the disk fills, others ask; then there is room again."""
    first = 1_000_000
    seen = Full({first + n: False for n in range(8)})

    async def stream(number: int) -> None:
        client = Client(weir.url)
        body = {"model": STREAM.model, "messages": [{"role": "user", "content": "?"}], "stream": True, "max_tokens": 99}
        answer = await client.ask(body, key_of(number), x_sim_tokens=90, x_sim_token_ms=40)
        seen.streams[number] = answer.whole
        client.close()

    async with asyncio.TaskGroup() as group:
        for number in seen.streams:
            group.create_task(stream(number), name="stream")
        ends_s = time.monotonic() + 20
        while (await asyncio.to_thread(provider.state))["active"] < len(seen.streams) and time.monotonic() < ends_s:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        disk.fill(weir)
        before = (await asyncio.to_thread(provider.state))["requests"]
        await load.run(CLIENTS, weir.url, 2.0)
        codes = load.codes()
        seen.refused = codes.pop("503 journal_unavailable", 0)
        fitted = codes.pop("200", 0)  # into what was left of the last page
        seen.other = ", ".join(codes)
        seen.dispatched = (await asyncio.to_thread(provider.state))["requests"] - before - fitted
    disk.empty(weir)
    client = Client(weir.url)
    body = {"model": SMALL.model, "messages": [{"role": "user", "content": "?"}], "max_tokens": 99}
    answer = await client.ask(body, key_of(first + 99), x_sim_tokens=5)
    seen.streams[first + 99] = answer.whole
    seen.again = str(answer.status)
    client.close()
    return seen
