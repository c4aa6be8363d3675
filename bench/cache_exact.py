"""`python -m bench.cache_exact [--quick] [--only cpu,p99,restart] [--entries N]`: what a hit costs, and a restart.

CPU: nginx and Weir before the same upstream, in turn, asked a thousand different requests in turn by wrk; nginx proxies
them, Weir has them in its cache. The CPU is that of all of Weir's processes. p99: requests of one kind at exponential
intervals, at half of what Weir could do, timed from when they were due. Restart: so many entries are made by requests,
all of Weir's processes are killed, and it is started again: how long it takes until it is ready (with, and without
entries), and how long a thousand of them at random then take, nearly all of which must be hits: the state has 25 ms to
answer. Exit status 1 when a number misses its target.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from bench import certificates, machine, payloads, processes, runner
from bench.load import poisson, single, wire, wrk
from bench.overhead.rounds import FULL, QUICK, Plan, Stage, cpu_window, in_turn, stage
from bench.overhead.unary import Round
from bench.quantiles import paired_ratio, percentile
from bench.results import Row, failed, judged, skipped
from bench.subjects import Nginx, Origin, Setting, StaticUpstream, Subject, Weir
from proxy.admin.client import AdminClient

SUITE = "cache"
GROUPS = ("cpu", "p99", "restart")
DIFFERENT, FIRST = 1_000, 100_000
LOOKED_FOR = 1_000
FILLERS = 16
_SCRIPT = """
local made = {{}}
function init()
  {headers}
  for n = 0, {different} - 1 do
    made[n] = wrk.format("POST", nil, nil, [==[{body}]==] .. ({first} + n) .. "}}")
  end
end
local turn = 0
function request()
  turn = (turn + 1) % {different}
  return made[turn]
end
function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('JSON {{"requests":%d,"failed":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d}}\\n',
    summary.requests, failed, summary.duration, latency:percentile(50), latency:percentile(99)))
end
"""


def body(number: int) -> bytes:
    """One of the different requests: 1.4 KB."""
    return _before() + b"%d}" % (FIRST + number)


def _before() -> bytes:
    return payloads.unary_request()[:-1] + b',"seed":'


class Caching(Weir):
    """Weir with a cache: one worker, its state in SQLite, as by default."""

    name = "weir"

    def deployment(self, home: Path) -> str:
        (home / "policies.yaml").write_text("version: 1\npolicies:\n  - use: cache\n    exact: {sampled: true}\n")
        return super().deployment(home) + "policies: policies.yaml\n"

    @property
    def home(self) -> Path:
        return self.setting.directory / f"{self.name}-{self.port}"

    def counted(self) -> dict[str, float]:
        """What the cache counted since the start."""
        told: dict[str, float] = AdminClient(self.home).operate("cache", "stats")["policies"]["cache"]
        return told


class Restarted(Caching):
    """The same again, in a home that is there already."""

    def start(self, home: Path) -> processes.Process:
        if not home.exists():
            return super().start(home)
        argv = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(home / "weir.yaml")]
        env = {"WEIR_HOME": str(home), "NO_COLOR": "1"}
        return processes.Process(argv, core=self.setting.cores.proxy, log=home / "log", env=env)


def script(directory: Path) -> Path:
    """wrk's program: a thousand requests in turn."""
    headers = "\n  ".join(f'wrk.headers["{name}"] = "{value}"' for name, value in wire.HEADERS)
    path = directory / "different.lua"
    path.write_text(_SCRIPT.format(headers=headers, different=DIFFERENT, first=FIRST, body=_before().decode()))
    return path


