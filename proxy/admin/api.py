"""The admin listener: operating this proxy. Loopback only, every request with the admin token.

Rules:
- A `Host` that isn't loopback is refused before anything else: a web page whose name was made to resolve to 127.0.0.1
  (DNS rebinding) still sends its own name.
- `Authorization: Bearer …`: the content of `<home>/admin.token`, or what has a role (`proxy.admin.guard`); errors in
  OpenAI's form; nothing is cached.
- GET changes nothing; POST answers when the change is in force, and is in the audit log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import orjson
from aiohttp import web

from proxy.admin.guard import Admitted, guard, is_loopback_host, said
from proxy.admin.operated import Operated
from proxy.admin.site import as_json, errors_as_json
from proxy.audit import AuditLog
from proxy.clients.keys import KeyFileError, KeyRecord, KeyStore, Role
from proxy.errors import WeirError
from proxy.logs import Log

__all__ = ["application", "is_loopback_host"]
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
    role: Role | None = None
    id: str | None = None


class Rotation(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/keys/{id}/rotate`: for how long the secret before this one is still accepted."""

    overlap_s: float = 24 * 3600.0


class Bypass(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/bypass`."""

    on: bool


def application(
    operated: Operated,
    admitted: Admitted | str,
    keys: KeyStore,
    audit: AuditLog | None = None,
    log: Log | None = None,
) -> web.Application:
    """The routes of the admin listener, for those who are admitted; a text is the token of the only one."""
    admitted = Admitted(admitted) if isinstance(admitted, str) else admitted
    application = web.Application(middlewares=[errors_as_json, guard(admitted, audit, log)], client_max_size=BODY_BYTES)
    _add_operations(application.router, operated)
    _add_keys(application.router, keys)
    if audit is not None:
        _add_audit(application.router, audit)
    return application


def _add_operations(router: web.UrlDispatcher, operated: Operated) -> None:
    async def status(_: web.Request) -> web.Response:
        return as_json(msgspec.to_builtins(operated.status()))

    async def reload(request: web.Request) -> web.Response:
        outcome = await operated.reload("asked by admin")
        said(request, hash=outcome.hash, changed=outcome.changed)
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
        on = (await _body(request, Bypass)).on
        said(request, on=on)
        operated.bypass(on)
        return as_json({"bypass": operated.status().bypass})

    async def exchange(request: web.Request) -> web.Response:
        record = await operated.explain(request.match_info["id"], None)
        if record is None:
            raise WeirError(404, "No such exchange in the journal.", code="exchange_not_found")
        return as_json(record)

    async def resume(request: web.Request) -> web.Response:
        policy = request.match_info["policy"]
        said(request, policy=policy)
        if not await operated.bring_back(policy):
            raise WeirError(404, f"No policy `{policy}` has stepped back.", code="policy_not_found")
        return as_json({"policy": policy, "mode": "on"})

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
    router.add_post("/admin/stepped-back/{policy}/resume", resume)
    router.add_post("/admin/policies/{use}/{operation}", operate)


def _add_keys(router: web.UrlDispatcher, keys: KeyStore) -> None:
    async def list_keys(_: web.Request) -> web.Response:
        found = await _with_keys(keys.list)
        return as_json({"keys": [_shown(key) for key in found]})

    async def create(request: web.Request) -> web.Response:
        new = await _body(request, NewKey)
        try:
            secret, record = await _with_keys(lambda: keys.create(**msgspec.structs.asdict(new)))
        except ValueError as error:
            raise WeirError(409, str(error), code="key_exists", param="id") from None
        _tell_of(request, record)
        return as_json({**_shown(record), "key": secret}, status=201)

    async def revoke(request: web.Request) -> web.Response:
        try:
            record = await _with_keys(lambda: keys.revoke(request.match_info["id"]))
        except KeyError:
            raise WeirError(404, "No such key.", code="key_not_found") from None
        _tell_of(request, record)
        return as_json(_shown(record))

    async def rotate(request: web.Request) -> web.Response:
        overlap_s = (await _body(request, Rotation)).overlap_s if request.can_read_body else Rotation().overlap_s
        try:
            secret, record = await _with_keys(lambda: keys.rotate(request.match_info["id"], overlap_s))
        except KeyError:
            raise WeirError(404, "No such key, or it is closed.", code="key_not_found") from None
        _tell_of(request, record)
        said(request, overlap_s=overlap_s)
        return as_json({**_shown(record), "key": secret}, status=201)

    router.add_get("/admin/keys", list_keys)
    router.add_post("/admin/keys", create)
    router.add_delete("/admin/keys/{id}", revoke)
    router.add_post("/admin/keys/{id}/rotate", rotate)


def _add_audit(router: web.UrlDispatcher, audit: AuditLog) -> None:
    async def entries(request: web.Request) -> web.Response:
        try:
            most = max(1, min(int(request.query.get("last", "100")), 10_000))
        except ValueError:
            raise WeirError(400, "`last` must be a number.", code="invalid_parameter", param="last") from None
        found = await asyncio.to_thread(lambda: deque(audit.entries(), most))
        return as_json({"entries": [{"at": entry.at.isoformat(), **msgspec.to_builtins(entry)} for entry in found]})

    router.add_get("/admin/audit", entries)


def _tell_of(request: web.Request, record: KeyRecord) -> None:
    """What the audit log says of a key."""
    scope = "/".join(part or "-" for part in (record.org, record.team, record.project))
    said(request, subject=record.id, scope=scope, role=record.role, expires=record.expires)


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
