"""The admin listener: operating this proxy. Loopback only, every request with the admin token.

Rules:
- A `Host` that isn't loopback is refused before anything else: a web page whose name was made to resolve to 127.0.0.1
  (DNS rebinding) still sends its own name.
- `Authorization: Bearer <content of <home>/admin.token>`; errors in OpenAI's form; nothing is cached.
- GET changes nothing; POST answers when the change is in force.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from proxy.admin import token as tokens
from proxy.admin.operated import Operated
from proxy.admin.site import Handler, as_json, errors_as_json
from proxy.errors import AUTHENTICATION, PERMISSION, WeirError
from proxy.keys import KeyFileError, KeyRecord, KeyStore

BODY_BYTES = 64 * 1024

T = TypeVar("T")


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/keys`. `expires` is Unix seconds."""

    org: str = ""
    team: str = ""
    project: str = ""
    tags: dict[str, str] = {}
    expires: float | None = None
    models: list[str] | None = None


class Bypass(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/bypass`."""

    on: bool


def application(operated: Operated, token: str, keys: KeyStore) -> web.Application:
    """The routes of the admin listener."""
    application = web.Application(middlewares=[errors_as_json, _guard(token)], client_max_size=BODY_BYTES)
    _add_operations(application.router, operated)
    _add_keys(application.router, keys)
    return application


def is_loopback_host(host: str) -> bool:
    """Whether a Host header names this machine's loopback, with or without a port."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _guard(token: str) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_loopback_host(request.headers.get("Host", "")):
            raise WeirError(403, "The Host header must name this machine.", type=PERMISSION, code="host_not_allowed")
        if not tokens.matches(token, request.headers.get("Authorization")):
            raise WeirError(
                401,
                "The admin token is missing or wrong; it stands in admin.token in the home directory.",
                type=AUTHENTICATION,
                code="invalid_admin_token",
                headers=((b"www-authenticate", b"Bearer"),),
            )
        return await handler(request)

    return guard


def _add_operations(router: web.UrlDispatcher, operated: Operated) -> None:
    async def status(_: web.Request) -> web.Response:
        return as_json(msgspec.to_builtins(operated.status()))

    async def reload(_: web.Request) -> web.Response:
        outcome = await operated.reload("asked by admin")
        return as_json(msgspec.to_builtins(outcome), status=200 if outcome.ok else 422)

    async def drain(_: web.Request) -> web.Response:
        operated.drain()
        return as_json({"draining": True}, status=202)

    async def restart(_: web.Request) -> web.Response:
        if not operated.restart():
            message = "A restart runs already, or the proxy isn't serving."
            raise WeirError(409, message, code="restart_not_possible")
        return as_json({"restarting": True}, status=202)

    async def bypass(request: web.Request) -> web.Response:
        operated.bypass((await _body(request, Bypass)).on)
        return as_json({"bypass": operated.status().bypass})

    async def exchange(request: web.Request) -> web.Response:
        record = await operated.explain(request.match_info["id"], None)
        if record is None:
            raise WeirError(404, "No such exchange in the journal.", code="exchange_not_found")
        return as_json(record)

    async def operate(request: web.Request) -> web.Response:
        where = request.match_info
        arguments = await _body(request, dict[str, Any]) if request.can_read_body else {}
        return as_json(dict(await operated.operate(where["use"], where["operation"], arguments)))

    router.add_get("/admin/status", status)
    router.add_post("/admin/reload", reload)
    router.add_post("/admin/drain", drain)
    router.add_post("/admin/restart", restart)
    router.add_post("/admin/bypass", bypass)
    router.add_get("/admin/exchanges/{id}", exchange)
    router.add_post("/admin/policies/{use}/{operation}", operate)


def _add_keys(router: web.UrlDispatcher, keys: KeyStore) -> None:
    async def list_keys(_: web.Request) -> web.Response:
        found = await _with_keys(keys.list)
        return as_json({"keys": [_shown(key) for key in found]})

    async def create(request: web.Request) -> web.Response:
        new = await _body(request, NewKey)
        secret, record = await _with_keys(lambda: keys.create(**msgspec.structs.asdict(new)))
        return as_json({**_shown(record), "key": secret}, status=201)

    async def revoke(request: web.Request) -> web.Response:
        try:
            return as_json(_shown(await _with_keys(lambda: keys.revoke(request.match_info["id"]))))
        except KeyError:
            raise WeirError(404, "No such key.", code="key_not_found") from None

    router.add_get("/admin/keys", list_keys)
    router.add_post("/admin/keys", create)
    router.add_delete("/admin/keys/{id}", revoke)


async def _with_keys(act: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(act)
    except KeyFileError as error:
        raise WeirError(500, str(error), type="server_error", code="keys_unreadable") from error


def _shown(record: KeyRecord) -> dict[str, Any]:
    """A key for people: without its hash."""
    shown: dict[str, Any] = msgspec.to_builtins(record)
    del shown["sha256"]
    return shown


async def _body(request: web.Request, form: type[T]) -> T:
    try:
        return msgspec.convert(orjson.loads(await request.read()), form)
    except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
        raise WeirError(400, f"The body isn't what is expected here: {error}", code="invalid_body") from None
