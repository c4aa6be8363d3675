"""The ops listener, over the wire."""

from __future__ import annotations

from tests.admin.conftest import Listener


async def test_healthy_and_ready(operations: Listener) -> None:
    """Readiness counts the workers."""
    assert await operations.ask("GET", "/healthz") == (200, {"status": "ok"})
    status, body = await operations.ask("GET", "/readyz")
    assert (status, body) == (200, {"status": "ready", "workers": {"ready": 1, "wanted": 2}})


async def test_not_ready_is_still_healthy(operations: Listener) -> None:
    """While it starts or drains, clients are sent elsewhere, but nobody should restart it."""
    operations.operated.is_ready = False
    assert (await operations.ask("GET", "/healthz"))[0] == 200
    status, body = await operations.ask("GET", "/readyz")
    assert (status, body["status"]) == (503, "starting")
    operations.operated.drain()
    assert (await operations.ask("GET", "/readyz"))[1]["status"] == "draining"


async def test_metrics_in_prometheus_text(operations: Listener) -> None:
    """With the content type that Prometheus asks for."""
    status, headers, body = await operations.raw("GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert body == b"weir_up 1\n"


async def test_nothing_of_admin_is_here(operations: Listener) -> None:
    """The public listener knows no other path."""
    assert (await operations.ask("GET", "/admin/status"))[0] == 404
