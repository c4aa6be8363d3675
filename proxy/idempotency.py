"""`Idempotency-Key`: one key stands for one request (case 36 of the abuse table).

What lives here: remembering which request a tenant's key was first seen with, for a day, in this worker and, where
there is one, in the Store. The same request may come again, as a client's own retry, and goes the way of any other; a
different one under the same key is refused, since an upstream that honours the key would answer it with the first
one's answer.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

from cachetools import TTLCache

from proxy.errors import WeirError
from proxy.exchange import Request
from proxy.state.protocol import StateLost, Store

HEADER: Final = b"idempotency-key"
TTL_S: Final = 24 * 3600.0
_KEYS: Final = 10_000
_BOUND_S: Final = 0.05  # a Store that is slower than that isn't waited for: the worker's own memory must do


class Keys:
    """The keys that were seen."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._seen: TTLCache[str, bytes] = TTLCache(_KEYS, TTL_S)

    async def check(self, tenant: str, key: bytes, request: Request, body: bytes) -> None:
        """Raises WeirError 422 if the tenant's key came with another request before."""
        digest = hashlib.blake2b(b"\0".join((request.method.encode(), request.target, body)), digest_size=16).digest()
        name = f"idempotency/{tenant}/{hashlib.blake2b(key, digest_size=16).hexdigest()}"
        first = self._seen.setdefault(name, digest)
        if first == digest and self._store is not None:
            first = await self._first_of_all(self._store, name, digest)
        if first != digest:
            message = "This Idempotency-Key was used with another request in the last 24 hours: use a new key."
            raise WeirError(422, message, code="idempotency_key_reused", param="Idempotency-Key")

    async def _first_of_all(self, store: Store, name: str, digest: bytes) -> bytes:
        try:
            async with asyncio.timeout(_BOUND_S):
                known = await store.get(name)
                if known is None:
                    await store.put(name, digest, TTL_S)
        except (StateLost, TimeoutError):
            return digest
        return known or digest
