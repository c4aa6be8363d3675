"""`python -m bench.soak [--minutes N]`: half an hour at half capacity, and nothing may be left behind.

One worker before the simulated provider. 30 % of the requests are streams, in 5 % the provider fails (an error, a
reset, a broken stream, usage that is missing, …), in 5 % the client leaves before the end. Arrivals are a Poisson
process at half of what a closed loop of the same mixture reached. The worker's memory is looked at every five seconds;
its slope is a least-squares line over what follows the warm-up (a fifth of the time, at least a minute). Afterwards,
when all is quiet: descriptors and tasks are back to what they were before, nothing is in flight, and the ledger has
each exchange that a client was told of, a settled attempt for each that was sent, and none left open. The slope is
judged from ten minutes on: shorter runs say more about noise. Half the capacity is only there while the worker has its
core: the kernel says how long it waited for it, second by second, and where that was a quarter or more, its refusals
(503 `overloaded`) are what it ought to do; they are counted apart. If a tenth of the run was so and anything was
refused then, the answers aren't judged. Exit status 1 when anything was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import sqlite3
import statistics
import sys
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import uvloop
from rich.console import Console

from bench import payloads, runner
from bench.load import wire
from bench.processes import Process
from bench.results import Row, judged
from bench.subjects import Origin, Setting, Subject, Weir, weir_command

STREAMS, FAULTS, LEAVERS = 0.30, 0.05, 0.05
SLOPE_MIB_H, JUDGED_MINUTES = 1.0, 10.0
LOOK_S, QUIET_S = 5.0, 12.0
TAKEN, CATCHES_UP_S, JUDGED_TAKEN = 0.25, 2.0, 0.1
CLIENTS = 48
FAULT_NAMES = (
    *("error-500", "error-503", "rate-limit:1", "overloaded-529", "reset-after-request", "first-event-error"),
    *("mid-error", "eof-no-done", "cut-chunk", "rst", "malformed-event", "html-200", "truncated-json", "no-usage"),
)
_EXCHANGE = re.compile(rb"\r\nx-weir-exchange: (\S+)\r\n", re.IGNORECASE)


class Provider(Subject):
    """The simulator, on the load's core."""

    name = "provider"

    def start(self, home: Path) -> Process:
        home.mkdir()
        argv = [*weir_command(), "simulate", "--port", str(self.port)]
        argv += ["--ttft", "20ms", "--per-token", "5ms", "--unary", "30ms"]
        return Process(argv, core=self.setting.cores.load, log=home / "log")


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    exchanges: list[bytes] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    left: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    refused_s: list[float] = field(default_factory=list)


class OverloadedError(Exception):
    """Refused by a worker that has more to do than it can."""


class Clients:
    """Requests of the mixture, over connections that are kept where they may be."""

    def __init__(self, url: str, seen: Seen, seed: int) -> None:
        self._where = wire.address(url)
        self._seen = seen
        self._rng = random.Random(seed)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        unary = orjson.loads(payloads.unary_request())
        self._bodies = [orjson.dumps({**unary, "stream": stream, "max_tokens": 64}) for stream in (False, True)]
        self._url = url

    async def one(self, *, faults: bool = True) -> None:
        rng, stream = self._rng, self._rng.random() < STREAMS
        request = wire.request(self._url, self._bodies[stream])
        added = b"\r\nx-sim-chunks: 20"
        faulty = faults and rng.random() < FAULTS
        if faulty:
            added += b"\r\nx-sim-fault: " + rng.choice(FAULT_NAMES).encode()
        request = request.replace(b"\r\n\r\n", added + b"\r\n\r\n", 1)
        leaves_s = rng.random() * 0.15 if faults and rng.random() < LEAVERS else None
        streams = self._free.pop() if self._free else None
        if streams is None or streams[0].at_eof():
            streams = await asyncio.open_connection(self._where.host, self._where.port)
        try:
            async with asyncio.timeout(leaves_s if leaves_s is not None else 60):
                keep = await self._ask(*streams, request, faulty)
        except TimeoutError:
            self._seen.left += 1
            self._seen.wrong["no answer within a minute"] += leaves_s is None
            streams[1].transport.abort()
            return
        except OverloadedError:
            self._seen.refused_s.append(asyncio.get_running_loop().time())
            streams[1].transport.abort()
            return
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self._seen.wrong[f"{type(error).__name__}: {error}"[:80]] += 1
            streams[1].transport.abort()
            return
        if keep:
            self._free.append(streams)
        else:
            streams[1].close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, faulty: bool
    ) -> bool:
        """Whether the connection may be used again."""
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if (found := _EXCHANGE.search(head)) is not None:
            self._seen.exchanges.append(found[1])
        lower, status = head.lower(), head[9:12].decode()
        if b"\r\ntransfer-encoding: chunked" in lower:
            body = b""
            while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
            ended = b"data: [DONE]" in body
            status += "" if ended else " broken"
        else:
            length = re.search(rb"\r\ncontent-length: (\d+)", lower)
            body = await reader.readexactly(int(length[1]) if length else 0)
        self._seen.statuses[status] += 1
        if not faulty and status != "200":
            code = re.search(rb'"code": ?"([^"]*)"', body)
            if status == "503" and code and code[1] == b"overloaded":
                raise OverloadedError
            raise ValueError(f"{status} {code[1].decode() if code else ''} where nothing failed")
        return b"\r\nconnection: close" not in lower

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()
        self._free = []


