"""Requests that may go up as one: same identity or tenant, same model, equal parameters. And how long to wait. Pure.

Rules for the window:
1. It is 0 while no call of the group is under way: a client that asks one thing after the other waits for nothing.
2. It is 0 too where waiting has brought nobody of late; every `PROBE`th is tried all the same.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
import orjson

from policies.microbatch.split import Inputs
from proxy.body import Body
from proxy.exchange import Request

Share = Literal["key", "tenant"]
PROBE: Final = 16
_LITTLE: Final = 0.05
_FADE: Final = 0.2
_VERSIONED: Final = frozenset((b"openai-beta", b"openai-organization", b"openai-project"))


def group_key(request: Request, inputs: Inputs, share: Share) -> bytes:
    """What is equal for requests that may go up as one."""
    body, identity = request.body, request.exchange.identity
    assert isinstance(body, Body)
    others = {name: value for name, value in body.fields.items() if name not in ("input", "model")}
    who = [identity.tenant] if share == "tenant" else [identity.tenant, identity.key, request.exchange.tags]
    head: list[Any] = [who, request.model, inputs.kind, request.target.decode("latin-1"), others]
    for name, value in request.headers:
        if name in _VERSIONED:
            head.append([name.decode(), value.decode("latin-1")])
    return orjson.dumps(head, option=orjson.OPT_SORT_KEYS)


class Pace(msgspec.Struct):
    """What a group has seen: calls under way, and how many more a window brought, of late."""

    running: int = 0
    gain: float = 1.0
    skipped: int = 0

    def window_s(self, most_s: float) -> float:
        """How long the next one waits for others."""
        if not self.running:
            return 0.0
        if self.gain >= _LITTLE:
            return most_s
        self.skipped += 1
        if self.skipped < PROBE:
            return 0.0
        self.skipped = 0
        return most_s

    def brought(self, others: int) -> None:
        """A window has closed."""
        self.gain += _FADE * (others - self.gain)
