"""`allow`: which models and endpoints a key may use.

    - use: allow models: [gpt-4o-mini, "claude-*"] endpoints: [chat.completions, embeddings] stateful: true          #
      files, batches, stored responses, …

Stateful endpoints keep objects at the upstream. In keys mode, with one upstream key for all, they are denied unless
`stateful: true`; then each object belongs to the tenant that made it, and nobody else can read, list, use or delete
it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict

from proxy.body import Body
from proxy.chain import Services
from proxy.config import Order, globs
from proxy.errors import PERMISSION, WeirError
from proxy.exchange import Forward, Request
from proxy.objects import Objects, ids_in
from proxy.response import Response

ESSENTIAL = True  # access isn't something that the kill switch may switch off
ORDER = Order(
    outside=("cache", "coalesce", "cascade", "retry"), why="a key must not be answered from a model it may not use"
)

_PREFIX: Final = 3  # "/v1/<collection>/<id>" splits into ["", "v1", collection, id, …]


class Config(BaseModel):
    """Models and endpoints that requests may use. Without a list, all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] | None = None
    """Patterns of models that may be asked for."""
    deny_models: tuple[str, ...] = ()
    """Patterns of models that may not, whatever `models` says."""
    endpoints: tuple[str, ...] | None = None
    """Patterns of endpoints, by name: `chat.completions`, `embeddings`, `audio.*`."""
    stateful: bool = False
    """Whether endpoints that keep objects at the upstream may be used by tenants that share its key."""


Matches = Callable[[str], bool]


class Rules:
    """The pure part: what is refused, and why."""

    def __init__(self, config: Config) -> None:
        self._models: Matches | None = None if config.models is None else globs(list(config.models))
        self._denied: Matches | None = globs(list(config.deny_models)) if config.deny_models else None
        self._endpoints: Matches | None = None if config.endpoints is None else globs(list(config.endpoints))

    def refusal(self, endpoint: str, model: str | None) -> WeirError | None:
        """Why a request is refused, or None."""
        if self._endpoints is not None and not self._endpoints(endpoint):
            return _denied(f"The endpoint `{endpoint}` may not be used with this key.", "endpoint_not_allowed", None)
        if model is None:
            return None
        if (self._models is not None and not self._models(model)) or (self._denied is not None and self._denied(model)):
            return _denied(f"The model `{model[:200]}` may not be used with this key.", "model_not_allowed", "model")
        return None


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    refusal = Rules(config).refusal(request.endpoint.name, request.model)
    return "lets it pass" if refusal is None else f"refuses it with {refusal.status}: {refusal.message}"


def _denied(message: str, code: str, param: str | None) -> WeirError:
    return WeirError(403, message, type=PERMISSION, code=code, param=param)


def _not_found(name: str) -> WeirError:
    # The same answer for what doesn't exist and for what is another's: the difference would tell.
    return WeirError(404, f"No object with the id `{name[:200]}` was found.", code="not_found")


class Allow:
    """The layer."""

    def __init__(self, config: Config, name: str, source: str, objects: Objects) -> None:
        self._rules = Rules(config)
        self._stateful = config.stateful
        self._name, self._source = name, source
        self._objects = objects

    async def __call__(self, request: Request, forward: Forward) -> Response:
        refusal = self._rules.refusal(request.endpoint.name, request.model)
        if refusal is not None:
            request.exchange.note(self._name, "refused", self._source, code=refusal.code)
            raise refusal
        if not self._stateful:
            return await forward(request)
        request.exchange.stateful_allowed = True
        if request.endpoint.stateful or request.endpoint.name == "responses":
            return await self._owned(request, forward)
        return await forward(request)

    async def _owned(self, request: Request, forward: Forward) -> Response:
        """Only this tenant's objects go up, and only its own come down."""
        tenant = request.exchange.identity.tenant
        used = _used(request)
        if used:
            owners = await self._objects.owners(used)
            for name in sorted(used):
                if owners.get(name) != tenant:
                    request.exchange.note(self._name, "refused", self._source, object=name)
                    raise _not_found(name)
        response = await forward(request)
        if response.status >= 300 or response.is_event_stream or not _is_json(response):
            if response.is_event_stream and request.method == "POST":
                response.tap(_Recorder(self, tenant, request).event)
            return response
        body = await response.read()
        if request.method == "GET" and not used:
            return await self._listed(response, body, tenant)
        if request.method == "POST":
            await self._objects.record(_made(body), tenant)
        return response

    async def _listed(self, response: Response, body: bytes, tenant: str) -> Response:
        """A list of objects, without those of others."""
        told = _json(body)
        if not isinstance(told, dict) or not isinstance(told.get("data"), list):
            return response
        ids = [str(item["id"]) for item in told["data"] if isinstance(item, dict) and "id" in item]
        owners = await self._objects.owners(ids)
        own = [item for item in told["data"] if isinstance(item, dict) and owners.get(str(item.get("id"))) == tenant]
        told = {**told, "data": own}
        for end, index in (("first_id", 0), ("last_id", -1)):
            if end in told:
                told[end] = own[index].get("id") if own else None
        return Response(response.status, response.headers, orjson.dumps(told))

    def remember(self, ids: set[str], tenant: str, request: Request) -> None:
        """Records in the background of a stream."""

        async def record(exchange: Any) -> None:
            await self._objects.record(ids, tenant)

        request.exchange.detached("ownership", record, timeout_s=5.0)


class _Recorder:
    """Finds the id of what a stream makes in its first events."""

    def __init__(self, policy: Allow, tenant: str, request: Request) -> None:
        self._policy, self._tenant, self._request = policy, tenant, request
        self._done = False

    def event(self, seen: Any) -> None:
        data = getattr(seen, "data", None)
        if self._done or data is None:
            return
        told = _json(data)
        made = told.get("response", told) if isinstance(told, dict) else {}
        if isinstance(made, dict) and isinstance(made.get("id"), str):
            self._done = True
            self._policy.remember({made["id"]}, self._tenant, self._request)


def _used(request: Request) -> set[str]:
    """The ids of objects that a request names, in its path or its body."""
    parts = request.path.split("/")
    used = {part for part in parts[_PREFIX:] if ids_in(b'"%b"' % part.encode())} if len(parts) > _PREFIX else set()
    body = request.body
    if isinstance(body, Body):
        used |= ids_in(body.raw)
    elif isinstance(body, bytes):
        used |= ids_in(body)
    return used


def _made(body: bytes) -> set[str]:
    told = _json(body)
    return {told["id"]} if isinstance(told, dict) and isinstance(told.get("id"), str) else set()


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        return None


def _is_json(response: Response) -> bool:
    return any(name == b"content-type" and b"json" in value for name, value in response.headers)


def build(config: Config, services: Services) -> Allow:
    """The policy for one entry of a policy file."""
    return Allow(config, services.name, services.source, services.objects)
