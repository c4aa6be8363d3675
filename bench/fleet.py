"""`python -m bench.fleet [--minutes N]`: three hosts of Weir, a Redis and a PostgreSQL host, and what happens to them.

Each is a network namespace of its own on a bridge; the provider and the clients are on this side. While two teams send
(one under a hard budget that runs out on the way, one under a soft one), Redis is cut off from all, PostgreSQL is cut
off from all, one host is cut off from Redis, and one host's cable is bad. Then every host is replaced, one after the
other, under a hundred streams. Afterwards the provider's invoice is the judge: nothing was spent over the hard budget,
each billed answer is one row of the ledger, no step of a budget was told twice, and a month that three hosts close at
once is closed once. All hosts share this machine's cores, so a turn of a worker's loop may take half a second before it
refuses. Exit status 1 where anything was missed; 0 with a word where the machine can't play hosts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import orjson
from rich.console import Console

from bench import machine, runner
from bench.fleet_hosts import Database, Host, Net, UnavailableError
from bench.processes import NotReadyError, Process
from bench.results import Row, judged
from bench.subjects import weir_command
from proxy.simulator.invoice import label
from proxy.simulator.ports import free_port

TEAMS = ("hard", "soft")
MODEL = "gpt-4o-mini"
INPUT, OUTPUT = 5, 10  # dollars a million tokens, so nano-dollars a token are a thousand times that
HARD_USD_MINUTE = 0.25
RATE = {"hard": 12.0, "soft": 12.0}  # requests a second
LONGEST_CUT_S = 60.0
STREAMS, CHUNKS = 100, 40


@dataclass(slots=True)
class Seen:
    """What one team's clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)


