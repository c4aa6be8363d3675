"""Which calls in flight may be joined by which requests. Pure.

Rules:
1. What the same request is, is the exact cache's key: never across tenants, and within one as far as the policy says.
   Besides, only requests of the same form share: streamed or not, with the same stream options and service tier.
2. Most requests have no twin, and their key would cost more than all else here: so it is worked out only for those
   that look alike. What looks different (`likeness`) is different. Whether a request may share at all is asked then
   too, but for what is told at once (`may_share`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import orjson

from policies.cache.key import Share, key_of, uncacheable
from policies.coalesce.shared import Shared
from proxy.body import Body
from proxy.exchange import Request

_ENDS: Final = 48  # characters at either end of a text that are looked at


_ENDPOINTS: Final = frozenset(
    ("chat.completions", "completions", "embeddings", "messages", "responses", "audio.speech", "moderations")
)
_DETERMINISTIC: Final = frozenset(("embeddings", "moderations", "audio.speech"))


def may_share(request: Request, sampled: bool) -> bool:
    """Whether it is worth a look: most of what is never shared is told by its endpoint and temperature."""
    name, body = request.endpoint.name, request.body
    if name not in _ENDPOINTS or not isinstance(body, Body):
        return False
    return sampled or name in _DETERMINISTIC or body.get("temperature") == 0


def likeness(request: Request) -> int:
    """What is equal for all requests that could share, and cheap to tell."""
    body, tenant = request.body, request.exchange.identity.tenant
    assert isinstance(body, Body)
    if not body.parsed:  # large, and made of few strings: what is looked at here would have to be parsed first
        return hash((tenant, request.model, len(body)))
    get = body.getter
    told = get("messages") or get("input") or get("prompt")
    if type(told) is list:
        last = told[-1]
        told = last.get("content") if type(last) is dict else last
    if type(told) is not str:
        told = len(told) if type(told) is list else None
    elif len(told) > 2 * _ENDS:
        return hash((tenant, request.model, told[:_ENDS], told[-_ENDS:]))
    return hash((tenant, request.model, told))


def full_key(request: Request, share: Share, sampled: bool) -> str | None:
    """What is equal for requests that share, and for no others; None for one that shares with nobody."""
    if uncacheable(request, sampled) is not None:
        return None
    get = request.field
    form = [get("stream") is True, get("stream_options"), get("service_tier")]
    return f"{key_of(request, share)} {orjson.dumps(form, option=orjson.OPT_SORT_KEYS).decode()}"


class InFlight:
    """The calls that may still be joined."""

    def __init__(self, share: Share, sampled: bool) -> None:
        self._share: Share = share
        self._sampled = sampled
        # By likeness: the only one, whose key nobody needed yet; or those that look alike, by their keys.
        self._calls: dict[int, Shared | dict[str, Shared]] = {}

    def __len__(self) -> int:
        return sum([1 if isinstance(found, Shared) else len(found) for found in self._calls.values()])

    def enter(self, request: Request, make: Callable[[Request, int], Shared]) -> tuple[Shared | None, bool]:
        """The call of an equal request, and True; or a new one that may be joined, and False. None: it shares none."""
        like = likeness(request)
        alike = self._calls.get(like)
        if alike is None:
            made = self._calls[like] = make(request, like)
            return made, False
        key = full_key(request, self._share, self._sampled)
        if key is None:
            return None, False
        keyed = self._keyed(like, alike)
        found = keyed.get(key)
        if found is not None:
            return found, True
        made = keyed[key] = make(request, like)
        made.key = key
        return made, False

    def _keyed(self, like: int, alike: Shared | dict[str, Shared]) -> dict[str, Shared]:
        if isinstance(alike, dict):
            return alike
        key = full_key(alike.request, self._share, self._sampled)
        keyed = self._calls[like] = {}
        if key is not None:
            alike.key = key
            keyed[key] = alike
        return keyed

    def pass_on(self, made: Shared, key: str) -> None:
        """A call that takes the place of another, which is over."""
        made.key = key
        keyed = self._calls.setdefault(made.like, {})
        assert isinstance(keyed, dict), "others have looked for it by its key"
        keyed[key] = made

    def remove(self, shared: Shared) -> None:
        """A call that can't be joined any more. Harmless if it is none."""
        like = shared.like
        alike = self._calls.get(like)
        if alike is shared:
            del self._calls[like]
        elif isinstance(alike, dict) and alike.get(shared.key) is shared:
            del alike[shared.key]
            if not alike:
                del self._calls[like]
