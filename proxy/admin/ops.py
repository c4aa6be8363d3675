"""The ops listener: health, readiness, metrics. Nothing here is secret, so it may be bound publicly.

- `GET /healthz`: 200 while the supervisor lives. A draining one is healthy: restarting it would cut what runs.
- `GET /readyz`: 200 when clients should be sent here, else 503.
- `GET /metrics`: Prometheus text, all workers summed.
"""

from __future__ import annotations

from aiohttp import web

from proxy.admin.operated import Operated
from proxy.admin.site import as_json, errors_as_json
from proxy.exposition import CONTENT_TYPE


def application(operated: Operated) -> web.Application:
    """The routes of the ops listener."""

    async def healthz(_: web.Request) -> web.Response:
        return as_json({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        status = operated.status()
        body = {
            "status": "ready" if status.ready else "draining" if status.draining else "starting",
            "workers": {"ready": sum(worker.ready for worker in status.workers), "wanted": status.workers_wanted},
        }
        return as_json(body, status=200 if status.ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=await operated.metrics(), headers={"Content-Type": CONTENT_TYPE})

    application = web.Application(middlewares=[errors_as_json], client_max_size=1024)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/metrics", metrics)
    return application
