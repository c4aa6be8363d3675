"""Memory of a worker: the proportional set size, idle."""

from __future__ import annotations

import time

from bench import processes
from bench.load import single, wire
from bench.overhead.rounds import Stage
from bench.payloads import unary_request
from bench.results import Row, failed, judged, skipped
from bench.subjects import Weir

LIMIT_MB = 80
NUMBER, TARGET = "worker memory (PSS), idle", f"<= {LIMIT_MB} MB"


def row(stage: Stage) -> Row:
    """The largest of Weir's processes that serve; after its first request, before any load."""
    if stage.judged != "weir":
        return skipped(NUMBER, TARGET, f"judging {stage.judged}, not weir")
    if why := stage.why_not("weir"):
        return failed(NUMBER, TARGET, why)
    subject = stage.subjects["weir"]
    assert isinstance(subject, Weir)
    with single.Connection(subject.url) as connection:
        connection.exchange(wire.request(subject.url, unary_request()))
    time.sleep(0.5)
    sizes = {pid: processes.pss_bytes(pid) / 1e6 for pid in subject.pids()}
    largest = max(sizes[pid] for pid in subject.worker_pids())
    note = "whole tree: " + ", ".join(f"{size:.0f}" for size in sizes.values()) + " MB, supervisor first"
    return judged(NUMBER, TARGET, f"{largest:.0f} MB", largest <= LIMIT_MB, note, pss_mb=list(sizes.values()))
