"""An aiohttp application on sockets that are already bound."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Sequence

import orjson
from aiohttp import web

from proxy.errors import WeirError

_log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """Serves until it is closed. The sockets belong to it."""

    def __init__(self, application: web.Application, sockets: Sequence[socket.socket]) -> None:
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        self._sockets = sockets

    async def start(self) -> None:
        """Begin to accept."""
        await self._runner.setup()
        for sock in self._sockets:
            await web.SockSite(self._runner, sock).start()

    async def close(self) -> None:
        """Stop accepting, give running answers a second."""
        await self._runner.cleanup()
        for sock in self._sockets:
            sock.close()


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure in OpenAI's form, aiohttp's own too."""
    try:
        return await handler(request)
    except WeirError as error:
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return web.Response(status=error.status, body=error.body(), content_type="application/json", headers=headers)
    except web.HTTPException as error:
        failure = WeirError(error.status, f"{error.reason}: {request.method} {request.path}", code=_code(error.status))
        answer = web.Response(status=error.status, body=failure.body(), content_type="application/json")
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        failure = WeirError(500, "Something is wrong in here; the log says more.", type="server_error")
        return web.Response(status=500, body=failure.body(), content_type="application/json")


def as_json(value: object, *, status: int = 200) -> web.Response:
    """A JSON answer that nobody may store."""
    return web.Response(
        status=status,
        body=orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _code(status: int) -> str:
    return {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}.get(status, "invalid_request")
