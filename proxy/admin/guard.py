"""Who may do what on the admin listener, and the record of what was done.

Rules:
- Roles are nested: what a viewer may, finance may, and what finance may, an operator may. Reading needs a viewer,
  changing an operator, unless `ROLES_NEEDED` says otherwise; so a new route is never open by mistake.
- The content of `<home>/admin.token` is an operator's: whoever may read that file may do anything here anyway. Others
  show a key that was made with a role, or a token of an issuer whose claims say one.
- Everything but reading is in the audit log before the answer leaves, also what was refused to somebody who is known;
  of those who aren't, one in a second.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiohttp import web
from aiohttp.typedefs import Middleware

from proxy.admin import token as tokens
from proxy.admin.site import Handler
from proxy.audit import AuditLog
from proxy.clients.claims import ROLES, bearer_of, role_of
from proxy.clients.keys import KeyRecord, Role, digest
from proxy.config.issuers import Issuer
from proxy.errors import AUTHENTICATION, PERMISSION, WeirError
from proxy.logs import Log

_SAID: Final = web.RequestKey("said", dict[str, object])
ROLES_NEEDED: Final[Mapping[tuple[str, str], Role]] = {
    ("GET", "/admin/audit"): "finance",
}
_UNKNOWN_S: Final = 1.0


class Bearer(NamedTuple):
    """Somebody who is known here; without a role he may nothing."""

    name: str
    role: Role | None


@dataclass(frozen=True)
class Admitted:
    """Who may ask: the token of the home directory, keys with a role, tokens of issuers."""

    token: str
    keys: Callable[[], Sequence[KeyRecord]] = lambda: ()
    issuers: Callable[[], Mapping[str, Issuer]] = field(default=dict)
    signing: Callable[[], Mapping[str, list[dict[str, Any]]]] = field(default=dict)
    unknown: Callable[[str], object] = lambda issuer: None
    clock: Callable[[], float] = time.time

    def bearer(self, authorization: str | None) -> Bearer | None:
        """Who shows this; None if it is nobody. Raises WeirError where a token is no good."""
        if tokens.matches(self.token, authorization):
            return Bearer("admin.token", "operator")
        scheme, _, given = (authorization or "").partition(" ")
        shown = given.strip()
        if scheme.lower() != "bearer" or not shown.isascii():
            return None
        hashed = digest(shown)
        for key in self.keys():
            if key.role is not None and key.sha256 == hashed and key.active(self.clock()):
                return Bearer(key.id, key.role)
        if self.issuers() and shown.startswith("ey") and shown.count(".") == 2:
            return self._of_token(shown.encode())
        return None

    def _of_token(self, token: bytes) -> Bearer:
        from proxy.clients.oidc import Checker

        checker = Checker(self.issuers(), self.unknown, self.clock)
        checker.adopt(self.signing())
        found = checker.check(token)
        issuer = self.issuers()[found.issuer]
        return Bearer(bearer_of(found.issuer, issuer, found.claims), role_of(issuer, found.claims))


def needed(method: str, path: str) -> Role:
    """The least role for a route, by its pattern."""
    reading = method in ("GET", "HEAD")
    return ROLES_NEEDED.get(("GET" if reading else method, path), "viewer" if reading else "operator")


def guard(admitted: Admitted, audit: AuditLog | None, log: Log | None) -> Middleware:
    """Refuses whoever may not, and writes down what is done."""
    refused_s = [float("-inf")]

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_loopback_host(request.headers.get("Host", "")):
            raise WeirError(403, "The Host header must name this machine.", type=PERMISSION, code="host_not_allowed")
        request[_SAID] = dict[str, object]()
        reading = request.method in ("GET", "HEAD")
        try:
            bearer = admitted.bearer(request.headers.get("Authorization"))
            if bearer is None:
                raise _unknown()
        except WeirError as error:
            if not reading and time.monotonic() - refused_s[0] >= _UNKNOWN_S:
                refused_s[0] = time.monotonic()
                await _record(request, Bearer("unknown", None), str(error.status), audit, log)
            raise
        wanted = needed(request.method, _route(request))
        if bearer.role is None or ROLES.index(bearer.role) < ROLES.index(wanted):
            if not reading:
                await _record(request, bearer, "403", audit, log)
            raise _lacking(wanted, bearer)
        if reading:
            return await handler(request)
        try:
            answer = await handler(request)
        except WeirError as error:
            await _record(request, bearer, str(error.status), audit, log)
            raise
        except Exception:
            await _record(request, bearer, "500", audit, log)
            raise
        await _record(request, bearer, str(answer.status), audit, log)
        return answer

    return middleware


def said(request: web.Request, **details: object) -> None:
    """What a handler adds to the record of an act: names and numbers."""
    kept: dict[str, object] = request[_SAID]
    kept.update(details)


def is_loopback_host(host: str) -> bool:
    """Whether a Host header names this machine's loopback, with or without a port."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _record(request: web.Request, bearer: Bearer, result: str, audit: AuditLog | None, log: Log | None) -> None:
    if audit is None:
        return
    details: dict[str, object] = request[_SAID]
    subject = str(details.pop("subject", "") or "/".join(request.match_info.values()))
    act = f"{request.method} {_route(request)}"

    def write() -> None:
        audit.append(
            act,
            who=bearer.name,
            role=bearer.role or "",
            origin=str(request.remote or ""),
            subject=subject,
            result=result,
            details=details,
        )

    try:
        await asyncio.to_thread(write)
    except OSError as error:
        if log is not None:
            log.error("the audit log can't be written", act=act, who=bearer.name, reason=str(error))
        return
    if log is not None:
        log.info("admin act", act=act, who=bearer.name, role=bearer.role, result=result)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "(unknown)"


def _unknown() -> WeirError:
    return WeirError(
        401,
        "The admin token is missing or wrong; it stands in admin.token in the home directory.",
        type=AUTHENTICATION,
        code="invalid_admin_token",
        headers=((b"www-authenticate", b"Bearer"),),
    )


def _lacking(wanted: Role, bearer: Bearer) -> WeirError:
    message = f"This needs the role {wanted}; {bearer.name} has {bearer.role or 'none'}."
    return WeirError(403, message, type=PERMISSION, code="role_needed", param=wanted)
