"""All numbers in one run: four stages (plain and TLS; static and streaming upstream), each with all its subjects."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import certificates, machine, payloads
from bench.overhead import bodies, latency, memory, streams, unary
from bench.overhead.rounds import Plan, Stage, stage
from bench.results import Row, failed, skipped
from bench.subjects import Direct, Nginx, Origin, Passthrough, Setting, StaticUpstream, StreamUpstream, Subject, Weir

GROUPS = ("unary", "p50", "p99", "memory", "stream", "bodies", "held", "tls")
SUBJECTS: dict[str, type[Subject]] = {"weir": Weir, "aiohttp": Passthrough}
Maker = Callable[[Setting, Origin], Subject]
Report = Callable[[Row], None]


def run(plan: Plan, groups: Sequence[str], judged: str, cores: machine.Cores, report: Report) -> list[Row]:
    """Measure the chosen groups for the judged subject; `report` is told each row as it is known.

    `cores` were chosen before this process pinned itself: afterwards it is allowed only one.
    """
    rows: list[Row] = []
    machine.raise_open_files()
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as name:
        directory = Path(name)
        setting = Setting(directory, cores, certificates.make(directory))
        for row in _rows(setting, plan, set(groups), judged):
            rows.append(row)
            report(row)
    return rows


def _rows(setting: Setting, plan: Plan, groups: set[str], judged: str) -> Iterator[Row]:
    if groups & {"unary", "p50", "p99", "memory"}:
        if machine.nginx() is None:
            yield skipped("unary, p50, p99, memory, TLS", "ratios to nginx", "nginx is not installed")
        else:
            with stage(setting, plan, StaticUpstream, _makers(judged), judged, tls=False) as static:
                yield from _static_rows(static, groups)
    if groups & {"stream", "bodies", "held"}:
        with stage(setting, plan, StreamUpstream, _makers(judged, unbuffered=True), judged, tls=False) as streaming:
            _note_absence(streaming)
            yield from _streaming_rows(streaming, groups)
    if "tls" in groups and machine.nginx() is not None:
        yield from _tls_rows(setting, plan, judged)


def _static_rows(static: Stage, groups: set[str]) -> Iterator[Row]:
    if "memory" in groups:
        yield _guarded(memory.NUMBER, lambda: memory.row(static))
    capacity: float | None = None
    if groups & {"unary", "p99"}:
        row, capacity = _guarded_pair(
            "CPU, unary request", lambda: unary.row(static, "CPU, unary request", 2.0, static.plan.rounds)
        )
        yield row
    if "p50" in groups:
        yield _guarded("added p50, one connection", lambda: latency.p50_row(static))
    if "p99" in groups:
        yield _guarded("p99, Poisson at half of capacity", lambda: latency.p99_row(static, capacity))


def _streaming_rows(streaming: Stage, groups: set[str]) -> Iterator[Row]:
    plan = streaming.plan
    if "stream" in groups:
        number = "CPU, streamed chunk, metered and stripped"
        yield _guarded(number, lambda: streams.chunk_row(streaming, number, 1.5, plan.stream_rounds))
    if "bodies" in groups:
        prompt, image = "CPU, 400 KB prompt", "CPU, 5 MB image"
        yield _guarded(prompt, lambda: bodies.row(streaming, prompt, payloads.prompt_request(), plan.prompts))
        yield _guarded(image, lambda: bodies.row(streaming, image, payloads.image_request(), plan.images))
    if "held" in groups:
        yield _guarded("2,000 streams at 8 chunks/s, one worker", lambda: streams.held_row(streaming))


def _tls_rows(setting: Setting, plan: Plan, judged: str) -> Iterator[Row]:
    unary_number, stream_number = "CPU, unary request, TLS upstream", "CPU, streamed chunk, TLS upstream"
    with stage(setting, plan, StaticUpstream, _makers(judged), judged, tls=True) as static:
        yield _guarded_pair(unary_number, lambda: unary.row(static, unary_number, 2.0, plan.tls_rounds))[0]
    with stage(setting, plan, StreamUpstream, _makers(judged, unbuffered=True), judged, tls=True) as streaming:
        yield _guarded(stream_number, lambda: streams.chunk_row(streaming, stream_number, 1.5, plan.tls_rounds))


def _makers(judged: str, *, unbuffered: bool = False) -> list[Maker]:
    reference: list[Maker] = [functools.partial(Nginx, unbuffered=unbuffered)] if machine.nginx() else []
    others: list[Maker] = [SUBJECTS[name] for name in dict.fromkeys((judged, "aiohttp"))]
    return [Direct, *reference, *others]


def _note_absence(made: Stage) -> None:
    if machine.nginx() is None:
        made.absent["nginx"] = "nginx is not installed"


def _guarded(number: str, measure: Callable[[], Row]) -> Row:
    """A number that can't be measured is a failed row; the other numbers are still wanted."""
    try:
        return measure()
    except (OSError, RuntimeError, ValueError) as error:
        return failed(number, "", f"{type(error).__name__}: {error}")


def _guarded_pair(number: str, measure: Callable[[], tuple[Row, float | None]]) -> tuple[Row, float | None]:
    try:
        return measure()
    except (OSError, RuntimeError, ValueError) as error:
        return failed(number, "", f"{type(error).__name__}: {error}"), None