class Fleet:
    """Three hosts that serve, what they share, and the provider."""

    def __init__(self, net: Net, stack: ExitStack, directory: Path, minutes: float) -> None:
        self.net, self.stack, self.directory = net, stack, directory
        self.limit_usd = round(HARD_USD_MINUTE * minutes, 2)
        self.redis, self.postgres = net.host("redis"), net.host("pg")
        self.hosts = [net.host(f"w{number}") for number in range(3)]
        self.provider_port = free_port()
        self.running: dict[str, Process] = {}
        self._lives: Counter[str] = Counter()

    def start(self) -> None:
        (self.directory / "redis").mkdir()
        keeping = [
            "--appendonly",
            "yes",
            "--dir",
            str(self.directory / "redis"),
            "--save",
            "",
            "--protected-mode",
            "no",
        ]
        self._run("redis", self.redis.command("redis-server", "--bind", self.redis.address, *keeping))
        self.database = Database(self.postgres, self.directory / "pg")
        self._run("pg", self.database.command)
        provider = [*weir_command(), "simulate", "--host", self.net.gateway, "--port", str(self.provider_port)]
        self._run("provider", [*provider, "--ttft", "30ms", "--per-token", "50ms", "--unary", "60ms"])
        _listening(self.redis.address, 6379)
        _listening(self.postgres.address, 5432)
        for host in self.hosts:
            self._write(host)
            self.begin(host)
        for host in self.hosts:
            self.ready(host)

    def _run(self, name: str, command: Sequence[str]) -> Process:
        process = Process(command, core=None, log=self.directory / f"{name}.log", env=self._keys())
        self.stack.callback(process.stop)
        self.running[name] = process
        return process

    @staticmethod
    def _keys() -> dict[str, str]:
        return {f"{team.upper()}_KEY": f"sk-{team}-provider" for team in TEAMS}

    def _write(self, host: Host) -> None:
        home = self.directory / host.name
        home.mkdir(mode=0o755)
        keys = [{"id": team, "sha256": sha256(_key(team).encode()).hexdigest(), "team": team} for team in TEAMS]
        url = f"http://{self.net.gateway}:{self.provider_port}/v1"
        files = {
            "teams.yaml": {"version": 1, "teams": {team: {} for team in TEAMS}, "keys": keys},
            "policies.yaml": {"version": 1, "policies": [
                {"use": "budget", "name": "hard", "match": {"team": "hard"}, "limit": f"{self.limit_usd} USD/day",
                 "max_wait": "1s", "ladder": {"10%": "warn", "50%": "warn", "90%": "warn"}},
                {"use": "budget", "name": "soft", "match": {"team": "soft"}, "limit": f"{self.limit_usd} USD/day",
                 "hard": False, "ladder": {"10%": "warn", "50%": "warn", "90%": "warn"}},
            ]},
            "weir.yaml": {
                "version": 1, "listen": "0.0.0.0:8787", "ops": "0.0.0.0:9090", "admin": "off", "keys": "required",
                "home": str(home), "state": f"redis://{self.redis.address}:6379/0", "ledger": self.database.url,
                "upstreams": {team: {"url": url, "key": f"${{{team.upper()}_KEY}}"} for team in TEAMS},
                "models": {team: {"deployments": [{"upstream": team, "model": MODEL}]} for team in TEAMS},
                "prices": {f"{MODEL}*": {"input": INPUT, "output": OUTPUT}},
                "overload": {"lag_s": "500ms"},
                "teams": "teams.yaml", "policies": "policies.yaml", "log": {"format": "json"},
            },
        }  # fmt: skip
        for name, content in files.items():
            (home / name).write_text(json.dumps(content))

    def begin(self, host: Host) -> None:
        """Starts it: a new version of the program, as far as anybody can tell."""
        self._lives[host.name] += 1
        command = host.command(*weir_command(), "serve", "--config", str(self.directory / host.name / "weir.yaml"))
        self._run(host.name, command)

    def ready(self, host: Host, within_s: float = 60.0) -> None:
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            if not self.running[host.name].alive():
                break
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{host.address}:9090/readyz", timeout=2):
                return
            time.sleep(0.1)
        raise NotReadyError(f"{host.name}:\n{self.running[host.name].tail()}")

    def end(self, host: Host) -> int | None:
        """Drains it; the status it ended with."""
        process = self.running[host.name]._popen
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def behind(self) -> float:
        """Bytes of journals that the ledger lacks."""
        total = 0.0
        for host in self.hosts:
            with urllib.request.urlopen(f"http://{host.address}:9090/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            total += sum(float(line.split()[1]) for line in lines if line.startswith("weir_ledger_behind_bytes "))
        return total

    def told(self) -> list[tuple[str, int]]:
        """Which steps of budgets were told, as often as they were."""
        found = []
        for host in self.hosts:
            for line in (self.directory / f"{host.name}.log").read_text().splitlines():
                with contextlib.suppress(ValueError, KeyError):
                    record = json.loads(line)
                    if record["event"] == "budget_threshold":
                        found.append((record["budget"], int(record["threshold_percent"])))
        return found

    def invoice(self) -> dict[str, dict[str, int]]:
        """The provider's word, by team."""
        with urllib.request.urlopen(
            f"http://{self.net.gateway}:{self.provider_port}/sim/invoice", timeout=10
        ) as answer:
            rows = json.loads(answer.read())["rows"]
        names = {label(key): name.removesuffix("_KEY").lower() for name, key in self._keys().items()}
        sums: dict[str, dict[str, int]] = {team: dict.fromkeys(("requests", "input", "output"), 0) for team in TEAMS}
        for row in rows:
            for name in sums[names[row["key"]]]:
                sums[names[row["key"]]][name] += row[name]
        return sums

    def ledger(self) -> tuple[dict[str, dict[str, int]], int]:
        """The ledger's word, by team, and how many attempts are still open."""
        import psycopg

        query = (
            "SELECT d.upstream, count(*), sum(a.input_tokens), sum(a.output_tokens), sum(a.nanodollars) "
            "FROM attempts a JOIN dimensions d ON d.id = a.dimension WHERE a.status = 200 GROUP BY 1"
        )
        with psycopg.connect(self.database.url, connect_timeout=10) as db:
            found = {
                row[0]: {
                    "requests": row[1],
                    "input": int(row[2]),
                    "output": int(row[3]),
                    "nanodollars": int(row[4] or 0),
                }
                for row in db.execute(query)
            }
            left = db.execute("SELECT count(*) FROM open_attempts").fetchone()
        return found, int(left[0]) if left else 0

    def close_month(self) -> tuple[int, int]:
        """Three hosts close the same month at once: how many say they did, and how many closings there are."""
        month = (datetime.now(UTC).replace(day=1) - timedelta(days=1)).strftime("%Y-%m")
        closing = []
        for host in self.hosts:
            file, log = str(self.directory / host.name / "weir.yaml"), self.directory / f"close-{host.name}.log"
            command = host.command(*weir_command(), "close", month, "--config", file)
            closing.append(Process(command, core=None, log=log, env=self._keys()))
        did = sum(process._popen.wait(60) == 0 for process in closing)
        import psycopg

        with psycopg.connect(self.database.url, connect_timeout=10) as db:
            found = db.execute("SELECT count(*) FROM closings WHERE month = %s", [month]).fetchone()
        return did, int(found[0]) if found else 0


def _key(team: str) -> str:
    return f"wk-{team}-{'0' * 32}"


def _listening(address: str, port: int, within_s: float = 30.0) -> None:
    import socket

    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            return
        time.sleep(0.05)
    raise NotReadyError(f"nothing listens on {address}:{port}")


async def ask(host: Host, team: str, stream: bool, chunks: int = 0, within_s: float = 60.0) -> tuple[str, str]:
    """One request on a connection of its own: its status, and the code of an error. Raises OSError before the first
    byte was written; what breaks later is status `broken`."""
    fields = {"model": team, "stream": stream, "max_tokens": 64, "messages": [{"role": "user", "content": "hello"}]}
    body = orjson.dumps(fields)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: weir\r\nauthorization: Bearer {_key(team)}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    head += f"x-sim-chunks: {chunks}\r\n" if chunks else ""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host.address, 8787), 5)
    try:
        writer.write(head.encode() + b"\r\n" + body)
        async with asyncio.timeout(within_s):
            answer = await reader.read(-1)
    except TimeoutError:
        return "timeout", ""
    except OSError as error:
        return f"broken: {type(error).__name__}", ""
    finally:
        writer.close()
    status = answer[9:12].decode() or "broken: nothing"
    if status == "200" and stream and b"data: [DONE]" not in answer:
        return "broken: cut", ""
    code = answer.rpartition(b'"code":')[2][:60].split(b'"')
    return status, code[1].decode() if status != "200" and len(code) > 1 else ""