def cpu_row(running: Stage) -> tuple[Row, dict[str, float]]:
    """CPU of a hit to nginx' of passing it on; and how many a second each can do."""
    number, target, limit = "CPU, exact hit", "<= 1.0x nginx", 1.0
    program = machine.wrk()
    if program is None:
        return skipped(number, target, "wrk is not installed"), {}
    if why := running.why_not("nginx", "weir"):
        return failed(number, target, why), {}
    path = script(running.setting.directory)
    weir = running.subjects["weir"]
    assert isinstance(weir, Caching)

    def measure(subject: Subject) -> Round:
        with cpu_window(subject) as window:
            seen = wrk.run(program, path, subject.url, seconds=running.plan.wrk_s, core=running.setting.cores.load)
        return Round(window.cpu_ns / 1000 / max(1, seen.requests), seen.per_second, seen.failed)

    seen = in_turn(running.running("nginx", "weir"), running.plan.rounds, measure)
    told = weir.counted()
    cpu = {name: [one.cpu_us for one in values] for name, values in seen.items()}
    ratio, lost = paired_ratio(cpu["weir"], cpu["nginx"]), sum(one.failed for ones in seen.values() for one in ones)
    capacity = {name: statistics.median(one.per_second for one in ones) for name, ones in seen.items()}
    described = ", ".join(f"{name} {statistics.median(values):.0f} µs" for name, values in cpu.items())
    note = f"{capacity['weir']:.0f} hits/s; {told['hit']:.0f} hits, {told['miss']:.0f} misses; {lost} failed"
    ok = ratio <= limit and not lost and told["miss"] <= DIFFERENT + wrk.CONNECTIONS
    return judged(number, target, f"{ratio:.2f}x ({described})", ok, note, cpu_us=cpu, capacity=capacity), capacity


def p99_row(running: Stage, capacity: Mapping[str, float]) -> Row:
    """The tail of hits at half of capacity; and of nginx' passing on at half of its own, what the machine adds."""
    number, target, limit_us = "p99 of hits, Poisson at half of capacity", "<= 1 ms", 1000.0
    if not capacity:
        return skipped(number, target, "the capacity isn't known: see the CPU of a hit")
    lost, turn = 0, iter(range(10**9))
    seen: dict[str, list[float]] = {name: [] for name in capacity}
    late: list[float] = []
    for subject in running.running(*capacity):
        request = wire.request(subject.url, body(0))
        with single.Connection(subject.url) as connection:
            connection.exchange(request)
        for _ in range(running.plan.poisson_rounds):
            rate = capacity[subject.name] / 2
            one = poisson.run(subject.url, request, rate=rate, seconds=running.plan.poisson_s, seed=next(turn))
            seen[subject.name].append(percentile(one.latencies_us, 99))
            if subject.name == "weir":
                lost += one.failed + one.unanswered
                late.append(percentile(one.late_us, 99))
    p99 = {name: statistics.median(values) for name, values in seen.items()}
    note = (
        f"{capacity['weir'] / 2:.0f} requests/s; {lost} lost; generator's own lateness p99 "
        f"{statistics.median(late):.0f} µs; nginx passing on at {capacity['nginx'] / 2:.0f}/s: {p99['nginx']:.0f} µs"
    )
    return judged(number, target, f"{p99['weir']:.0f} µs", p99["weir"] <= limit_us and not lost, note, p99_us=seen)


def restart_rows(setting: Setting, entries: int) -> Iterator[Row]:
    """Fill, kill, start, ask."""
    upstream = StaticUpstream(setting, Origin(0))
    with upstream:
        weir = Restarted(setting, Origin(upstream.port))
        _started(weir)  # the first start of a home makes what later ones find
        _kill(weir)
        empty_s = _started(weir)
        asyncio.run(_ask_all(weir.url, range(entries)))
        _wait_stored(weir)
        _kill(weir)
        full_s = _started(weir)
        try:
            number = f"restart with {entries:,} entries, until ready"
            told = f"{full_s:.2f} s, {empty_s:.2f} s without any"
            yield judged(number, "<= 2 s more", told, full_s - empty_s <= 2, ready_s=[empty_s, full_s])
            yield _warmth(weir, entries)
        finally:
            _kill(weir)


