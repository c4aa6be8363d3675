"""`python -m bench.hedge [--quick]`: what a second call for stragglers brings, and what it costs.

One simulated provider, whose first tokens take about 100 ms, but a second more in 5 % of the calls; before it two
Weirs, one with `hedge` and one without. Streams arrive as a Poisson process, at the same instants for both, one round
each in turn; the time to the first token counts from the intended time of sending. The extra cost is told twice: by
the costs that Weir tells its clients, losers included, and by the provider's own invoice. The ratio of the 99th
percentiles is the median over the rounds' own. Exit status 1 when a target was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import statistics
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import uvloop

from bench import payloads, runner
from bench.load import poisson, wire
from bench.processes import Process
from bench.quantiles import paired_ratio, percentile
from bench.results import Row, judged
from bench.subjects import Origin, Setting, Subject, Weir, weir_command
from proxy.dialects import Usage
from proxy.pricing import RateCards

SUITE = "faults"
STRAGGLERS = 0.05
CUT, EXTRA = 0.5, 0.05
SCENARIO = """
version: 1
latency: {ttft: "lognormal(100ms, 0.25)", per_token: 1ms}
faults:
  - {fault: "heartbeat:20:0.05", probability: 5%}
"""
POLICIES = {
    "plain": "version: 1\npolicies: []\n",
    "hedge": "version: 1\npolicies:\n  - {use: hedge, after: p90, max_extra: 5%, samples: 100}\n",
}
_COST = re.compile(rb": weir exchange=\S+ cost=(\d+\.\d+)")
_ACTED = re.compile(rb"hedge=(\w+)")
_FIRST = b"data: "
_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long: the first round warms up, and is dropped."""

    rounds: int
    rate: float
    seconds: float


FULL, QUICK = Plan(6, 60.0, 15.0), Plan(3, 40.0, 6.0)


@dataclass(slots=True)
class Seen:
    """What the clients of one Weir saw."""

    ttft_ms: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)  # of each round
    cost: float = 0.0
    wrong: list[str] = field(default_factory=list)
    acted: Counter[str] = field(default_factory=Counter)


