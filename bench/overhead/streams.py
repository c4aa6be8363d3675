"""CPU of a streamed chunk, and many streams held open; every stream is checked to the byte."""

from __future__ import annotations

import statistics

from bench.load import streams
from bench.overhead.rounds import Stage, cpu_window, in_turn
from bench.quantiles import paired_ratio, percentile
from bench.results import Row, failed, judged, skipped
from bench.subjects import Subject

AT_ONCE, GAP_MS = 50, 10
HELD, HELD_GAP_MS, HELD_RAMP_S = 2_000, 125, 2.0


def chunk_row(stage: Stage, number: str, limit: float, count: int) -> Row:
    """50 streams at once, a chunk every 10 ms each; the ratio of CPU per chunk to nginx without buffering."""
    target = f"<= {limit:.1f}x nginx unbuffered"
    if why := stage.why_not("nginx"):
        return skipped(number, target, why)
    if why := stage.why_not(stage.judged):
        return failed(number, target, why)
    wrong: list[str] = []

    def measure(subject: Subject) -> float:
        with cpu_window(subject) as window:
            seen = streams.run(subject.url, streams=AT_ONCE, chunks=stage.plan.stream_chunks, gap_ms=GAP_MS)
        wrong.extend(f"{subject.name}: {problem}" for problem in seen.wrong)
        return window.cpu_ns / 1000 / (AT_ONCE * stage.plan.stream_chunks)

    cpu = in_turn(stage.running("nginx", stage.judged, "aiohttp"), count, measure)
    ratio = paired_ratio(cpu[stage.judged], cpu["nginx"])
    described = ", ".join(f"{name} {statistics.median(values):.1f} µs" for name, values in cpu.items())
    note = f"{len(wrong)} streams wrong, first: {wrong[0]}" if wrong else "all streams right to the byte"
    return judged(number, target, f"{ratio:.2f}x ({described})", ratio <= limit and not wrong, note, cpu_us=cpu)


def held_row(stage: Stage) -> Row:
    """2,000 streams at 8 chunks a second each through one worker."""
    number, target = "2,000 streams at 8 chunks/s, one worker", f"{HELD} right"
    if why := stage.why_not(stage.judged):
        return failed(number, target, why)
    chunks = stage.plan.open_chunks
    lags: dict[str, dict[str, float]] = {}
    for subject in stage.running("direct", stage.judged):
        with cpu_window(subject) as window:
            seen = streams.run(subject.url, streams=HELD, chunks=chunks, gap_ms=HELD_GAP_MS, ramp_s=HELD_RAMP_S)
        if seen.lags_us:
            lags[subject.name] = {
                "p50_ms": percentile(seen.lags_us, 50) / 1000,
                "p99_ms": percentile(seen.lags_us, 99) / 1000,
                "max_ms": max(seen.lags_us) / 1000,
            }
    described = "; ".join(
        f"{name} p99 {lag['p99_ms']:.0f} ms, max {lag['max_ms']:.0f} ms" for name, lag in lags.items()
    )
    note = f"{len(seen.wrong)} wrong, first: {seen.wrong[0]}" if seen.wrong else f"lag behind schedule: {described}"
    cpu_us = window.cpu_ns / 1000 / max(1, seen.events)
    shown = f"{seen.right} right, {seen.most_open} open at once, {cpu_us:.0f} µs/chunk"
    ok = seen.right == HELD and seen.most_open == HELD
    return judged(
        number, target, shown, ok, note, lags=lags, right=seen.right, most_open=seen.most_open, wrong=seen.wrong[:20]
    )
