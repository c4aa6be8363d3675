"""What sends spans: by whose order, what it says when they aren't taken, and that it is nothing where it is off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.journal import Journal
from proxy.tracing.assembly import Assembly
from proxy.tracing.export import Exporter, asked_for, exporter, maker
from tests.tracing.test_assembly import ended


class Taking:
    """An exporter's other end: what it took, and whether it takes."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.takes = True
        self.ended = False

    def export(self, spans: Sequence[Any]) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        if not self.takes:
            return SpanExportResult.FAILURE
        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.ended = True


@pytest.fixture
def taking() -> Taking:
    """Taking, where OpenTelemetry is."""
    pytest.importorskip("opentelemetry.sdk.trace", reason="no OpenTelemetry here (pip install weir-proxy[otel])")
    return Taking()


def write(home: Path, *exchanges: str) -> None:
    """Exchanges that ended, as a worker tells of them."""
    journal = Journal(home / "journal", 0)
    for exchange in exchanges:
        journal.append(ended(exchange))
    journal.close()


def following(home: Path, taking: Taking, said: list[str]) -> Exporter:
    """An exporter whose steps the test makes."""
    from opentelemetry.sdk.resources import Resource

    made: Any = taking
    return Exporter(home, made, maker(Resource({})), lambda level, event, fields=None: said.append(event))


def test_what_is_not_taken_is_said_once(taking: Taking, tmp_path: Path) -> None:
    """A receiver that refuses loses spans, not the proxy; when it takes them again, that is said."""
    said: list[str] = []
    made = following(tmp_path, taking, said)
    for number, takes in enumerate((True, False, False, True)):
        taking.takes = takes
        write(tmp_path, str(number))
        made._step()
    assert said == ["traces are lost", "traces are taken again"]
    assert [span.attributes["weir.exchange"] for span in taking.spans] == ["0", "3"]


def test_the_last_spans_are_sent(taking: Taking, tmp_path: Path) -> None:
    """What was there before isn't told; what ends before the end is, however short before."""
    write(tmp_path, "before")
    made = following(tmp_path, taking, [])
    made.start()
    write(tmp_path, "last")
    made.stop()
    assert [span.attributes["weir.exchange"] for span in taking.spans] == ["last"]
    assert taking.ended


def test_the_name_is_the_environments(taking: Taking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`weir`, unless OpenTelemetry's variable says otherwise."""
    for name in (None, "gateway"):
        if name:
            monkeypatch.setenv("OTEL_SERVICE_NAME", name)
        (tmp_path / "journal").mkdir(exist_ok=True)
        made = exporter(tmp_path, print)
        (span,) = Assembly().take([ended("a")])
        assert made._make(span).resource.attributes["service.name"] == (name or "weir")


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
    ],
)
def test_who_asks_for_traces(env: dict[str, str], wanted: bool) -> None:
    """OpenTelemetry's own variables say whether anything is sent."""
    assert asked_for(env) is wanted


def test_off_costs_nothing() -> None:
    """Nobody imports OpenTelemetry who isn't asked, nor the supervisor the ledger's database."""
    code = "import sys, proxy.supervisor.service, proxy.worker, proxy.cold, policies.trace; "
    code += "print('opentelemetry' in sys.modules or 'sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
