"""Large bodies: within 1.5x of nginx's CPU plus one scan of the body."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable

from bench import payloads
from bench.load import single, wire
from bench.overhead.rounds import Stage, cpu_window, in_turn
from bench.results import Row, failed, judged, skipped
from bench.subjects import Subject

FACTOR = 1.5


def row(stage: Stage, number: str, body: bytes, count: int) -> Row:
    """CPU of a request with this body over one connection, its arrival checked by the upstream's CRC."""
    target = f"<= {FACTOR}x nginx + 1 scan"
    if why := stage.why_not("nginx"):
        return skipped(number, target, why)
    if why := stage.why_not(stage.judged):
        return failed(number, target, why)
    expected = payloads.body_fingerprint(body).encode()

    def measure(subject: Subject) -> float:
        request = wire.request(subject.url, body)
        with single.Connection(subject.url) as connection, cpu_window(subject) as window:
            for _ in range(count):
                if expected not in wire.answer_body(connection.exchange(request)):
                    raise RuntimeError(f"{subject.name} changed the body on its way")
        return window.cpu_ns / 1000 / count

    cpu = in_turn(stage.running("nginx", stage.judged, "aiohttp"), stage.plan.body_rounds, measure)
    scan_us = scan_time_us(body)
    median = {name: statistics.median(values) for name, values in cpu.items()}
    allowed = FACTOR * median["nginx"] + (scan_us or 0)
    described = ", ".join(f"{name} {value:.0f} µs" for name, value in median.items())
    seen = f"{median[stage.judged] / allowed:.2f} of the allowed {allowed:.0f} µs ({described})"
    note = "no scan found to time, allowed none" if scan_us is None else f"one scan {scan_us:.0f} µs"
    return judged(number, target, seen, median[stage.judged] <= allowed, note, cpu_us=cpu, scan_us=scan_us)


def scan_time_us(body: bytes) -> float | None:
    """The median time of the proxy's own scan of a body; None where the proxy has none."""
    scan = find_scan()
    if scan is None:
        return None
    taken: list[float] = []
    for _ in range(7):
        start = time.perf_counter_ns()
        scan(body)
        taken.append((time.perf_counter_ns() - start) / 1000)
    return statistics.median(taken)


def find_scan() -> Callable[[bytes], object] | None:
    """The scan of `proxy.body`, imported late: the benchmarks also run where it can't be imported."""
    try:
        body = importlib.import_module("proxy.body")
    except ImportError:
        return None
    return getattr(body, "scan", None)
