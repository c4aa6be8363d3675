"""`python -m bench.teams [--quick]`: what many teams, keys and policies cost a request, and a reload.

Two Weirs with one worker each and the same 50 policies, each of them for some of the teams: one has a single team with
one key, the other 200 teams with 2,000 keys. Both get the same 2,000 connections, of which 16 at a time ask; in the
second each connection has a key of its own. The CPU time of all processes is divided by the requests, round by round in
turn; the ratio is the median over rounds, the first of which warms up and is dropped.

Then the second one's files change, in turn the teams' and the policies', while one client asks all the time: how long
`reload` takes, and by how much the slowest answer around it exceeds the slowest of an equal time without one (medians
over the reloads). Exit status 1 when a target was missed.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from bench import certificates, machine, payloads, runner
from bench.load import single, wire
from bench.processes import Process, cpu_ns, prefer
from bench.results import Row, judged
from bench.subjects import Origin, Setting, StaticUpstream, Weir, weir_command
from proxy.admin.client import AdminClient

TEAMS, KEYS, POLICIES = 200, 2_000, 50
CONNECTIONS, AT_ONCE = 2_000, 16
RATIO, RELOAD_MS, BUMP_MS = 1.1, 200.0, 5.0
AROUND_S = 0.6


@dataclass(frozen=True, slots=True)
class Plan:
    """How often: `passes` over all connections a round, the first round warms up."""

    rounds: int
    passes: int
    reloads: int


FULL, QUICK = Plan(11, 4, 20), Plan(4, 1, 6)


def secret(number: int) -> str:
    return f"wk-bench-{number:06d}-0123456789abcdef0123456789abcdef"


def teams(count: int, keys: int, extra: int = 0) -> str:
    """A teams file; `extra` changes a tag."""
    named = {
        f"team-{n}": {"org": "acme", "cost_centre": str(4000 + n), "tags": {"unit": str(n % 7)}} for n in range(count)
    }
    named["team-0"]["tags"] = {"unit": str(extra)}
    declared = [
        {"id": f"key-{n}", "sha256": hashlib.sha256(secret(n).encode()).hexdigest(), "team": f"team-{n % count}"}
        for n in range(keys)
    ]
    return yaml.safe_dump(
        {"version": 1, "orgs": {"acme": {"gl_account": "6510"}}, "teams": named, "keys": declared}, sort_keys=False
    )


LIMITS: tuple[dict[str, object], ...] = (
    {"use": "budget", "name": "spend", "per": "team", "limit": "100000 USD/month"},
    {"use": "ratelimit", "name": "rate", "per": "key", "requests": "100M/minute"},
)


def policies(teams: int, extra: int = 0, *, limited: bool = True) -> str:
    """50 policies; each team has the same number of its own in both files."""
    chain: list[dict[str, object]] = list(LIMITS if limited else ())
    for number in range(POLICIES - len(chain)):
        mine = [f"team-{team}" for team in range(teams) if team % 8 == number % 8]
        match = {"team": mine or ["others-*"]}
        chain.append(
            {"use": "headers", "name": f"h{number}", "match": match, "request": {"add": {f"x-h{number}": f"v{extra}"}}}
        )
    return yaml.safe_dump({"version": 1, "policies": chain}, sort_keys=False)


class Crowd(Weir):
    """Weir with so many teams and keys."""

    def __init__(
        self, setting: Setting, origin: Origin, count: int, keys: int, *, pinned: bool = True, limited: bool = True
    ) -> None:
        super().__init__(setting, origin)
        self.count, self.keys, self.pinned, self.limited = count, keys, pinned, limited
        self.name = f"weir-{count}-teams"
        self.home = Path()

    def start(self, home: Path) -> Process:
        home.mkdir()
        self.home = home
        (home / "teams.yaml").write_text(teams(self.count, self.keys))
        (home / "policies.yaml").write_text(policies(self.count, limited=self.limited))
        path = home / "weir.yaml"
        path.write_text(self.deployment(home) + "teams: teams.yaml\npolicies: policies.yaml\nkeys: required\n")
        argv = [*weir_command(), "serve", "--config", str(path)]
        core = self.setting.cores.proxy if self.pinned else None
        return Process(argv, core=core, log=home / "log", env={"WEIR_HOME": str(home), "NO_COLOR": "1"})

    def settle(self) -> None:
        with single.Connection(self.url) as connection:
            connection.exchange(self.request(0))

    def request(self, number: int) -> bytes:
        """A request of the key that a connection has."""
        whole = wire.request(self.url, payloads.unary_request())
        return whole.replace(b"sk-bench-0123456789abcdef0123456789abcdef", secret(number % self.keys).encode(), 1)


class Load:
    """All connections, and what each asks."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self._all = [(single.Connection(crowd.url), crowd.request(number)) for number in range(CONNECTIONS)]

    def round_us(self, passes: int) -> list[float]:
        """CPU of each of the proxy's processes a request."""
        pids = self.crowd.pids()
        before = [cpu_ns([pid]) for pid in pids]
        for _ in range(passes):
            for at in range(0, len(self._all), AT_ONCE):
                some = self._all[at : at + AT_ONCE]
                for connection, request in some:
                    connection.send(request)
                for connection, _ in some:
                    connection.receive()
        asked = passes * len(self._all)
        return [(cpu_ns([pid]) - was) / 1000 / asked for pid, was in zip(pids, before, strict=True)]

    def close(self) -> None:
        for connection, _ in self._all:
            connection.__exit__()


