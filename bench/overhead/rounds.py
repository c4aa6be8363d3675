"""The shape of a run: how long, which subjects, in turn, and the CPU that each round took.

Invariant: a figure is only ever compared with figures of the same `in_turn`, where the subjects follow each other A B A
B, so that a slow spell of the machine meets all of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bench import processes
from bench.subjects import Origin, Setting, Subject, upstream

T = TypeVar("T")
SETTLE_S = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """Durations and counts. `quick` is for development and says so in its table; `full` is what is quoted."""

    rounds: int
    wrk_s: float
    tls_rounds: int
    stream_rounds: int
    stream_chunks: int
    single_rounds: int
    single_requests: int
    poisson_rounds: int
    poisson_s: float
    body_rounds: int
    prompts: int
    images: int
    open_chunks: int


FULL = Plan(5, 4, 3, 5, 200, 9, 1500, 7, 5, 5, 120, 12, 80)
QUICK = Plan(3, 1, 3, 3, 60, 5, 400, 3, 2, 3, 30, 4, 24)


@dataclass(slots=True)
class Stage:
    """One upstream and the subjects before it, all running; only the one in turn is loaded."""

    setting: Setting
    plan: Plan
    subjects: dict[str, Subject]
    judged: str  # the subject that the targets are for
    absent: dict[str, str] = field(default_factory=dict)

    def why_not(self, *names: str) -> str | None:
        """Why a comparison of these subjects can't be made; None when it can."""
        return next((self.absent[name] for name in names if name in self.absent), None)

    def running(self, *names: str) -> list[Subject]:
        return [self.subjects[name] for name in dict.fromkeys(names) if name in self.subjects]


@contextlib.contextmanager
def stage(
    setting: Setting,
    plan: Plan,
    kind: type[Subject],
    makers: Sequence[Callable[[Setting, Origin], Subject]],
    judged: str,
    *,
    tls: bool,
) -> Iterator[Stage]:
    """Start an upstream and the subjects; one that doesn't start is absent, with its reason."""
    with contextlib.ExitStack() as stack:
        behind, origin = upstream(kind, setting, tls=tls)
        stack.enter_context(behind)
        made = Stage(setting, plan, {}, judged)
        for make in makers:
            subject = make(setting, origin)
            try:
                made.subjects[subject.name] = stack.enter_context(subject)
            except (processes.NotReadyError, OSError) as error:
                made.absent[subject.name] = str(error)
        yield made


def in_turn(subjects: Sequence[Subject], rounds: int, measure: Callable[[Subject], T]) -> dict[str, list[T]]:
    """Measure every subject once a round, in the same order; the first round warms up and is dropped."""
    seen: dict[str, list[T]] = {subject.name: [] for subject in subjects}
    for _ in range(rounds + 1):
        for subject in subjects:
            seen[subject.name].append(measure(subject))
    return {name: values[1:] for name, values in seen.items()}


@dataclass(slots=True)
class Window:
    """CPU of a subject's whole tree between entering and leaving."""

    cpu_ns: int = 0


@contextlib.contextmanager
def cpu_window(subject: Subject) -> Iterator[Window]:
    """Count the CPU of the subject; raises RuntimeError when one of its processes was replaced meanwhile."""
    window = Window()
    pids = subject.pids()
    before = processes.cpu_ns(pids)
    yield window
    time.sleep(SETTLE_S)  # what is written behind (journal, metrics) belongs to the requests
    window.cpu_ns = processes.cpu_ns(pids) - before
    if subject.pids() != pids:
        changed = f"{subject.name} changed its processes during a round: {pids} to {subject.pids()}"
        raise RuntimeError(f"{changed}; its log ends: {subject.process.tail()[-600:] if subject.process else ''}")
