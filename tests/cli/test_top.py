"""`weir top`: what two looks at the metrics add up to, and how it is drawn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from proxy.cli.top import BudgetLine, between, parsed
from proxy.exposition import Facts, WorkerFacts, exposition
from proxy.metrics import DeploymentSeries, Metrics, merge
from tests.cli.conftest import Weir


class Usage:
    """Of one call."""

    input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens = 900, 100, 0, 0, 0


def work(metrics: Metrics, times: int) -> None:
    """So many good requests of 0.3 s and one that failed."""
    for _ in range(times):
        metrics.exchange("chat.completions", "gpt-5", 200, "complete", 0.3)
        metrics.attempt("chat.completions", "gpt-5", "openai", 200, 0.05, 0.3, Usage(), 1_000_000, "observed")
    metrics.exchange("chat.completions", "gpt-5", 502, "complete", 5.0)
    metrics.attempt("chat.completions", "gpt-5", "local", "connect_timeout", None, 5.0, None, None, "unpriced")
    metrics.saving("cache", "modelled", 4_000_000)
    metrics.saving("cascade", "modelled", -1_000_000)


def standing(metrics: Metrics) -> None:
    """What gauges say."""
    metrics.gauges.exchanges, metrics.gauges.streams = 7, 3
    metrics.share("teams", "team search", "500 USD/month", 0.91)
    metrics.share("teams", "team docs", "500 USD/month", 0.2)
    metrics.deployments = [
        DeploymentSeries("gpt-5", "openai#2/gpt-5", "openai", {"ok": 2}, in_flight=4),
        DeploymentSeries("gpt-5", "local/llama", "local", {"open": 2}),
    ]


def text(metrics: Metrics) -> str:
    """As the ops listener says it."""
    workers = (WorkerFacts(0, True, 0.1, 1.0, 1000),)
    return exposition(merge([metrics.snapshot()]), Facts(workers=workers, workers_wanted=2)).decode()


def test_a_frame_is_the_difference_of_two_looks() -> None:
    """Rates and quantiles count what came between; what was before is of no account."""
    metrics = Metrics(["gpt-5"])
    work(metrics, 1000)
    standing(metrics)
    before = parsed(text(metrics), 10.0)
    work(metrics, 98)
    frame = between(before, parsed(text(metrics), 12.0))
    assert frame.requests_s == pytest.approx(49.5)
    assert frame.failed == pytest.approx(1 / 99)
    assert frame.p50_s is not None and 0.16 < frame.p50_s <= 0.32
    assert frame.p99_s is not None and 0.3 < frame.p99_s <= 5.12
    assert frame.ttft_p50_s == pytest.approx(0.05, abs=0.01)
    assert (frame.in_flight, frame.streams, frame.ready, frame.wanted) == (7, 3, 1, 2)
    assert frame.tokens_s == pytest.approx(49_000)
    assert frame.cost_h == pytest.approx(98 * 0.001 / 2 * 3600)
    assert frame.saved_h == pytest.approx(0.003 / 2 * 3600)
    assert [(line.name, line.in_flight, dict(line.states)) for line in frame.upstreams] == [
        ("local", 0, {"open": 2}),
        ("openai", 4, {}),
    ]
    assert [line.failed for line in frame.upstreams] == [1.0, 0.0]
    assert frame.budgets[0] == BudgetLine("teams", "team search", "500 USD/month", 0.91)


def test_where_nothing_happened_nothing_is_claimed() -> None:
    """No request: no latency, no share that failed. A proxy that began anew counts from zero."""
    metrics = Metrics()
    work(metrics, 3)
    before = parsed(text(metrics), 0.0)
    idle = between(before, parsed(text(metrics), 2.0))
    assert (idle.requests_s, idle.failed, idle.p50_s, idle.p99_s) == (0.0, None, None, None)
    again = between(before, parsed(text(Metrics()), 2.0))
    assert (again.requests_s, again.cost_h) == (0.0, 0.0)


@pytest.fixture
def ops() -> Iterator[str]:
    """An ops listener: at each look there has been more."""
    metrics = Metrics(["gpt-5"])
    standing(metrics)

    class Ops(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            work(metrics, 10)
            content = text(metrics).encode() if self.path == "/metrics" else b"<html>"
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Ops)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_frame_is_printed(weir: Weir, ops: str) -> None:
    """All that was asked for stands there, in plain text where no terminal is."""
    done = weir("top", "--once", "--interval", "0.1", "--url", ops)
    assert done.returncode == 0, done.stderr
    for words in ("1 of 2 workers", "requests/s", "p99", "in flight", "cost/h", "saved/h", "500 USD/month", "91.0%"):
        assert words in done.stdout
    assert "open in 2" in done.stdout and "\x1b" not in done.stdout


def test_what_cannot_be_watched_is_said(weir: Weir, ops: str) -> None:
    """No proxy, no metrics there, no URL: one line each."""
    none = weir("top", "--once")
    assert none.returncode == 1 and "no proxy runs with the home directory" in none.stderr
    other = weir("top", "--once", "--url", f"{ops}/elsewhere")
    assert other.returncode == 1 and "doesn't answer with metrics" in other.stderr
    assert weir("top", "--once", "--url", "localhost:9090").returncode == 2
