"""`headers`: adds and removes header fields, of requests on their way up and of answers on their way down.

- use: headers
  request: {add: {x-team: support}, remove: [x-debug]}
  response: {add: {x-served-by: weir}}
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict

from proxy.chain import Services
from proxy.exchange import Forward, Request
from proxy.response import Response
from proxy.wire.headers import Headers

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_FRAMING: Final = frozenset(("content-length", "transfer-encoding", "connection", "host", "te", "upgrade", "trailer"))


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't be a header's name")
    if name.lower() in _FRAMING:
        raise ValueError(f"{name!r} says where a message ends or goes, and is written by the proxy alone")
    return name.lower()


def _value(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ValueError("a header's value is one line of visible ASCII")
    return value


Name = Annotated[str, AfterValidator(_name)]
Value = Annotated[str, AfterValidator(_value)]


class Changes(BaseModel):
    """What happens to one direction's header fields: first `remove`, then `add`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    add: dict[Name, Value] = {}
    """Fields to set; a field of the same name is replaced."""
    remove: tuple[Name, ...] = ()
    """Fields to take away."""


class Config(BaseModel):
    """Adds and removes header fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request: Changes = Changes()
    """Of requests, before they go upstream."""
    response: Changes = Changes()
    """Of answers, before they go to the client."""


def changed(headers: Headers, changes: Changes) -> Headers:
    """The fields after the changes."""
    gone = {name.encode() for name in (*changes.remove, *changes.add)}
    kept = [pair for pair in headers if pair[0] not in gone]
    return kept + [(name.encode(), value.encode()) for name, value in changes.add.items()]


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    directions = (("request", config.request), ("answer", config.response))
    return "; ".join(f"{name}: {_said(changes)}" for name, changes in directions if changes != Changes())


def _said(changes: Changes) -> str:
    return ", ".join([*(f"sets {name}" for name in changes.add), *(f"removes {name}" for name in changes.remove)])


class HeadersPolicy:
    """The layer."""

    def __init__(self, config: Config) -> None:
        self._request = config.request if config.request != Changes() else None
        self._response = config.response if config.response != Changes() else None

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if self._request is not None:
            request = request.using(headers=changed(request.headers, self._request))
        response = await forward(request)
        if self._response is not None:
            response.headers = changed(response.headers, self._response)
        return response


def build(config: Config, services: Services) -> HeadersPolicy:
    """The policy for one entry of a policy file."""
    return HeadersPolicy(config)
