"""CPU of a unary request: 1.36 KB there, 741 bytes back, 16 keep-alive connections, as fast as they go."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench import machine, payloads
from bench.load import wrk
from bench.overhead.rounds import Stage, cpu_window, in_turn
from bench.quantiles import paired_ratio
from bench.results import Row, failed, judged, skipped
from bench.subjects import Subject


@dataclass(frozen=True, slots=True)
class Round:
    cpu_us: float
    per_second: float
    failed: int


def rounds(stage: Stage, count: int, others: tuple[str, ...] = ("aiohttp",)) -> dict[str, list[Round]]:
    """CPU per request and throughput of nginx, the judged subject and others, as the pass-through."""
    program = machine.wrk()
    assert program is not None
    script = wrk.script(payloads.unary_request(), stage.setting.directory)

    def measure(subject: Subject) -> Round:
        with cpu_window(subject) as window:
            seen = wrk.run(program, script, subject.url, seconds=stage.plan.wrk_s, core=stage.setting.cores.load)
        return Round(window.cpu_ns / 1000 / max(1, seen.requests), seen.per_second, seen.failed)

    return in_turn(stage.running("nginx", stage.judged, *others), count, measure)


def row(
    stage: Stage, number: str, limit: float, count: int, others: tuple[str, ...] = ("aiohttp",)
) -> tuple[Row, float | None]:
    """The ratio to nginx; and the capacity of the judged subject in requests a second."""
    target = f"<= {limit:.1f}x nginx"
    if machine.wrk() is None:
        return skipped(number, target, "wrk is not installed"), None
    if why := stage.why_not("nginx"):
        return skipped(number, target, why), None
    if why := stage.why_not(stage.judged):
        return failed(number, target, why), None
    seen = rounds(stage, count, others)
    cpu = {name: [one.cpu_us for one in values] for name, values in seen.items()}
    ratio = paired_ratio(cpu[stage.judged], cpu["nginx"])
    lost = sum(one.failed for values in seen.values() for one in values)
    described = ", ".join(f"{name} {statistics.median(values):.0f} µs" for name, values in cpu.items())
    capacity = statistics.median(one.per_second for one in seen[stage.judged])
    note = f"{lost} requests failed" if lost else f"{capacity:.0f} requests/s"
    made = judged(
        number, target, f"{ratio:.2f}x ({described})", ratio <= limit and not lost, note, cpu_us=cpu, capacity=capacity
    )
    return made, capacity
