"""`/v1/models`: what the deployment file offers, merged with what its patterns let through.

A name that is written out in the file is answered from the file. Where a pattern such as `"*"` lets other names
through, the upstream's own list is asked for, through the chain, and the file's names are added to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

import orjson

from proxy.config import Configuration, globs
from proxy.errors import WeirError
from proxy.exchange import Forward, Request
from proxy.response import Response

_JSON: Final = [(b"content-type", b"application/json")]
_PREFIX: Final = "/v1/models/"
Answering = Callable[[Forward], Awaitable[Response]]


class Catalogue:
    """The models of one configuration."""

    def __init__(self, configuration: Configuration) -> None:
        models = configuration.deployment.models
        self._named = {name: _described(name) for name in models if not set(name) & set("*?[")}
        self._open = len(self._named) < len(models) or not models

    def answer(self, request: Request) -> Answering | None:
        """How to answer this request; None to let it pass to the upstream."""
        if request.method not in ("GET", "HEAD"):
            return None
        allowed = request.exchange.identity.models
        may_see = _everything if allowed is None else globs(allowed)
        if request.path.startswith(_PREFIX):
            name = unquote(request.path.removeprefix(_PREFIX))
            if name in self._named and may_see(name):
                return _constant(self._named[name])
            if not self._open or not may_see(name):
                message = f"The model `{name[:200]}` does not exist or you do not have access to it."
                raise WeirError(404, message, code="model_not_found", param="model")
            return None
        if not self._named and allowed is None:
            return None
        named = [model for name, model in self._named.items() if may_see(name)]
        if not self._open:
            return _constant({"object": "list", "data": named})
        return lambda forward: self._merged(request, forward, named, may_see)

    async def _merged(
        self, request: Request, forward: Forward, named: list[dict[str, Any]], may_see: Callable[[str], bool]
    ) -> Response:
        response = await forward(request)
        body = await response.read()
        try:
            told = orjson.loads(body)
            theirs = [model for model in told["data"] if model["id"] not in self._named and may_see(model["id"])]
        except (ValueError, KeyError, TypeError):
            return response  # not a list of models: the upstream's own words are better than a half
        headers = [pair for pair in response.headers if pair[0] not in (b"etag", b"content-encoding")]
        return Response(response.status, headers, orjson.dumps({**told, "data": named + theirs}))


def _everything(name: str) -> bool:
    return True


def _described(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "weir"}


def _constant(value: dict[str, Any]) -> Answering:
    async def answer(forward: Forward) -> Response:
        return Response(200, list(_JSON), orjson.dumps(value))

    return answer