@dataclass(slots=True)
class Base:
    """What a worker holds when nothing happens."""

    descriptors: int
    tasks: int


class Core:
    """How much of its core the worker was given: of each second, the share that it waited for it."""

    def __init__(self, pid: int, now_s: float) -> None:
        self._file = Path(f"/proc/{pid}/schedstat")
        self._waited_s = self._waited()
        self.looks: list[tuple[float, float, float]] = []  # from, to, share
        self._at_s = now_s

    def _waited(self) -> float:
        return int(self._file.read_text().split()[1]) / 1e9

    def look(self, now_s: float) -> None:
        """Once a second."""
        if now_s < self._at_s + 1:
            return
        waited_s = self._waited()
        self.looks.append((self._at_s, now_s, (waited_s - self._waited_s) / (now_s - self._at_s)))
        self._at_s, self._waited_s = now_s, waited_s

    def taken(self, at_s: float) -> bool:
        """Whether others had it then, or so shortly before that the worker hadn't caught up."""
        return any(
            share >= TAKEN and began_s <= at_s <= ended_s + CATCHES_UP_S for began_s, ended_s, share in self.looks
        )

    def taken_share(self) -> float:
        """Of the whole time."""
        return sum(share >= TAKEN for _, _, share in self.looks) / max(len(self.looks), 1)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Operator:
    """What the ops listener and `/proc` say."""

    def __init__(self, weir: Weir) -> None:
        text = next(weir.setting.directory.glob("weir-*/weir.yaml")).read_text()
        self._ops = re.search(r"ops: (\S+)", text)[1]  # type: ignore[index]
        self.home = weir.setting.directory / f"weir-{weir.port}"
        self.pid = next(pid for pid in weir.pids() if b"proxy.worker" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self._ops}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def value(self, name: str) -> float:
        found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def base(self) -> Base:
        return Base(descriptors(self.pid), int(self.value("weir_worker_tasks")))


async def capacity(url: str, seconds: float) -> float:
    """Requests a second of the mixture, without faults, in a closed loop."""
    seen, loop = Seen(), asyncio.get_running_loop()
    clients, ends, done = Clients(url, seen, 0), loop.time() + seconds, 0

    async def client() -> None:
        nonlocal done
        while loop.time() < ends:
            await clients.one(faults=False)
            done += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    clients.close()
    return done / seconds


async def offered(
    url: str, rate: float, minutes: float, operator: Operator, say: Console
) -> tuple[Seen, list[tuple[float, float]], Core]:
    """The load; what the clients saw, the worker's memory over time (seconds, MiB), and what it had of its core."""
    seen, loop = Seen(), asyncio.get_running_loop()
    clients, rng = Clients(url, seen, 1), random.Random(2)
    tasks: set[asyncio.Task[None]] = set()
    memory: list[tuple[float, float]] = []
    start = due = loop.time()
    look = told = start
    core = Core(operator.pid, start)
    while (now := loop.time()) < start + minutes * 60:
        while due <= now:
            task = asyncio.create_task(clients.one(), name="request")
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += rng.expovariate(rate)
        core.look(now)
        if now >= look:
            memory.append((now - start, resident_mib(operator.pid)))
            look += LOOK_S
        if now >= told + 60:
            told = now
            say.print(
                f"{(now - start) / 60:.0f} min: {memory[-1][1]:.1f} MiB, {len(seen.exchanges)} exchanges", markup=False
            )
        await asyncio.sleep(min(max(due - loop.time(), 0.0005), 0.05))
    await asyncio.gather(*tasks, return_exceptions=True)
    clients.close()
    return seen, memory, core


def slope_mib_h(memory: list[tuple[float, float]], after_s: float) -> float:
    """The least-squares line over what came after the warm-up."""
    points = [point for point in memory if point[0] >= after_s]
    if len(points) < 3:
        return 0.0
    line = statistics.linear_regression([at for at, _ in points], [size for _, size in points])
    return line.slope * 3600


