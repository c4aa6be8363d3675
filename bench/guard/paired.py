"""The paired part: p99 under Poisson arrivals beside a reference, in turn, with a bootstrap confidence interval.

It fails only if the whole interval is over the limit: a noisy machine widens the interval, it doesn't fail the guard.
A turn in which the generator itself was late says nothing of whom it asked: it is taken again, once.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench import certificates, machine, payloads
from bench.load import poisson, wire, wrk
from bench.overhead.rounds import FULL, in_turn, stage
from bench.overhead.run import SUBJECTS, Maker
from bench.quantiles import Interval, bootstrap_ratio, percentile
from bench.subjects import Nginx, Passthrough, Setting, StaticUpstream, StreamUpstream, Subject

ROUNDS, SECONDS, ASSUMED_RATE = 12, 1.5, 1000.0
LATE_US, TRIES = 1000.0, 2


@dataclass(frozen=True, slots=True)
class Paired:
    """The ratio of p99 to the reference, at the rate that both were given."""

    reference: str
    interval: Interval
    rate: float
    lost: int
    again: int  # turns that were taken again


def measure(judged: str = "weir") -> Paired:
    """Start the judged subject and its reference (nginx, else the pass-through). Raises RuntimeError when one
    doesn't start.
    """
    reference: Maker = Nginx if machine.nginx() else Passthrough
    kind: type[Subject] = StaticUpstream if machine.nginx() else StreamUpstream
    allowed, cores = os.sched_getaffinity(0), machine.cores()
    os.sched_setaffinity(0, {cores.load})
    try:
        with tempfile.TemporaryDirectory(prefix="weir-guard-") as name:
            setting = Setting(Path(name), cores, certificates.make(Path(name)))
            makers: list[Maker] = [reference, SUBJECTS[judged]]
            with stage(setting, FULL, kind, makers, judged, tls=False) as running:
                if running.absent:
                    raise RuntimeError("; ".join(running.absent.values()))
                first, second = running.subjects.values()
                return _compare(first, second, setting)
    finally:
        os.sched_setaffinity(0, allowed)


def _compare(reference: Subject, subject: Subject, setting: Setting) -> Paired:
    rate, turn, lost, again = _rate(subject, setting), itertools.count(), 0, 0

    def p99(one: Subject) -> float:
        nonlocal lost, again
        request = wire.request(one.url, payloads.unary_request())
        for tried in range(TRIES):
            seen = poisson.run(one.url, request, rate=rate, seconds=SECONDS, seed=next(turn))
            again += tried > 0
            lost += seen.failed + seen.unanswered
            if percentile(seen.late_us, 99) <= LATE_US:
                break
        return percentile(seen.latencies_us, 99)

    seen = in_turn([reference, subject], ROUNDS, p99)
    interval = bootstrap_ratio(seen[subject.name], seen[reference.name])
    return Paired(reference.name, interval, rate, lost, again)


def _rate(subject: Subject, setting: Setting) -> float:
    """Half of what the subject can do; without wrk, a rate that any machine can do."""
    program = machine.wrk()
    if program is None:
        return ASSUMED_RATE
    script = wrk.script(payloads.unary_request(), setting.directory)
    return (
        max(wrk.run(program, script, subject.url, seconds=1, core=setting.cores.load).per_second for _ in range(2)) / 2
    )
