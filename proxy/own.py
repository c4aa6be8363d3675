"""What the worker answers itself: probes, preflights, and what a client may ask about its own use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

from proxy.control import Lookup
from proxy.cors import CorsRules
from proxy.endpoints import Endpoint
from proxy.errors import WeirError
from proxy.exchange import Identity
from proxy.feedback import of_body
from proxy.wire.call import Call, http_date

if TYPE_CHECKING:
    from proxy.feedback import Feedback

OWN: Final = Endpoint("weir")  # paths under /weir/
PROBES: Final = ("/healthz", "/readyz")
_JSON: Final = (b"content-type", b"application/json")
_METHODS: Final = b"GET, HEAD, POST, DELETE, PUT, PATCH, OPTIONS"


async def probe_or_preflight(call: Call, cors: CorsRules | None, draining: bool) -> None:
    """`/healthz`, `/readyz`, and OPTIONS of any path."""
    head = call.head
    if head.method == "OPTIONS":
        call.send(204, cors.preflight(head.headers) if cors is not None else [(b"allow", _METHODS)], b"")
        return
    ready = head.path == "/healthz" or not draining
    body = b'{"status":"ok"}' if ready else b'{"status":"draining"}'
    call.send(200 if ready else 503, [_JSON, (b"date", http_date())], body)


async def own(
    call: Call, identity: Identity, lookup: Lookup, feedback: Feedback, policies: Iterable[object] = ()
) -> None:
    """`/weir/me`, `/weir/exchanges/{id}`, `/weir/jobs/{id}`: what the supervisor and policies know of a tenant; and
    `/weir/feedback`, what it has to say."""
    try:
        if call.head.path == "/weir/feedback":
            answer = await _said(call, identity, feedback)
        else:
            answer = await _asked(call, identity, lookup, policies)
    except WeirError as error:
        call.send_error(error, [(b"date", http_date())])
        return
    call.send(200, [_JSON, (b"date", http_date())], orjson.dumps(answer))


async def _said(call: Call, identity: Identity, feedback: Feedback) -> dict[str, Any]:
    if call.head.method != "POST":
        raise WeirError(405, "Only POST is answered here.", code="method_not_allowed", headers=((b"allow", b"POST"),))
    assert isinstance(call.body, bytes)
    return await feedback.give(identity, of_body(call.body))


async def _asked(call: Call, identity: Identity, lookup: Lookup, policies: Iterable[object]) -> dict[str, Any]:
    parts = call.head.path.strip("/").split("/")
    if len(parts) == 3 and parts[1] == "jobs" and call.head.method in ("GET", "HEAD", "DELETE"):
        return await _job(identity, call.head.method, parts[2], policies)
    if call.head.method not in ("GET", "HEAD"):
        raise WeirError(405, "Only GET is answered here.", code="method_not_allowed", headers=((b"allow", b"GET"),))
    if parts[1:] == ["me"]:
        usage = await lookup("usage", tenant=identity.tenant)
        return {**msgspec.to_builtins(identity), "usage": usage, **await _about(identity, policies)}
    if len(parts) == 3 and parts[1] == "exchanges":
        found = await lookup("exchange", exchange=parts[2], tenant=identity.tenant)
        if found is None:
            raise WeirError(404, "No exchange with this id is known for this key.", code="exchange_not_found")
        return found
    raise no_such_path(call.head.path)


async def _job(identity: Identity, method: str, id: str, policies: Iterable[object]) -> dict[str, Any]:
    """A request that is answered later: a policy that has such has `jobs(identity, method, id)`."""
    for policy in policies:
        jobs: Any = getattr(policy, "jobs", None)
        if jobs is not None and (found := await jobs(identity, method, id)) is not None:
            return dict(found)
    raise WeirError(404, "No job with this id is known for this key.", code="job_not_found")


async def _about(identity: Identity, policies: Iterable[object]) -> dict[str, list[Any]]:
    """What policies have to say of a client: each has `about(identity)`, which gives lists by name, or hasn't."""
    told: dict[str, list[Any]] = {}
    for policy in policies:
        about: Any = getattr(policy, "about", None)
        if about is not None:
            for name, entries in (await about(identity)).items():
                told.setdefault(name, []).extend(entries)
    return told


def no_such_path(path: str) -> WeirError:
    message = f"There is nothing at `{path[:200]}`. The API is served under /v1, for example /v1/chat/completions."
    return WeirError(404, message, code="unknown_url")