def quiet(operator: Operator, base: Base) -> Base:
    """What is held once all is over: idle connections to the provider close after 4 s."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        time.sleep(2)
        now = operator.base()
        if now.descriptors <= base.descriptors and now.tasks <= base.tasks:
            break
    return now


def missing(operator: Operator, seen: Seen) -> list[str]:
    """What the ledger lacks, once it has all of the journal."""
    ends = time.monotonic() + 120
    while operator.value("weir_ledger_behind_bytes") and time.monotonic() < ends:
        time.sleep(1)
    problems = []
    attempts = int(operator.value("weir_attempts_total"))
    exchanges = int(operator.value("weir_exchanges_total"))
    with sqlite3.connect(f"file:{operator.home / 'ledger.db'}?mode=ro", uri=True) as db:
        known = {row[0].encode() for row in db.execute("SELECT exchange FROM exchanges")}
        rows = db.execute("SELECT count(*) FROM attempts WHERE version = 0").fetchone()[0]
        left = db.execute("SELECT count(*) FROM open_attempts").fetchone()[0]
    if unknown := set(seen.exchanges) - known:
        problems.append(f"{len(unknown)} exchanges that clients were told of aren't in the ledger")
    if rows != attempts:
        problems.append(f"{rows} attempts in the ledger, {attempts} were counted")
    if len(known) != exchanges:
        problems.append(f"{len(known)} exchanges in the ledger, {exchanges} were counted")
    if left:
        problems.append(f"{left} attempts were left open")
    return problems


def rows(setting: Setting, minutes: float, say: Console) -> list[Row]:
    with ExitStack() as stack:
        provider = stack.enter_context(Provider(setting, Origin(0)))
        weir = stack.enter_context(Weir(setting, Origin(provider.port)))
        assert isinstance(weir, Weir)
        operator = Operator(weir)
        full = uvloop.run(capacity(weir.url, 6.0))
        time.sleep(QUIET_S)
        base = operator.base()
        say.print(f"capacity {full:.0f}/s; at rest {base.descriptors} descriptors, {base.tasks} tasks", markup=False)
        seen, memory, core = uvloop.run(offered(weir.url, full / 2, minutes, operator, say))
        after = quiet(operator, base)
        in_flight = operator.value("weir_exchanges_in_flight") + operator.value("weir_streams")
        problems = missing(operator, seen)
    slope = slope_mib_h(memory, max(60.0, minutes * 12))
    total = seen.statuses.total() + seen.left
    taken = sum(map(core.taken, seen.refused_s))
    wrong, others = seen.wrong.total() + len(seen.refused_s) - taken, core.taken_share()
    grown = judged(
        f"memory of a worker over {minutes:g} minutes",
        f"slope < {SLOPE_MIB_H:g} MiB/h after warm-up",
        f"{slope:+.2f} MiB/h",
        slope < SLOPE_MIB_H,
        f"{memory[0][1]:.1f} to {memory[-1][1]:.1f} MiB; "
        f"{total} requests at {full / 2:.0f}/s, {seen.left} clients left",
        memory=memory,
    )
    if minutes < JUDGED_MINUTES:
        grown = Row(grown.number, grown.target, grown.seen, "-", grown.note, grown.raw)
    answers = judged(
        "answers",
        "as the faults, else 200",
        f"{wrong} wrong of {total}",
        not wrong,
        f"{', '.join(f'{status}: {count}' for status, count in seen.statuses.most_common())}; others had the "
        f"worker's core for {others:.0%} of the time, when it refused {taken}",
        wrong=dict(seen.wrong),
        refused_with_its_core=len(seen.refused_s) - taken,
    )
    if taken and not wrong and others >= JUDGED_TAKEN:
        answers = Row(answers.number, answers.target, answers.seen, "-", answers.note, answers.raw)
    return [
        grown,
        judged(
            "what is left afterwards",
            "descriptors and tasks back to base",
            f"{after.descriptors} and {after.tasks}, {in_flight:g} in flight",
            after.descriptors <= base.descriptors and after.tasks <= base.tasks and not in_flight,
            f"before: {base.descriptors} and {base.tasks}",
        ),
        judged(
            "the ledger is complete",
            "every exchange and attempt, none open",
            "; ".join(problems) or f"{len(seen.exchanges)} exchanges told, all there",
            not problems,
        ),
        answers,
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    minutes = parser.parse_args(arguments).minutes
    return runner.run("soak", lambda setting, say: rows(setting, minutes, say))


if __name__ == "__main__":
    sys.exit(main())