def _warmth(weir: Caching, entries: int) -> Row:
    """A thousand at random, one after the other, of which each has to be read from the state."""
    chosen = random.Random(1).sample(range(entries), min(LOOKED_FOR, entries))
    began, taken, missed = time.perf_counter(), [], 0
    with single.Connection(weir.url) as connection:
        for one in chosen:
            at = time.perf_counter_ns()
            answer = connection.exchange(wire.request(weir.url, body(one)))
            taken.append((time.perf_counter_ns() - at) / 1000)
            missed += b"\r\nx-weir-cache: hit\r\n" not in answer[: answer.find(b"\r\n\r\n") + 4]
    spent_s = time.perf_counter() - began
    told = f"{len(chosen) - missed} of {len(chosen)} hits in {spent_s:.2f} s"
    note = f"each p50 {percentile(taken, 50):.0f} µs, p99 {percentile(taken, 99):.0f} µs, read from the state"
    note += f"; {missed} misses: the state didn't answer within store_timeout, or never heard of them" * bool(missed)
    ok = spent_s <= 2 and missed <= len(chosen) // 100
    return judged("after a restart, 1,000 at random", ">= 99 % hits in 2 s", told, ok, note, us=taken, missed=missed)


def _started(weir: Subject) -> float:
    began = time.perf_counter()
    weir.__enter__()
    return time.perf_counter() - began


def _kill(weir: Subject) -> None:
    """All of its processes at once."""
    for pid in weir.pids():
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
    weir.__exit__()


async def _ask_all(url: str, numbers: Sequence[int]) -> None:
    """Each once, over a few connections."""
    where, waiting = wire.address(url), iter(numbers)

    async def fill() -> None:
        reader, writer = await asyncio.open_connection(where.host, where.port)
        for number in waiting:
            writer.write(wire.request(url, body(number)))
            buffer = await reader.read(65536)
            while not wire.answer_end(buffer):
                buffer += await reader.read(65536)
        writer.close()

    await asyncio.gather(*[fill() for _ in range(FILLERS)])


def _wait_stored(weir: Caching) -> None:
    """Keeping goes on behind the answers: until the state has as many as it will."""
    same, before = 0, -1
    while same < 5:
        now = int(AdminClient(weir.home).operate("cache", "stats")["stored"]["entries"])
        same, before = (same + 1 if now == before else 0), now
        time.sleep(0.3)


def rows(plan: Plan, groups: Sequence[str], entries: int, cores: machine.Cores) -> Iterator[Row]:
    """The chosen numbers."""
    if machine.nginx() is None:
        yield skipped("exact hits", "ratios to nginx", "nginx is not installed")
        return
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as name:
        setting = Setting(Path(name), cores, certificates.make(Path(name)))
        if {"cpu", "p99"} & set(groups):
            with stage(setting, plan, StaticUpstream, [Nginx, Caching], "weir", tls=False) as running:
                row, capacity = cpu_row(running)
                yield row
                if "p99" in groups:
                    yield p99_row(running, capacity)
        if "restart" in groups:
            yield from restart_rows(setting, entries)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cache_exact", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds, for development; not to be quoted")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--entries", type=int, default=0, help="for the restart (100,000; quick: 10,000)")
    asked, _ = parser.parse_known_args(arguments)  # others of the suite have options of their own
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    facts, cores = machine.facts(), machine.cores()
    os.sched_setaffinity(0, {cores.load})
    processes.prefer()
    machine.raise_open_files()
    seen = []
    plan = QUICK if asked.quick else FULL
    for row in rows(plan, asked.only.split(","), asked.entries or (10_000 if asked.quick else 100_000), cores):
        seen.append(row)
        console.print(f"  {row.verdict:4} {row.number}: {row.seen}", markup=False)
    facts["plan"] = "quick" if asked.quick else "full"
    return runner.finished("cache-exact", seen, facts, console)


if __name__ == "__main__":
    sys.exit(main())
