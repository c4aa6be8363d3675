"""One `weir serve --demo` for all that looks at a real one: starting it is what takes the time."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from proxy.simulator.ports import free_port
from tests.children import at_our_end
from tests.cli.conftest import environment
from tests.patience import PATIENCE_S


def until(found: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
    """What `found` returns as soon as it is something."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, KeyError, ValueError):
            if result := found():
                return result
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")


@contextlib.contextmanager
def process(*command: str, **options: Any) -> Iterator[None]:
    """A process for as long as the block runs."""
    nowhere, bound = subprocess.DEVNULL, at_our_end(signal.SIGTERM)
    running = subprocess.Popen(command, stdout=nowhere, stderr=nowhere, preexec_fn=bound, **options)
    try:
        yield
    finally:
        running.terminate()
        running.wait(PATIENCE_S)


@dataclass
class Received:
    """What came by OTLP over HTTP, path and body."""

    url: str = ""
    requests: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)


@contextlib.contextmanager
def receiving() -> Iterator[Received]:
    """A receiver of whatever is posted."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with received.arrived:
                received.requests.append((self.path, self.headers.get("x-tenant"), body))
                received.arrived.notify_all()
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    received.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Demo:
    """A running Weir before the simulator, with its ops address known beforehand."""

    home: Path
    ops: str
    received: Received
    wait: Callable[[], str]

    def ask(self, **headers: str) -> str:
        """A request that is answered; the id of its exchange."""
        body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}).encode()
        headers |= {"content-type": "application/json", "authorization": "Bearer sk-demo"}
        request = urllib.request.Request(f"http://{self.wait()}/v1/chat/completions", body, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            exchange: str = answer.headers["x-weir-exchange"]
            return exchange


@pytest.fixture(scope="package")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """It starts while others do; `wait` says when it serves, and where."""
    directory = tmp_path_factory.mktemp("demo")
    home, ops = directory / "home", f"127.0.0.1:{free_port()}"
    (directory / "policies.yaml").write_text("version: 1\npolicies:\n  - {use: trace}\n")

    def serves() -> str:
        running = until(lambda: json.loads((home / "running.json").read_text()), "weir serves")
        return str(running["listen"][0])

    with receiving() as received:
        env = environment(directory) | {
            "WEIR_OPS": ops,
            "WEIR_ADMIN": "127.0.0.1:0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=acme",
            "OTEL_SERVICE_NAME": "weir-test",
        }
        serve = (sys.executable, "-m", "proxy.cli", "serve", "--demo", "--listen", "127.0.0.1:0", "--home", str(home))
        with process(*serve, "--policies", "policies.yaml", cwd=directory, env=env):
            yield Demo(home, ops, received, serves)
