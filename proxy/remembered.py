"""Request bodies that are expected again, known by their bytes: they needn't be read a second time.

Rules:
1. Nothing is remembered but what a policy asks to (a cache does, of what it answered): other requests pay nothing.
2. Bounded in bytes, by what the policies allow; beyond that those that were remembered first are forgotten.
3. A body is the same object for all requests of one key with these bytes: nobody may change what it holds but its
   `memo`. It isn't shared between keys: by the time that reading takes, one could tell what another one asks.
"""

from __future__ import annotations

from typing import Final

from proxy.body import Body
from proxy.exchange import Identity

LARGEST_BYTES: Final = 64 * 1024
_TIMES: Final = 3  # a text, and what is read out of it
_AROUND_BYTES: Final = 3072

Whose = tuple[str, str | None, bytes]


class Bodies:
    """One worker's."""

    __slots__ = ("_bytes", "_known", "limit_bytes")

    def __init__(self) -> None:
        self.limit_bytes = 0
        self._bytes = 0
        self._known: dict[Whose, Body] = {}

    def __repr__(self) -> str:
        return f"<Bodies {len(self._known)}, {self._bytes} of {self.limit_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._known)

    def get(self, identity: Identity, raw: bytes) -> Body | None:
        """The body with these bytes, if this key's is remembered."""
        return self._known.get((identity.tenant, identity.key, raw))

    def remember(self, identity: Identity, body: Body) -> None:
        """Keeps a body, unless it is large."""
        whose = identity.tenant, identity.key, body.raw
        size = _size_of(body)
        if not body.parsed or len(body.raw) > LARGEST_BYTES or size > self.limit_bytes or whose in self._known:
            return
        self._known[whose] = body
        self._bytes += size
        self._trim()

    def allow(self, more_bytes: int) -> None:
        """A policy allows so much more; less, where it ends."""
        self.limit_bytes += more_bytes
        self._trim()

    def _trim(self) -> None:
        while self._bytes > self.limit_bytes:
            body = self._known.pop(next(iter(self._known)))
            self._bytes -= _size_of(body)


def _size_of(body: Body) -> int:
    return len(body.raw) * _TIMES + _AROUND_BYTES
