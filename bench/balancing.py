"""`python -m bench.balancing [--quick]`: what a slow replica costs the requests of all.

Four simulated replicas of a model, of which one takes five times as long as the others (100 ms, log-normal); before
them three Weirs: with `balance: least-latency` over all four, with weights over all four, and over the three good ones
only. Requests arrive as a Poisson process, at the same instants for all, one round each in turn; times count from the
intended time of sending. The first round, in which the slow one is found out, is dropped. The ratio of the 99th
percentiles is the median over the rounds' own. Exit status 1 when the target was missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from bench import payloads, runner
from bench.load import poisson, single, wire
from bench.processes import Process
from bench.quantiles import paired_ratio, percentile
from bench.results import Row, judged
from bench.subjects import Origin, Setting, Subject, Weir, weir_command
from proxy.simulator.ports import free_port

SUITE = "faults"
GOOD = 3
WITHIN = 1.5
MEDIAN_MS, SLOWER, SIGMA = 100, 5, 0.25
MODEL = "house"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long: the first round is dropped."""

    rounds: int
    rate: float
    seconds: float


FULL, QUICK = Plan(6, 60.0, 15.0), Plan(3, 40.0, 8.0)


class Replica(Subject):
    """A simulator; on the load's core."""

    def __init__(self, setting: Setting, median_ms: int) -> None:
        super().__init__(setting, Origin(0))
        self.name = f"replica-{self.port}"
        self.median_ms = median_ms

    def start(self, home: Path) -> Process:
        home.mkdir()
        scenario = home / "scenario.yaml"
        scenario.write_text(f'version: 1\nlatency: {{unary: "lognormal({self.median_ms}ms, {SIGMA})"}}\n')
        argv = [*weir_command(), "simulate", "--port", str(self.port), "--scenario", str(scenario)]
        return Process(argv, core=self.setting.cores.load, log=home / "log")


class Balancer(Weir):
    """A Weir over some of the replicas."""

    def __init__(self, setting: Setting, name: str, replicas: list[Replica], balance: str) -> None:
        super().__init__(setting, Origin(replicas[0].port))
        self.name = name
        self._replicas, self._balance = replicas, balance

    def settle(self) -> None:
        """Wait for the first answer: the supervisor listens before its worker is there."""
        with single.Connection(self.url) as connection:
            connection.exchange(self.request())

    def deployment(self, home: Path) -> str:
        upstreams = "\n".join(
            f'  r{number}: {{url: "{replica.url}/v1", provider: openai}}'
            for number, replica in enumerate(self._replicas)
        )
        places = ", ".join(f"{{upstream: r{number}, model: gpt-4o-mini}}" for number in range(len(self._replicas)))
        return f"""
version: 1
listen: 127.0.0.1:{self.port}
ops: 127.0.0.1:{free_port()}
admin: 127.0.0.1:{free_port()}
home: {home}
upstreams:
{upstreams}
models:
  {MODEL}: {{deployments: [{places}], balance: {self._balance}}}
"""

    def request(self) -> bytes:
        return wire.request(self.url, orjson.dumps({**orjson.loads(payloads.unary_request()), "model": MODEL}))


@dataclass(slots=True)
class Seen:
    """What the clients of one Weir saw, in milliseconds."""

    took_ms: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)
    wrong: int = 0


def measure(setting: Setting, plan: Plan) -> dict[str, Seen]:
    """What each of them made of the same arrivals."""
    with ExitStack() as stack:
        replicas = [Replica(setting, MEDIAN_MS * (SLOWER if number == GOOD else 1)) for number in range(GOOD + 1)]
        for replica in replicas:
            stack.enter_context(replica)
        balancers = [
            Balancer(setting, "least-latency", replicas, "least-latency"),
            Balancer(setting, "good-only", replicas[:GOOD], "least-latency"),
            Balancer(setting, "weighted", replicas, "weighted"),
        ]
        for balancer in balancers:
            stack.enter_context(balancer)
        total = {balancer.name: Seen() for balancer in balancers}
        for number in range(plan.rounds):
            for balancer in balancers:
                came = poisson.run(
                    balancer.url, balancer.request(), rate=plan.rate, seconds=plan.seconds, connections=128, seed=number
                )
                seen = total[balancer.name]
                seen.wrong += came.failed + came.unanswered
                if number:
                    seen.took_ms += [took / 1000 for took in came.latencies_us]
                    seen.p99s_ms.append(percentile(came.latencies_us, 99) / 1000)
        return total


def rows(setting: Setting, plan: Plan) -> list[Row]:
    """The row of the table."""
    seen = measure(setting, plan)
    ours, good, weighted = seen["least-latency"], seen["good-only"], seen["weighted"]
    ratio = paired_ratio(ours.p99s_ms, good.p99s_ms)
    wrong = sum(one.wrong for one in seen.values())
    p99s = {name: statistics.median(one.p99s_ms) for name, one in seen.items()}
    medians = {name: percentile(one.took_ms, 50) for name, one in seen.items()}
    slow = sum(took > MEDIAN_MS * (1 + SLOWER) / 2 for took in ours.took_ms) / len(ours.took_ms)
    return [
        judged(
            f"p99 over {GOOD + 1} replicas, one {SLOWER}x slow",
            f"<= {WITHIN}x of the {GOOD} good ones",
            f"{p99s['least-latency']:.0f} ms, of the good ones {p99s['good-only']:.0f} ms: {ratio:.2f}x",
            ratio <= WITHIN and not wrong,
            f"{len(ours.took_ms)} requests each; medians {medians['least-latency']:.0f} and {medians['good-only']:.0f}"
            f" ms; {slow:.2%} took over {MEDIAN_MS * (1 + SLOWER) / 2:.0f} ms; by weights p99"
            f" {p99s['weighted']:.0f} ms; {wrong} wrong",
            p99s_ms={name: one.p99s_ms for name, one in seen.items()},
            weighted_p99_ms=statistics.median(weighted.p99s_ms),
        )
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.balancing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds, for development; not to be quoted")
    plan = QUICK if parser.parse_args(arguments).quick else FULL
    return runner.run("balancing", lambda setting, _: rows(setting, plan))


if __name__ == "__main__":
    sys.exit(main())
