"""`python -m bench.prefix [--quick]`: what `balance: prefix-affinity` brings to replicas that cache their prompts.

An hour of real conversations (Mooncake's trace: when each came, how long it was, which 512-token blocks it shares with
others) over 8 simulated replicas in simulated time. A replica computes one prompt after the other at a steady rate,
except for the leading blocks that it has in a cache of limited size (least recently used goes first), and generates
all its answers at once. The proxy's own code chooses the replica, from prompts written out as bytes. Compared with
round robin and with consistent hashing without bounds, by the first blocks of the prompt. It takes no machine's time,
so the figures are the same everywhere. Exit status 1 when it isn't better than both.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench import machine, runner
from bench.quantiles import percentile
from bench.results import Row, judged
from proxy.body import Body
from proxy.config.balancing import Breaker
from proxy.endpoints import understood_paths
from proxy.exchange import Attempt, Exchange, Identity, Request
from proxy.upstreams import Deployment, Route
from proxy.upstreams.key import Key
from proxy.upstreams.line import Health, Line
from proxy.upstreams.prefix import LOOKED_AT
from proxy.upstreams.rendezvous import first

SUITE = "faults"
DATA: Final = Path(os.environ.get("WEIR_DATA") or Path(__file__).parents[2] / "shared" / "data")
TRACE: Final = DATA / "traces" / "mooncake" / "conversation_trace.jsonl"
REPLICAS: Final = 8
BLOCK_TOKENS: Final = 512
BYTES_A_TOKEN: Final = 4
PREFILL: Final = 8_000.0  # tokens a second
TOKEN_S: Final = 0.03  # between two tokens of an answer
BASE_S: Final = 0.05  # of every prompt
DRAWS: Final = 3  # places of keys differ by the replicas' names: each way is run with so many sets of names
SIZES: Final = (1_000, 2_000, 4_000)  # blocks that a replica's cache holds: half a million to two million tokens
_ENDPOINT: Final = understood_paths()["/v1/chat/completions"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of the trace."""

    at_s: float
    tokens: int
    answer_tokens: int
    blocks: tuple[int, ...]


def trace(path: Path = TRACE, most: int | None = None) -> list[Prompt]:
    """The conversations, in the order of their arrival."""
    found = []
    with path.open() as lines:
        for line in lines:
            one = json.loads(line)
            found.append(
                Prompt(one["timestamp"] / 1000, one["input_length"], one["output_length"], tuple(one["hash_ids"]))
            )
            if len(found) == most:
                break
    return found


class Replica:
    """A server with a prefix cache: blocks by what leads to them, the least recently used goes first."""

    def __init__(self, blocks: int) -> None:
        self._room = blocks
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._free_at = 0.0
        self.prefilled = 0
        self.asked = 0

    def serve(self, prompt: Prompt, now: float) -> tuple[float, int]:
        """When its first token comes, and how many of its tokens were in the cache."""
        cache = self._cache
        hit = 0
        for block in prompt.blocks:
            if block not in cache:
                break
            hit += 1
        for block in prompt.blocks:
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > self._room:
            cache.popitem(last=False)
        cached = min(hit * BLOCK_TOKENS, prompt.tokens)
        self.prefilled += prompt.tokens - cached
        self.asked += 1
        self._free_at = max(self._free_at, now) + BASE_S + (prompt.tokens - cached) / PREFILL
        return self._free_at, cached


class _Upstream:
    """What a deployment needs to know of one, without sockets."""

    own_key = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.keys = (Key(1, b"", False),)
        self._line = Line(self.keys[0], None, Health(Breaker()))

    def line(self, key: Key, model: str | None) -> Line:
        return self._line

    def tell(self, event: str, **fields: object) -> None:
        return


