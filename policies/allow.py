"""`allow`: which models and endpoints a key may use.

    - use: allow
      models: [gpt-4o-mini, "claude-*"]
      endpoints: [chat.completions, embeddings]
      stateful: true # files, batches, stored responses, …

Stateful endpoints keep objects at the upstream. In keys mode, with one upstream key for all, they are denied unless
`stateful: true`; then each object belongs to the tenant that made it, and nobody else can read, list, use or delete
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict

from proxy.body import Body
from proxy.chain import Services
from proxy.config import Order, globs
from proxy.errors import PERMISSION, WeirError
from proxy.exchange import Forward, Request
from proxy.form import MOST_BYTES
from proxy.objects.makers import Objects
from proxy.objects.ownership import ADMINISTRATION, listed_in, made_in, named_in, named_in_path, parsed, used_by
from proxy.response import Response
from proxy.wire.call import BodyReader

ESSENTIAL = True  # access isn't something that the kill switch may switch off
ORDER = Order(
    outside=("cache", "coalesce", "cascade", "retry"), why="a key must not be answered from a model it may not use"
)

_FORM_ID: Final = re.compile(rb'name="?[a-z_]*_ids?(?:\[\])?"?\s*[\r;]', re.I)


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
        if request.endpoint.stateful or isinstance(request.body, Body):
            return await self._owned(request, forward)
        return await forward(request)

    async def _owned(self, request: Request, forward: Forward) -> Response:
        """Only this tenant's objects go up, and only its own come down."""
        tenant, used = request.exchange.identity.tenant, await self._used(request)
        owners = await self._objects.owners(used) if used else {}
        for name in used:
            if owners.get(name) != tenant:
                request.exchange.note(self._name, "refused", self._source, object=name[:200])
                raise _not_found(name)
        response = await forward(request)
        if not _may_make(request):
            return response
        if response.is_event_stream and response.status < 300:
            response.tap(_Recorder(self._objects, tenant, request).event)
        if response.status >= 300 or not _is_json(response):
            return response
        told = parsed(await response.read())
        if request.method in ("GET", "HEAD") and not used:
            return response if request.method == "HEAD" else await self._listed(response, told, tenant)
        if request.method != "DELETE" and (made := made_in(told)):
            await self._objects.record(made, tenant)
        return response

    async def _used(self, request: Request) -> list[str]:
        """The ids that a request names. What is below an object is its own: of a path, the first one counts."""
        body = request.body
        if isinstance(body, Body) and not request.endpoint.stateful:
            return sorted(used_by(body))
        named = named_in_path(request.path)
        if named is None or request.path.split("/")[2] in ADMINISTRATION:
            raise _denied("This path may not be used with this key.", "path_not_allowed", None)
        if isinstance(body, BodyReader):
            await _check_form(body, request)
            return named[:1]
        told = body.fields if isinstance(body, Body) else parsed(body) if body else {}
        if told is None:
            raise WeirError(400, "The request's body is not valid JSON.", code="invalid_json")
        return [*named[:1], *sorted(named_in(told))]

    async def _listed(self, response: Response, told: Any, tenant: str) -> Response:
        """A list of objects, without those of others."""
        entries = listed_in(told)
        if entries is None:
            raise _not_found("")
        ids = [str(item["id"]) for item in entries if isinstance(item, dict) and "id" in item]
        owners = await self._objects.owners(ids)
        own = [item for item in entries if isinstance(item, dict) and owners.get(str(item.get("id"))) == tenant]
        told = {**told, "data": own}
        for end, index in (("first_id", 0), ("last_id", -1)):
            if end in told:
                told[end] = own[index].get("id") if own else None
        return Response(response.status, response.headers, orjson.dumps(told))


class _Recorder:
    """Finds the ids of what a stream makes."""

    def __init__(self, objects: Objects, tenant: str, request: Request) -> None:
        self._objects, self._tenant, self._request = objects, tenant, request
        self._known: set[str] = set()

    def event(self, seen: Any) -> None:
        told = parsed(data) if (data := getattr(seen, "data", None)) is not None else None
        if not isinstance(told, dict):
            return
        made = made_in(told) | made_in(told.get("response")) | made_in(told.get("item"))
        if new := made - self._known:
            self._known |= new
            self._request.exchange.detached("ownership", lambda _: self._objects.record(new, self._tenant), timeout_s=5)


async def _check_form(body: BodyReader, request: Request) -> None:
    """A form carries a file, not references: ids come as JSON, where they are read."""
    seen = await body.peek(lambda seen: False, MOST_BYTES)
    if _FORM_ID.search(seen):
        raise WeirError(400, "Send the ids of objects as JSON, not in a form.", code="invalid_form")


def _may_make(request: Request) -> bool:
    """Whether the answer may tell of objects: an answer that is kept is one."""
    endpoint, store = request.endpoint, request.field("store")
    return endpoint.stateful or store is True or (endpoint.name.startswith("responses") and store is not False)


def _is_json(response: Response) -> bool:
    return any(name == b"content-type" and b"json" in value for name, value in response.headers)


def build(config: Config, services: Services) -> Allow:
    """The policy for one entry of a policy file."""
    return Allow(config, services.name, services.source, services.objects)
