"""A real Weir that sends its traces to a receiver of OTLP over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from proxy.tracing.export import asked_for
from proxy.tracing.parent import span_of
from tests.cli.conftest import environment

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Receiver:
    """Takes what is exported; `spans` are those of all requests, with their resource's attributes."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}
        self.paths: set[str] = set()
        self.failing = False
        self.arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._take(self.path, self.headers, self.rfile.read(int(self.headers["content-length"])))
                self.send_response(400 if receiver.failing else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _take(self, path: str, headers: Any, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest.FromString(body)
        with self.arrived:
            self.paths.add(f"{path} {headers.get('x-tenant')}")
            for resource in request.resource_spans:
                self.resource |= {one.key: one.value.string_value for one in resource.resource.attributes}
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self.arrived.notify_all()

    def wait(self, count: int) -> list[Any]:
        """The spans, once there are so many."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.spans) >= count, 20), f"{len(self.spans)} of {count} spans"
            return list(self.spans)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Listening."""
    pytest.importorskip("opentelemetry.exporter.otlp", reason="no OpenTelemetry here (pip install weir-proxy[otel])")
    made = Receiver()
    yield made
    made.close()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_request_is_seen_where_traces_are(receiver: Receiver, tmp_path: Path) -> None:
    """The exchange in the client's trace, its call beneath it; what ended last is sent before the process ends."""
    (tmp_path / "policies.yaml").write_text("version: 1\npolicies:\n  - {use: trace, sample: 100%}\n")
    env = environment(tmp_path) | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=acme",
        "OTEL_SERVICE_NAME": "weir-test",
        "WEIR_OPS": "off",
        "WEIR_ADMIN": "off",
    }
    home = tmp_path / "home"
    command = [sys.executable, "-m", "proxy.cli", "serve", "--demo", "--listen", "127.0.0.1:0", "--home", str(home)]
    process = subprocess.Popen([*command, "--policies", "policies.yaml"], cwd=tmp_path, env=env)
    try:
        listen = _running(home)["listen"][0]
        exchange = _ask(listen, {"traceparent": f"00-{TRACE}-{SPAN}-01"})
        receiver.wait(2)
        _ask(listen, {})
    finally:
        process.terminate()
        assert process.wait(20) == 0
    spans = receiver.wait(4)
    whole, call = spans[:2]
    assert [span.trace_id.hex() for span in spans[:2]] == [TRACE, TRACE]
    assert (whole.parent_span_id.hex(), whole.span_id.hex()) == (SPAN, span_of(exchange))
    assert call.parent_span_id == whole.span_id
    assert (whole.name, whole.kind, call.kind) == ("chat gpt-4o-mini", 2, 3)  # SERVER, CLIENT
    assert whole.start_time_unix_nano <= call.start_time_unix_nano < call.end_time_unix_nano
    told = attributes(call)
    assert told["gen_ai.operation.name"] == "chat" and told["gen_ai.usage.output_tokens"] > 0
    assert attributes(whole)["weir.exchange"] == exchange and attributes(whole)["weir.cost_usd"] > 0
    assert spans[2].trace_id.hex() != TRACE and spans[2].parent_span_id == b""
    assert (receiver.resource["service.name"], receiver.paths) == ("weir-test", {"/v1/traces acme"})


def test_what_is_not_taken_is_said_once(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that refuses loses spans, not the proxy; when it takes them again, that is said."""
    from proxy.journal import Journal
    from proxy.tracing.export import exporter
    from tests.tracing.test_assembly import ended

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    said: list[str] = []
    made = exporter(tmp_path, lambda level, event, fields=None: said.append(event))
    journal = Journal(tmp_path / "journal", 0)
    for number, failing in enumerate((False, True, True, False)):
        receiver.failing = failing
        journal.append(ended(str(number)))
        journal.flush()
        made._step()
    journal.close()
    assert said == ["traces are lost", "traces are taken again"]
    assert len(receiver.wait(4)) == 4


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
    """A supervisor that isn't asked imports nothing of OpenTelemetry, and neither does a worker."""
    code = "import sys, proxy.supervisor.service, proxy.worker, policies.trace; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def _running(home: Path) -> Any:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            return json.loads((home / "running.json").read_text())
        except (OSError, ValueError):
            time.sleep(0.05)
    raise AssertionError("it doesn't serve")


def _ask(listen: str, headers: dict[str, str]) -> str:
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}).encode()
    headers |= {"content-type": "application/json", "authorization": "Bearer sk-demo"}
    request = urllib.request.Request(f"http://{listen}/v1/chat/completions", body, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        exchange: str = answer.headers["x-weir-exchange"]
        return exchange