def cpu(setting: Setting, origin: Origin, plan: Plan, limited: bool) -> Row:
    """The ratio. With a budget by team and a limit by key it has no target: whoever asks seldom has no lease, and
    costs a call of the Store, however many others there are."""
    with ExitStack() as stack:
        crowds = [
            stack.enter_context(Crowd(setting, origin, 1, 1, limited=limited)),
            stack.enter_context(Crowd(setting, origin, TEAMS, KEYS, limited=limited)),
        ]
        loads = [Load(crowd) for crowd in crowds if isinstance(crowd, Crowd)]
        for load in loads:
            stack.callback(load.close)
        each = [[load.round_us(plan.passes) for load in loads] for _ in range(plan.rounds)][1:]
        seen = [[sum(one) for one in pair] for pair in each]
    ratio = statistics.median(many / one for one, many in seen)
    one, many = (statistics.median(column) for column in zip(*seen, strict=True))
    parts = " + ".join(f"{statistics.median(column):.0f}" for column in zip(*(pair[1] for pair in each), strict=True))
    note = f"{len(seen)} rounds of {plan.passes * CONNECTIONS} requests; processes of the larger: {parts} µs"
    text = f"{ratio:.3f}x ({many:.0f} against {one:.0f} µs)"
    if limited:
        number = "the same with a budget by team and a limit by key, each asking every few seconds"
        return Row(number, "", text, "-", note, {"rounds": each})
    number = "CPU of a request, 200 teams, 2,000 keys, 50 policies"
    return judged(number, f"<= {RATIO}x one team", text, ratio <= RATIO, note, rounds=each)


class Asking(threading.Thread):
    """One client that asks all the time: when each answer came, and how long it took."""

    def __init__(self, crowd: Crowd) -> None:
        super().__init__(daemon=True)
        self._connection, self._request = single.Connection(crowd.url), crowd.request(0)
        self.seen: list[tuple[float, float]] = []
        self.stop = False

    def run(self) -> None:
        while not self.stop:
            began = time.monotonic()
            self._connection.exchange(self._request)
            done = time.monotonic()
            self.seen.append((began, (done - began) * 1000))
            time.sleep(0.001)

    def slowest_ms(self, since: float, until: float) -> float:
        return max(taken for at, taken in self.seen if since - 0.05 <= at <= until)


def reload(setting: Setting, origin: Origin, plan: Plan) -> Iterator[Row]:
    taken_ms: list[float] = []
    with Crowd(setting, origin, TEAMS, KEYS, pinned=False) as crowd:
        assert isinstance(crowd, Crowd)
        asking, admin = Asking(crowd), AdminClient(crowd.home)
        asking.start()
        around, without, used_ms = [], [], []
        for number in range(1, plan.reloads + 1):
            time.sleep(AROUND_S)
            without.append((time.monotonic() - AROUND_S, time.monotonic()))
            _change(crowd.home, number)
            pids = crowd.pids()
            before_ns = [cpu_ns([pid]) for pid in pids]
            began = time.monotonic()
            outcome = admin.reload()
            taken_ms.append((time.monotonic() - began) * 1000)
            used_ms.append([(cpu_ns([pid]) - was) / 1e6 for pid, was in zip(pids, before_ns, strict=True)])
            if not outcome.ok:
                raise RuntimeError(f"reload refused: {outcome.problems}")
            time.sleep(AROUND_S)
            around.append((began, time.monotonic()))
        asking.stop = True
        asking.join(5)
        slow = [asking.slowest_ms(*span) for span in around]
        usual = [asking.slowest_ms(*span) for span in without]
    middle, bump = statistics.median(taken_ms), statistics.median(slow) - statistics.median(usual)
    parts = " + ".join(f"{statistics.median(column):.0f}" for column in zip(*used_ms, strict=True))
    note = f"{plan.reloads} reloads, worst {max(taken_ms):.0f} ms; CPU of the processes meanwhile {parts} ms"
    raw = {"taken_ms": taken_ms, "used_ms": used_ms}
    yield judged("reload", f"<= {RELOAD_MS:.0f} ms", f"{middle:.0f} ms", middle <= RELOAD_MS, note, **raw)
    yield judged(
        "latency bump of a reload",
        f"<= {BUMP_MS:.0f} ms",
        f"{bump:.1f} ms",
        bump <= BUMP_MS,
        f"slowest answer {statistics.median(slow):.1f} ms around a reload, {statistics.median(usual):.1f} ms without",
        around_ms=slow,
        without_ms=usual,
    )


def _change(home: Path, number: int) -> None:
    """Another value of a tag in the teams file, or of a header in the policy file."""
    if number % 2:
        (home / "teams.yaml").write_text(teams(TEAMS, KEYS, number))
    else:
        (home / "policies.yaml").write_text(policies(TEAMS, number))


def rows(plan: Plan, only: Sequence[str]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="weir-teams-") as temporary:
        directory = Path(temporary)
        setting = Setting(directory, machine.cores(), certificates.make(directory))
        origin = Origin(0)
        with StaticUpstream(setting, origin) as upstream:
            origin = Origin(upstream.port)
            if "cpu" in only:
                yield cpu(setting, origin, plan, limited=False)
                yield cpu(setting, origin, plan, limited=True)
            if "reload" in only:
                yield from reload(setting, origin, plan)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.teams", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds, for development; not to be quoted")
    parser.add_argument("--only", default="cpu,reload", help="of cpu, reload")
    asked = parser.parse_args(arguments)
    machine.raise_open_files()
    facts, console = machine.facts(), Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    facts["plan"] = "quick" if asked.quick else "full"
    facts["priority"] = "raised" if prefer() else "usual"
    facts["load"] = f"{os.getloadavg()[0]:.1f}"
    gc.disable()
    found = []
    for row in rows(QUICK if asked.quick else FULL, asked.only.split(",")):
        console.print(f"  {row.verdict:4} {row.number}: {row.seen}", markup=False)
        found.append(row)
    return runner.finished("teams", found, facts, console)


if __name__ == "__main__":
    sys.exit(main())
