"""Sends spans by OTLP, in a thread of the cold process (`proxy.cold`) that reads what is new in the journal.

Rules: asked for by OpenTelemetry's own variables (`asked_for`), configured by them (address, headers, certificate,
compression, resource). What can't be sent is dropped and said once: a trace is for looking, the ledger keeps accounts.
Spans begin where it is told to (`since`): what the journal had before isn't told again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy import __version__
from proxy.journal import Follower
from proxy.tracing.assembly import Assembly, Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

POLL_S: Final = 0.5
BATCH: Final = 512
Say = Callable[..., object]


class NoExporterError(Exception):
    """Traces are asked for, and can't be had; the text says what to do."""


def asked_for(env: Mapping[str, str]) -> bool:
    """Whether the environment wants traces, by the variables that every OpenTelemetry program heeds."""
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = env.get("OTEL_TRACES_EXPORTER", "")
    somewhere = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return exporter == "otlp" or (not exporter and bool(somewhere))


class Exporter:
    """The thread. `start`, and `stop` when the workers have ended, so that the last spans are sent."""

    def __init__(
        self,
        home: Path,
        send: SpanExporter,
        make: Callable[[Span], ReadableSpan],
        say: Say,
        since: Mapping[str, int] | None = None,
    ) -> None:
        self._follower = Follower(home, from_start=False, since=since)
        self._assembly = Assembly()
        self._send, self._make, self._say = send, make, say
        self._ending = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Begin to follow the journal."""
        self._thread.start()

    def stop(self, within_s: float = 5.0) -> None:
        """Send what is left, and end."""
        self._ending.set()
        self._thread.join(within_s)

    def _run(self) -> None:
        while not self._ending.wait(POLL_S):
            self._step()
        self._step()
        with contextlib.suppress(Exception):
            self._send.shutdown()

    def _step(self) -> None:
        try:
            spans = [self._make(span) for span in self._assembly.take(self._follower.poll())]
        except OSError:  # a segment went while it was looked at
            return
        except Exception as error:
            self._told(False, type(error).__name__)
            return
        for begin in range(0, len(spans), BATCH):
            self._export(spans[begin : begin + BATCH])

    def _export(self, spans: Sequence[ReadableSpan]) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            taken = self._send.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:
            self._told(False, type(error).__name__)
        else:
            self._told(taken, "not taken")

    def _told(self, taken: bool, why: str) -> None:
        if taken and self._failing:
            self._say("info", "traces are taken again")
        elif not taken and not self._failing:
            self._say("warning", "traces are lost", {"reason": why})
        self._failing = not taken


def exporter(home: Path, say: Say, since: Mapping[str, int] | None = None) -> Exporter:
    """What sends this home's traces as the environment says: of what the journal has beyond these sizes of its
    segments, else beyond what it has now. Raises `NoExporterError` without the extra `otel`.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
    except ImportError as error:
        raise NoExporterError("install weir-proxy[otel]") from error
    resource = Resource.create({"service.name": "weir", "service.version": __version__} | _named())
    return Exporter(home, OTLPSpanExporter(), maker(resource), say, since)


def _named() -> dict[str, Any]:
    """A name that the environment gives wins over ours."""
    import os

    name = os.environ.get("OTEL_SERVICE_NAME")
    return {"service.name": name} if name else {}


def maker(resource: Any) -> Callable[[Span], ReadableSpan]:
    """Turns our spans into OpenTelemetry's."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    scope = InstrumentationScope("weir", __version__)
    kinds = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
    flags = TraceFlags(TraceFlags.SAMPLED)

    def context(trace: str, span: str, remote: bool = False) -> SpanContext:
        return SpanContext(int(trace, 16), int(span, 16), is_remote=remote, trace_flags=flags)

    def made(span: Span) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=context(span.trace, span.id),
            parent=context(span.trace, span.parent, span.kind == "server") if span.parent else None,
            resource=resource,
            attributes=span.attributes,
            kind=kinds[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=scope,
        )

    return made