@dataclass(slots=True)
class Seen:
    """What came of a run. `loads` are the tokens that each replica had to compute."""

    ttft_s: list[float] = field(default_factory=list)
    cached: int = 0
    tokens: int = 0
    loads: list[list[int]] = field(default_factory=list)
    asked: list[list[int]] = field(default_factory=list)
    crowds: list[float] = field(default_factory=list)  # at each arrival, what the fullest replica had, over the mean

    @property
    def hit_rate(self) -> float:
        return self.cached / self.tokens

    @property
    def mean_s(self) -> float:
        return statistics.fmean(self.ttft_s)

    @property
    def imbalance(self) -> float:
        """Requests that the fullest replica had at a time, as a multiple of the mean; over all arrivals."""
        return statistics.fmean(self.crowds)

    @property
    def work(self) -> float:
        """Tokens that the busiest replica computed, as a multiple of the mean."""
        return statistics.fmean([max(loads) / statistics.fmean(loads) for loads in self.loads])

    def add(self, other: Seen) -> None:
        """Another run of the same."""
        for name in ("ttft_s", "loads", "asked", "crowds"):
            getattr(self, name).extend(getattr(other, name))
        self.cached += other.cached
        self.tokens += other.tokens


def request_of(prompt: Prompt, texts: dict[int, bytes]) -> Request:
    """The prompt as a client would send it: each block is its own text of as many bytes as its tokens have."""
    size = BLOCK_TOKENS * BYTES_A_TOKEN
    raw = bytearray(b'{"model":"m","messages":[{"role":"user","content":"')
    for block in prompt.blocks:
        if len(raw) > LOOKED_AT + size:
            break
        text = texts.get(block)
        if text is None:
            text = texts[block] = random.Random(block).randbytes(size // 2).hex().encode()
        raw += text
    raw += b'"}]}'
    body = Body(bytes(raw), {"model": "m"}, None, True)
    exchange = Exchange(Identity("bench"))
    return Request(exchange, _ENDPOINT, "POST", b"/v1/chat/completions", "/v1/chat/completions", [], body, "m")


class Clock:
    """Simulated time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(prompts: list[Prompt], blocks: int, balance: Any, hashed: int = 0, max_load: float = 2.0) -> Seen:
    """All prompts over the replicas, by one way of choosing; `hashed`: by so many leading blocks, without bounds."""
    seen = Seen()
    for number in range(DRAWS):
        seen.add(_run(prompts, blocks, balance, hashed, max_load, f"set-{number}"))
    return seen


def _run(prompts: list[Prompt], blocks: int, balance: Any, hashed: int, max_load: float, names: str) -> Seen:
    clock, seen, texts = Clock(), Seen(), dict[int, bytes]()
    replicas = [Replica(blocks) for _ in range(REPLICAS)]
    deployments = [Deployment(_Upstream(f"{names}-{n}"), None, clock=clock) for n in range(REPLICAS)]  # type: ignore[arg-type]
    route = Route(deployments, balance, max_load=max_load, clock=clock, draw=random.Random(1).random)
    ends: list[tuple[float, int, Any, Attempt]] = []
    for number, prompt in enumerate(prompts):
        clock.now = prompt.at_s
        while ends and ends[0][0] <= clock.now:
            _, _, flight, attempt = heapq.heappop(ends)
            flight.land(attempt)
        request = request_of(prompt, texts)
        running = [deployment.line.in_flight for deployment in deployments]
        if any(running):
            seen.crowds.append(max(running) / statistics.fmean(running))
        chosen = hashed_to(prompt, deployments, hashed) if hashed else route.pick(request)
        attempt = Attempt(request.exchange, request, 1, chosen.label, chosen.label, "m")
        flight = chosen.begin(attempt)
        first_at, cached = replicas[deployments.index(chosen)].serve(prompt, clock.now)
        attempt.outcome, attempt.ttft_ns = "complete", int((first_at - clock.now) * 1e9)
        heapq.heappush(ends, (first_at + prompt.answer_tokens * TOKEN_S, number, flight, attempt))
        seen.ttft_s.append(first_at - clock.now)
        seen.cached += cached
        seen.tokens += prompt.tokens
    seen.loads = [[replica.prefilled for replica in replicas]]
    seen.asked = [[replica.asked for replica in replicas]]
    return seen


def hashed_to(prompt: Prompt, deployments: list[Deployment], blocks: int) -> Deployment:
    """Consistent hashing as it is usually done: by the beginning of the prompt, whatever the load."""
    seeds = [deployment.seed for deployment in deployments]
    return deployments[first(hash(prompt.blocks[:blocks]), seeds, [1.0] * len(seeds))]


def cost_us(size: int = 4096, repeats: int = 2_000, rounds: int = 7) -> float:
    """What choosing takes in the proxy more than by weights, in microseconds of this machine.

    The median over new prompts of that size; of several rounds the lowest, since others only ever add to it.
    """
    return min(_cost_us(size, repeats) for _ in range(rounds))


def _cost_us(size: int, repeats: int) -> float:
    deployments = [Deployment(_Upstream(f"replica-{n}"), None) for n in range(REPLICAS)]  # type: ignore[arg-type]
    route = Route(deployments, "prefix-affinity")
    plain = Route([Deployment(_Upstream(f"replica-{n}"), None) for n in range(REPLICAS)])  # type: ignore[arg-type]
    texts = dict[int, bytes]()
    blocks = size // (BLOCK_TOKENS * BYTES_A_TOKEN)
    requests = [request_of(Prompt(0, 0, 0, (0, *range(n, n + blocks - 1))), texts) for n in range(repeats)]
    took = []
    for request in requests:
        start = time.perf_counter_ns()
        route.pick(request)
        between = time.perf_counter_ns()
        plain.pick(request)
        took.append((between - start) - (time.perf_counter_ns() - between))
    return statistics.median(took) / 1000


def rows(prompts: list[Prompt], sizes: tuple[int, ...]) -> Iterator[Row]:
    """A row for each size of the replicas' caches, and one for what it costs."""
    for size in sizes:
        ours = run(prompts, size, "prefix-affinity")
        others = {
            "round robin": run(prompts, size, "weighted"),
            **{f"hashed by {n} block{'s' * (n > 1)}": run(prompts, size, "weighted", hashed=n) for n in (1, 2, 3)},
        }
        best = max(others.values(), key=lambda seen: seen.hit_rate)
        quickest = min(others.values(), key=lambda seen: seen.mean_s)
        yield judged(
            f"prefix affinity, {REPLICAS} replicas of {size * BLOCK_TOKENS / 1e6:.1f}M tokens' cache",
            "mean TTFT below all; hit rate >= 98 % of the best; less crowded than hashing",
            _told(ours),
            ours.mean_s < quickest.mean_s and ours.hit_rate >= 0.98 * best.hit_rate and ours.imbalance < best.imbalance,
            "; ".join(f"{name}: {_told(seen)}" for name, seen in others.items()),
            ours=_raw(ours),
            others={name: _raw(seen) for name, seen in others.items()},
        )
    took = cost_us()
    yield judged("choosing by prefix, 4 KiB", "<= 10 us", f"{took:.1f} us", took <= 10, "more than by weights")


def _told(seen: Seen) -> str:
    return f"hit rate {seen.hit_rate:.1%}, mean TTFT {seen.mean_s:.2f} s, fullest {seen.imbalance:.2f}x"


def _raw(seen: Seen) -> dict[str, Any]:
    return {
        "hit_rate": seen.hit_rate,
        "mean_ttft_s": seen.mean_s,
        "p50_ttft_s": percentile(seen.ttft_s, 50),
        "p99_ttft_s": percentile(seen.ttft_s, 99),
        "imbalance": seen.imbalance,
        "busiest": seen.work,
        "asked": seen.asked,
        "computed_tokens": seen.loads,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prefix", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a part of the trace, for development; not to be quoted")
    quick = parser.parse_args(arguments).quick
    console, facts = Console(highlight=False), machine.facts()
    if not TRACE.is_file():
        console.print(f"skipped: there is no trace at {TRACE}; set WEIR_DATA to the directory of data sets")
        return 0
    found = list(rows(trace(most=3_000 if quick else None), SIZES[1:2] if quick else SIZES))
    return runner.finished("prefix", found, facts, console)


if __name__ == "__main__":
    sys.exit(main())