class Provider(Subject):
    """The simulator with its stragglers; on the load's core."""

    name = "provider"

    def start(self, home: Path) -> Process:
        home.mkdir()
        (home / "scenario.yaml").write_text(SCENARIO)
        argv = [*weir_command(), "simulate", "--port", str(self.port), "--scenario", str(home / "scenario.yaml")]
        return Process(argv, core=self.setting.cores.load, log=home / "log")

    def invoice(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/sim/invoice", timeout=10) as answer:
            rows: list[dict[str, Any]] = json.load(answer)["rows"]
        return rows


class Hedger(Weir):
    """A Weir with one of the policy files, and a key that the invoice knows it by."""

    def __init__(self, setting: Setting, origin: Origin, policy: str) -> None:
        super().__init__(setting, origin)
        self.name, self.key = policy, f"sk-{policy}-0123456789abcdef"

    def deployment(self, home: Path) -> str:
        (home / "policies.yaml").write_text(POLICIES[self.name])
        return super().deployment(home) + "policies: policies.yaml\n"

    def settle(self) -> None:
        """Nothing to wait for: the first round is dropped."""

    def request(self) -> bytes:
        body = orjson.dumps({**orjson.loads(payloads.unary_request()), "stream": True})
        made = wire.request(self.url, body)
        return re.sub(rb"Bearer \S+", b"Bearer " + self.key.encode(), made)


async def _one(url: str, request: bytes, due: float, seen: Seen) -> None:
    """One stream on a connection of its own, opened before it is due."""
    loop, where = asyncio.get_running_loop(), wire.address(url)
    reader, writer = await asyncio.open_connection(where.host, where.port)
    try:
        await asyncio.sleep(due - loop.time())
        writer.write(request)
        answer, first = b"", 0.0
        while not answer.endswith(_END):
            piece = await reader.read(1 << 16)
            if not piece:
                break
            answer += piece
            if not first and _FIRST in answer:
                first = loop.time()
        cost = _COST.search(answer)
        if cost is None or b"data: [DONE]" not in answer:
            seen.wrong.append(repr(answer[-300:]))
            return
        seen.acted.update(word.decode() for word in _ACTED.findall(answer))
        seen.ttft_ms.append((first - due) * 1000)
        seen.cost += float(cost[1])
    finally:
        writer.close()


async def _round(url: str, request: bytes, plan: Plan, seed: int) -> Seen:
    seen, loop = Seen(), asyncio.get_running_loop()
    start = loop.time() + 0.5
    gc.collect()
    async with asyncio.TaskGroup() as group:
        for at_ns in poisson.arrivals_ns(plan.rate, plan.seconds, seed):
            due = start + at_ns / 1e9
            await asyncio.sleep(due - 0.3 - loop.time())
            group.create_task(_one(url, request, due, seen), name="stream")
    return seen


def measure(setting: Setting, plan: Plan) -> tuple[dict[str, Seen], dict[str, float]]:
    """What both saw, and what the provider bills for one answer of each, in dollars."""
    total = {name: Seen() for name in POLICIES}
    with ExitStack() as stack:
        provider = stack.enter_context(Provider(setting, Origin(0)))
        assert isinstance(provider, Provider)
        hedgers = [Hedger(setting, Origin(provider.port), name) for name in POLICIES]
        for hedger in hedgers:
            stack.enter_context(hedger)
        for number in range(plan.rounds):
            for hedger in hedgers:
                seen = uvloop.run(_round(hedger.url, hedger.request(), plan, seed=number))
                if number:
                    total[hedger.name].ttft_ms += seen.ttft_ms
                    total[hedger.name].p99s_ms.append(percentile(seen.ttft_ms, 99))
                    total[hedger.name].cost += seen.cost
                    total[hedger.name].acted += seen.acted
                total[hedger.name].wrong += seen.wrong
            if not number:
                urllib.request.urlopen(urllib.request.Request(f"{provider.url}/sim/reset", method="POST"), timeout=10)
                _straggle(provider)
        return total, {hedger.name: _billed(provider, hedger.key) for hedger in hedgers}


def _straggle(provider: Provider) -> None:
    """A reset forgets the rules that were added, and those of the scenario."""
    rule = orjson.dumps({"fault": "heartbeat:20:0.05", "probability": STRAGGLERS})
    asked = urllib.request.Request(f"{provider.url}/sim/faults", data=rule, method="POST")
    urllib.request.urlopen(asked, timeout=10).close()


def _billed(provider: Provider, key: str) -> float:
    """Dollars on the provider's invoice for one key."""
    cards, total = RateCards.compile(), 0
    for row in provider.invoice():
        if row["key"].startswith(key[:6]):
            card = cards.card("openai", row["model"], datetime.now(UTC))
            assert card is not None
            usage = Usage(row["input"], row["output"], cached_tokens=row["cached"])
            total += card.cost(usage, None) or 0
    return total / 1e9


def rows(setting: Setting, plan: Plan) -> Iterator[Row]:
    """The row of the table."""
    seen, billed = measure(setting, plan)
    plain, hedged = seen["plain"], seen["hedge"]
    cut = 1 - paired_ratio(hedged.p99s_ms, plain.p99s_ms)
    p99 = [statistics.median(one.p99s_ms) for one in (plain, hedged)]
    told = (hedged.cost / len(hedged.ttft_ms)) / (plain.cost / len(plain.ttft_ms)) - 1
    invoiced = (billed["hedge"] / len(hedged.ttft_ms)) / (billed["plain"] / len(plain.ttft_ms)) - 1
    medians = " and ".join(f"{percentile(one.ttft_ms, 50):.0f}" for one in (plain, hedged))
    yield judged(
        "p99 TTFT with 5 % stragglers, hedged",
        f"cut by >= {CUT:.0%} at <= {EXTRA:.0%} extra cost",
        f"{p99[0]:.0f} to {p99[1]:.0f} ms: {cut:.0%} less, for {told:.1%} more",
        cut >= CUT and max(told, invoiced) <= EXTRA and not plain.wrong and not hedged.wrong,
        f"{len(hedged.ttft_ms)} streams each; medians {medians} ms; {hedged.acted['hedged']} called twice, "
        f"{hedged.acted['withheld']} withheld; the provider's invoice: {invoiced:.1%} more; "
        f"{len(plain.wrong) + len(hedged.wrong)} wrong",
        p99s_ms={"plain": plain.p99s_ms, "hedge": hedged.p99s_ms},
        plain_ms=plain.ttft_ms,
        hedged_ms=hedged.ttft_ms,
        wrong=(plain.wrong + hedged.wrong)[:5],
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hedge", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds, for development; not to be quoted")
    plan = QUICK if parser.parse_args(arguments).quick else FULL
    return runner.run("hedge", lambda setting, _: rows(setting, plan))


if __name__ == "__main__":
    sys.exit(main())
