"""What an operator may ask of a cache: how it does, what an entry is, to forget some. Called in the supervisor.

Entries are named as in the header `x-weir-cache-entry`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from policies.cache import tiers
from policies.cache.tiers import Eviction, evict
from proxy.errors import WeirError
from proxy.metrics import Snapshot
from proxy.operating import Operating, no_such_operation
from proxy.state.protocol import Store

_ENTRY: Final = re.compile(r"[0-9a-f]{32}")
_EXACTLY: Final = 1000  # entries are counted one by one up to here; beyond, a part of them
_COUNTED: Final = ("hit", "stale", "miss", "passed", "would_hit", "would_miss", "dropped")


class ToForget(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of `evict`: entries, or one of the others."""

    entries: tuple[str, ...] = ()
    tag: str | None = None
    model: str | None = None
    tenant: str | None = None
    policy: str | None = None

    def evictions(self) -> list[Eviction]:
        """What is to be told. Raises ValueError for none."""
        tags = [
            *([self.tag] if self.tag else ()),
            *(f"{name}={value}" for name in ("model", "tenant", "policy") if (value := getattr(self, name))),
        ]
        found = [Eviction(tag=tag) for tag in tags]
        if self.entries:
            found.append(Eviction(keys=self.entries))
        if not found:
            raise ValueError("it must name entries, a tag, a model, a tenant or a policy")
        return found


async def operate(operation: str, arguments: Mapping[str, Any], here: Operating) -> Mapping[str, Any]:
    """`stats`, `get` {entry}, `evict` {entries | tag | model | tenant | policy}, `explain` {a request, a policy}."""
    if operation == "stats":
        return {"policies": _policies(here.counted), "stored": await _stored(here.store)}
    if here.store is None:
        raise WeirError(409, "The workers share no state, so their entries can't be seen.", code="no_state")
    if operation == "get":
        return await _get(here.store, str(arguments.get("entry", "")))
    if operation == "evict":
        try:
            evictions = msgspec.convert(dict(arguments), ToForget).evictions()
        except (msgspec.ValidationError, ValueError) as error:
            raise WeirError(400, f"What to evict isn't clear: {error}.", code="invalid_body") from None
        return {"evicted": sum([await evict(here.store, eviction) for eviction in evictions])}
    if operation == "explain":
        from policies.cache.semantic.explaining import explain

        return await explain(arguments, here.store)
    raise no_such_operation("cache", operation)


async def _get(store: Store, entry: str) -> Mapping[str, Any]:
    if not _ENTRY.fullmatch(entry) or (found := await tiers.get(store, entry)) is None:
        raise WeirError(404, "The cache has no such entry, or no longer.", code="entry_not_found")
    body = found.pop("body")
    told = body.decode("utf-8", "replace") if found["kind"].startswith("application/json") else None
    return {**found, "age_s": time.time() - found["made_s"], "bytes": len(body), "answer": told}


def _policies(counted: Snapshot) -> dict[str, dict[str, float]]:
    """By policy: what was counted since the proxy started, and what the workers hold."""
    found: dict[str, dict[str, float]] = {}
    for policy, name, amount in counted.levels:
        if name in ("cache_entries", "cache_bytes"):
            found.setdefault(policy, dict.fromkeys(_COUNTED, 0))[name.removeprefix("cache_")] = amount
    for policy, action, count in counted.decisions:
        if policy in found and action in _COUNTED:
            found[policy][action] = count
    return found


async def _stored(store: Store | None) -> dict[str, Any] | None:
    """How many entries the Store has. Keys are digests, so a part of them stands for all."""
    if store is None:
        return None
    count = len(await store.keys(tiers.PREFIX, _EXACTLY))
    if count < _EXACTLY:
        return {"entries": count, "exact": True}
    part = len(await store.keys(f"{tiers.PREFIX}00", 100_000))
    return {"entries": max(part * 256, _EXACTLY), "exact": False}
