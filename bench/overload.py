"""`python -m bench.overload [--quick]`: three times as many requests as one worker can answer.

Streams of 25 events, 40 ms apart. First the capacity: whole answers a second in a closed loop that keeps the worker
busy, and whose clients wait the second that a refusal tells them to. Then two open loops (Poisson arrivals, timed from
the intended sending, refused requests are not sent again): at once the capacity, and at three times. A tenth of the
capacity is of the high class in both. Several rounds in turn, and the capacity once more at the end: a round's goodput
is compared with what was seen before and after it, since machines change their pace. Ratios are the medians of the
rounds' own. Exit status 1 when a target was missed.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console

from bench import payloads, runner
from bench.load import wire
from bench.load.open import Flow, Seen, offer, saturate
from bench.processes import PRIORITY, prefer
from bench.quantiles import percentile
from bench.results import Row, judged
from bench.subjects import Setting, StreamUpstream, Weir, upstream

SUITE = "faults"
CHUNKS, GAP_MS = 25, 40
CLIENTS = 1600
GOODPUT, SLOWER, HIGH_SLOWER = 0.9, 2.0, 1.25
HIGH_SHARE = 0.1
POLICIES = "version: 1\nhonour: {priority: any}\npolicies: []\n"


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    seconds: float
    warm_up_s: float


FULL, QUICK = Plan(5, 8.0, 4.0), Plan(1, 5.0, 4.0)


class Overloaded(Weir):
    """One worker, the defaults, clients that may choose their class."""

    name = "weir"

    def deployment(self, home: Path) -> str:
        (home / "policies.yaml").write_text(POLICIES)
        return super().deployment(home) + "policies: policies.yaml\n"


@dataclass(frozen=True, slots=True)
class Round:
    """One round's figures: answers a second, milliseconds. `capacity`: the mean of before and after."""

    capacity: float
    once: dict[str, Seen]
    thrice: dict[str, Seen]
    generator: float
    seconds: float

    def goodput(self, seen: dict[str, Seen]) -> float:
        return sum(len(one.done_ms) for one in seen.values()) / self.seconds

    def p99(self, seen: dict[str, Seen], *names: str) -> float:
        return percentile([ms for name in names for ms in seen[name].done_ms], 99)


def flows(request: bytes, capacity: float, factor: float) -> list[Flow]:
    high = re.sub(rb"\r\n\r\n", b"\r\nx-weir-priority: high\r\n\r\n", request, count=1)
    return [
        Flow("usual", request, capacity * (factor - HIGH_SHARE)),
        Flow("high", high, capacity * HIGH_SHARE),
    ]


def measure(setting: Setting, plan: Plan, say: Console) -> Iterator[Round]:
    with ExitStack() as stack:
        provider, origin = upstream(StreamUpstream, setting, tls=False)
        stack.enter_context(provider)
        weir = stack.enter_context(Overloaded(setting, origin))
        request = wire.request(weir.url, payloads.stream_request(CHUNKS, GAP_MS))
        before = _capacity(weir.url, request, plan)
        for seed in range(plan.rounds):
            both, busy = [], 0.0
            for factor in (1.0, 3.0):
                seen, busy = uvloop.run(
                    offer(
                        weir.url,
                        flows(request, before, factor),
                        seconds=plan.seconds,
                        warm_up_s=plan.warm_up_s,
                        seed=seed + 1,
                    )
                )
                both.append(seen)
            after = _capacity(weir.url, request, plan)
            found = Round((before + after) / 2, both[0], both[1], busy, plan.seconds)
            before = after
            say.print(_line(found), markup=False)
            yield found


def _capacity(url: str, request: bytes, plan: Plan) -> float:
    asked = saturate(url, request, clients=CLIENTS, seconds=plan.seconds, warm_up_s=plan.warm_up_s)
    return uvloop.run(asked)


def _line(one: Round) -> str:
    parts = [f"capacity {one.capacity:.0f}/s"]
    for name, seen in (("once", one.once), ("thrice", one.thrice)):
        usual, high = seen["usual"], seen["high"]
        parts.append(
            f"{name}: {one.goodput(seen):.0f}/s, p99 {one.p99(seen, 'usual', 'high'):.0f} ms, "
            f"refused {len(usual.refused_ms)} of {usual.sent}, high {len(high.refused_ms)} of {high.sent} refused, "
            f"p99 {one.p99(seen, 'high'):.0f} ms, wrong {dict(usual.wrong + high.wrong)}, "
            f"refusal p50 {statistics.median(usual.refused_ms or [0.0]):.0f} ms, unanswered {usual.unanswered}"
        )
    return "; ".join([*parts, f"generator {one.generator:.0%} of its core"])


def rows(setting: Setting, plan: Plan, say: Console) -> Iterator[Row]:
    found = list(measure(setting, plan, say))
    goodput = statistics.median(one.goodput(one.thrice) / one.capacity for one in found)
    slower = statistics.median(
        one.p99(one.thrice, "usual", "high") / one.p99(one.once, "usual", "high") for one in found
    )
    high = statistics.median(one.p99(one.thrice, "high") / one.p99(one.once, "high") for one in found)
    refused = sum(len(one.thrice["high"].refused_ms) for one in found)
    asked = sum(one.thrice["high"].sent for one in found)
    wrong = sum((one.thrice[name].wrong + one.once[name].wrong).total() for one in found for name in one.thrice)
    capacity = statistics.median(one.capacity for one in found)
    raw = {
        "capacity": [one.capacity for one in found],
        "goodput": [one.goodput(one.thrice) for one in found],
        "p99_once_ms": [one.p99(one.once, "usual", "high") for one in found],
        "p99_thrice_ms": [one.p99(one.thrice, "usual", "high") for one in found],
        "generator": [one.generator for one in found],
    }
    yield judged(
        "goodput at three times the capacity",
        f">= {GOODPUT:.0%} of capacity",
        f"{goodput:.0%}",
        goodput >= GOODPUT and not wrong,
        f"capacity {capacity:.0f} streams of {CHUNKS} events a second; {wrong} wrong",
        **raw,
    )
    p99 = [statistics.median(raw[name]) for name in ("p99_once_ms", "p99_thrice_ms")]
    yield judged(
        "p99 of the admitted at three times the capacity",
        f"<= {SLOWER:g}x that at capacity",
        f"{slower:.2f}x",
        slower <= SLOWER,
        f"{p99[0]:.0f} and {p99[1]:.0f} ms for streams that last {CHUNKS * GAP_MS} ms",
    )
    yield judged(
        "the high class at three times the capacity",
        f"none refused, p99 <= {HIGH_SLOWER:g}x its own at capacity",
        f"{refused} of {asked} refused, {high:.2f}x",
        not refused and high <= HIGH_SLOWER,
    )


def _first() -> bool:
    return prefer() and _session_first()


def _session_first() -> bool:
    """Where the kernel groups processes by session (sched(7), autogroup), nice values count within a session only."""
    group = Path("/proc/self/autogroup")
    try:
        group.write_text(str(PRIORITY))
    except OSError:
        return not group.exists()
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, for development; not to be quoted")
    plan = QUICK if parser.parse_args(arguments).quick else FULL
    return runner.run("overload", lambda setting, say: rows(setting, plan, say), first=_first)


if __name__ == "__main__":
    sys.exit(main())
