"""What a caller waits for: the median over one idle connection, and the tail under Poisson arrivals."""

from __future__ import annotations

import statistics

from bench import payloads
from bench.load import poisson, single, wire
from bench.overhead.rounds import Stage, in_turn
from bench.quantiles import paired_difference, paired_ratio, percentile
from bench.results import Row, failed, judged, skipped
from bench.subjects import Subject


def p50_row(stage: Stage) -> Row:
    """Median latency over one connection: the judged subject minus nginx, and minus no proxy."""
    number, target, limit_us = "added p50, one connection", "Weir - nginx <= 60 µs", 60
    if why := stage.why_not("nginx"):
        return skipped(number, target, why)
    if why := stage.why_not(stage.judged):
        return failed(number, target, why)

    def measure(subject: Subject) -> float:
        request = wire.request(subject.url, payloads.unary_request())
        return percentile(single.latencies_us(subject.url, request, stage.plan.single_requests), 50)

    p50 = in_turn(stage.running("direct", "nginx", stage.judged, "aiohttp"), stage.plan.single_rounds, measure)
    over_nginx = paired_difference(p50[stage.judged], p50["nginx"])
    over_direct = paired_difference(p50[stage.judged], p50["direct"])
    described = ", ".join(f"{name} {statistics.median(values):.0f}" for name, values in p50.items())
    seen = f"{over_nginx:.0f} µs over nginx, {over_direct:.0f} µs over direct"
    return judged(number, target, seen, over_nginx <= limit_us, f"p50 in µs: {described}", p50_us=p50)


def p99_row(stage: Stage, capacity: float | None) -> Row:
    """p99 at half of the judged subject's capacity, timed from the intended send; the same rate for both."""
    number, target, limit = "p99, Poisson at half of capacity", "<= 3.0x nginx", 3.0
    if why := stage.why_not("nginx"):
        return skipped(number, target, why)
    if why := stage.why_not(stage.judged):
        return failed(number, target, why)
    if capacity is None:
        return skipped(number, target, "the capacity isn't known: see the unary request")
    rate, turn = capacity / 2, iter(range(10**9))
    lost = {"count": 0}
    late: list[float] = []

    def measure(subject: Subject) -> float:
        request = wire.request(subject.url, payloads.unary_request())
        seen = poisson.run(subject.url, request, rate=rate, seconds=stage.plan.poisson_s, seed=next(turn))
        lost["count"] += seen.failed + seen.unanswered
        late.append(percentile(seen.late_us, 99))
        return percentile(seen.latencies_us, 99)

    p99 = in_turn(stage.running("nginx", stage.judged), stage.plan.poisson_rounds, measure)
    ratio = paired_ratio(p99[stage.judged], p99["nginx"])
    described = ", ".join(f"{name} {statistics.median(values):.0f} µs" for name, values in p99.items())
    note = f"{lost['count']} lost; " * bool(lost["count"])
    note += f"{rate:.0f} requests/s; generator's own lateness p99 {statistics.median(late):.0f} µs"
    return judged(
        number, target, f"{ratio:.2f}x ({described})", ratio <= limit and not lost["count"], note, p99_us=p99, rate=rate
    )
