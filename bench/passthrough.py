"""The reference that is always available: the least that an aiohttp application can do to forward a request.

    python -m bench.passthrough PORT UPSTREAM [CA]

`web.Application` and `ClientSession`, as most Python gateways are built; no parsing, no metering. It is not a subject
of the targets, only of the comparison.
"""

from __future__ import annotations

import gc
import ssl
import sys
from collections.abc import AsyncIterator

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}
SESSION: web.AppKey[ClientSession] = web.AppKey("session", ClientSession)


def application(upstream: str, tls: ssl.SSLContext | bool) -> web.Application:
    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = TCPConnector(limit=0, ssl=tls, keepalive_timeout=60)
        async with ClientSession(connector=connector, auto_decompress=False, timeout=ClientTimeout()) as made:
            app[SESSION] = made
            yield

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = _end_to_end(request.headers.items())
        url = upstream + request.path_qs
        async with request.app[SESSION].request(request.method, url, headers=headers, data=body) as answer:
            kept = _end_to_end(answer.headers.items())
            if answer.content_length is not None:
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", forward)
    return app


def _end_to_end(headers: object) -> CIMultiDict[str]:
    pairs: list[tuple[str, str]] = list(headers)  # type: ignore[call-overload]
    return CIMultiDict((name, value) for name, value in pairs if name.lower() not in HOP_BY_HOP)


def main() -> None:
    port, upstream = int(sys.argv[1]), sys.argv[2]
    tls: ssl.SSLContext | bool = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else True
    uvloop.install()
    gc.freeze()
    web.run_app(application(upstream, tls), host="127.0.0.1", port=port, access_log=None, print=None, backlog=4096)


if __name__ == "__main__":
    main()