async def load(fleet: Fleet, team: str, until_s: float, seen: Seen) -> None:
    """Poisson arrivals of one team over all hosts."""
    loop, rng, tasks = asyncio.get_running_loop(), random.Random(team), set[asyncio.Task[None]]()

    async def one(host: Host) -> None:
        began = loop.time()
        try:
            status, code = await ask(host, team, rng.random() < 0.3)
        except (OSError, TimeoutError) as error:
            status, code = f"broken: {type(error).__name__}", ""
        seen.statuses[status] += 1
        seen.codes[code] += bool(code)
        seen.seconds.append(loop.time() - began)

    while loop.time() < until_s:
        task = asyncio.create_task(one(rng.choice(fleet.hosts)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(rng.expovariate(RATE[team]))
    await asyncio.gather(*tasks)


async def troubles(fleet: Fleet, seconds: float, say: Console) -> str:
    """What happens meanwhile; the kind of the slow cable."""
    cut_s, net = min(LONGEST_CUT_S, seconds / 8), fleet.net
    await asyncio.sleep(seconds / 10)
    for what, trouble in (
        ("Redis is cut off from all", net.gone(fleet.redis)),
        ("PostgreSQL is cut off from all", net.gone(fleet.postgres)),
        ("one host is cut off from Redis", net.cut(fleet.hosts[0], fleet.redis)),
    ):
        say.print(f"{what} for {cut_s:.0f} s", markup=False)
        with trouble:
            await asyncio.sleep(cut_s)
        await asyncio.sleep(seconds / 12)
    with net.slow(fleet.redis) as kind:
        say.print(f"Redis' cable is bad ({kind}) for {cut_s:.0f} s", markup=False)
        await asyncio.sleep(cut_s)
    return kind


async def rolling(fleet: Fleet, say: Console) -> tuple[Counter[str], float]:
    """Every host replaced under streams; how the streams ended, and how long that took."""
    over = asyncio.Event()
    ended: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def client(number: int) -> None:
        turn = number
        while not over.is_set():
            turn += 1
            try:
                status, code = await ask(fleet.hosts[turn % 3], "soft", True, CHUNKS)
            except (OSError, TimeoutError):
                ended["moved"] += 1  # nothing listens there: the next host is asked, as a load balancer does
                await asyncio.sleep(0.02)
                continue
            ended[f"{status} {code}".strip()] += 1

    streams = [asyncio.create_task(client(number)) for number in range(STREAMS)]
    await asyncio.sleep(1.0)
    for host in fleet.hosts:
        status = await asyncio.to_thread(fleet.end, host)
        fleet.begin(host)
        await asyncio.to_thread(fleet.ready, host)
        say.print(f"{host.name} was replaced; it had ended with {status}", markup=False)
    over.set()
    await asyncio.gather(*streams)
    return ended, loop.time() - began


async def together(*work: Awaitable[object]) -> list[object]:
    return [*await asyncio.gather(*work)]


def rows(fleet: Fleet, minutes: float, say: Console) -> Iterator[Row]:
    seen = {team: Seen() for team in TEAMS}

    async def busy() -> str:
        ends = asyncio.get_running_loop().time() + minutes * 60
        *_, kind = await together(
            *(load(fleet, team, ends, seen[team]) for team in TEAMS), troubles(fleet, minutes * 60, say)
        )
        return str(kind)

    kind = asyncio.run(busy())
    upgraded, took_s = asyncio.run(rolling(fleet, say))
    ends = time.monotonic() + 120
    while fleet.behind() and time.monotonic() < ends:
        time.sleep(0.5)
    time.sleep(1.0)
    invoice, (ledger, left) = fleet.invoice(), fleet.ledger()
    did, closings = fleet.close_month()
    yield from judged_rows(fleet, seen, invoice, ledger, left, kind)
    failed = {status: count for status, count in upgraded.items() if status not in ("200", "moved")}
    yield judged(
        f"three hosts replaced under {STREAMS} streams",
        "0 failed",
        f"{sum(failed.values())} failed of {upgraded.total() - upgraded['moved']}",
        not failed,
        f"{took_s:.0f} s; {upgraded['moved']} asked the next host; {failed or ''}",
    )
    yield judged(
        "a month closed by three hosts at once",
        "closed once",
        f"{closings} closing, {did} of 3 commands did it",
        closings == 1 and did == 1,
    )


def judged_rows(
    fleet: Fleet,
    seen: dict[str, Seen],
    invoice: dict[str, dict[str, int]],
    ledger: dict[str, dict[str, int]],
    left: int,
    kind: str,
) -> Iterator[Row]:
    spent = (invoice["hard"]["input"] * INPUT + invoice["hard"]["output"] * OUTPUT) / 1e6
    yield judged(
        "the hard budget, by the provider's invoice",
        f"<= {fleet.limit_usd:.4f} USD",
        f"{spent:.4f} USD",
        spent <= fleet.limit_usd,
        f"answers {dict(seen['hard'].statuses)}, codes {dict(seen['hard'].codes)}; slow cable: {kind}",
    )
    differing = [
        f"{team} {name}: {ledger.get(team, {}).get(name, 0)} in the ledger, {invoice[team][name]} billed"
        for team in TEAMS
        for name in ("requests", "input", "output")
        if ledger.get(team, {}).get(name, 0) != invoice[team][name]
    ]
    yield judged(
        "the ledger against the invoice",
        "0 rows lost or doubled, none open",
        "; ".join(differing) or f"{sum(one['requests'] for one in invoice.values())} answers, all once; {left} open",
        not differing and not left,
    )
    soft = seen["soft"]
    wrong = soft.statuses.total() - soft.statuses["200"]
    slowest = sorted(soft.seconds)
    yield judged(
        "requests under a soft budget",
        "all answered",
        f"{wrong} not answered of {soft.statuses.total()}",
        not wrong,
        f"p50 {slowest[len(slowest) // 2]:.3f} s, p99 {slowest[int(len(slowest) * 0.99)]:.3f} s; {dict(soft.statuses)}",
    )
    told = Counter(fleet.told())
    doubled = {step: count for step, count in told.items() if count > 1}
    yield judged(
        "steps of budgets, told once in the fleet",
        "0 told twice",
        f"{len(told)} steps told, {len(doubled)} of them more than once",
        not doubled and bool(told),
        ", ".join(f"{budget} {percent}%" for budget, percent in sorted(told)),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--keep", type=Path, help="keep logs and journals there")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # takes down what it has put up
    machine.raise_open_files()
    console, facts = Console(highlight=False), machine.facts()
    with ExitStack() as stack:
        directory = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-fleet-")))
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)  # PostgreSQL runs as another user
        try:
            net = stack.enter_context(Net())
            fleet = Fleet(net, stack, directory, asked.minutes)
        except UnavailableError as why:
            console.print(f"skipped: {why}", markup=False)
            return 0
        fleet.start()
        found = [*rows(fleet, asked.minutes, console)]
    return runner.finished("fleet", found, facts, console)


if __name__ == "__main__":
    sys.exit(main())
