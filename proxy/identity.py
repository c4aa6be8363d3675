"""Who asks: from a request's credentials to an `Identity`.

Open mode (loopback only): there are no keys of ours; the client's own key passes through to the upstream, and the
tenant is its hash. Keys mode: the client shows a virtual key; it is looked up by its SHA-256 in this worker's memory,
and never leaves the proxy.

A key is never logged, echoed or kept: what is remembered is its hash.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from hmac import compare_digest
from typing import Final
from urllib.parse import quote

from cachetools import LRUCache

from proxy.errors import AUTHENTICATION, WeirError
from proxy.exchange import Identity
from proxy.keys import KeyRecord
from proxy.wire.headers import Headers

_REMEMBERED: Final = 4096
_KEY_BYTES: Final = 4096
_ANONYMOUS: Final = Identity(tenant="anonymous")


def credential(headers: Headers) -> bytes | None:
    """The client's key: `Authorization: Bearer`, `x-api-key` or `api-key`. Raises 401 if ambiguous."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if found is not None or scheme.lower() != b"bearer":
                raise _unauthorized("Send exactly one `Authorization: Bearer KEY` header.")
            found = key.strip()
    for name, value in headers:
        if name in (b"x-api-key", b"api-key"):
            if found is not None and found != value:
                raise _unauthorized("More than one API key was sent.")
            found = value
    if found is not None and (not found or len(found) > _KEY_BYTES):
        raise _unauthorized("The API key is empty or too long.")
    return found


def _unauthorized(message: str) -> WeirError:
    headers = ((b"www-authenticate", b"Bearer"),)
    return WeirError(401, message, type=AUTHENTICATION, code="invalid_api_key", headers=headers)


class Open:
    """No keys of ours. The tenant is a hash of whatever key passes through."""

    def __init__(self) -> None:
        self._known: LRUCache[str, Identity] = LRUCache(_REMEMBERED)

    def until(self, identity: Identity) -> float:
        """How long the identity holds, in Unix seconds."""
        return float("inf")

    def identify(self, headers: Headers) -> Identity:
        """Who asks; anonymous without a key."""
        key = credential(headers)
        if key is None:
            return _ANONYMOUS
        digest = hashlib.sha256(key).hexdigest()[:16]
        identity = self._known.get(digest)
        if identity is None:
            identity = self._known[digest] = Identity(tenant=f"key-{digest}", key=f"key-{digest}")
        return identity


class Keys:
    """Virtual keys, by hash. `replace` takes a new table: a revoked key is refused from the next request on."""

    def __init__(self, records: Iterable[KeyRecord], clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._records: Mapping[str, KeyRecord] = {}
        self._identities: dict[str, Identity] = {}
        self._expiries: dict[str | None, float] = {}
        self.replace(records)

    def until(self, identity: Identity) -> float:
        """How long the identity holds, in Unix seconds."""
        return self._expiries.get(identity.key, float("inf"))

    def replace(self, records: Iterable[KeyRecord]) -> None:
        """Takes over another table of keys."""
        table = {record.sha256: record for record in records}
        self._identities = {digest: _identity(record) for digest, record in table.items()}
        self._expiries = {record.id: record.expires for record in table.values() if record.expires is not None}
        self._records = table

    def identify(self, headers: Headers) -> Identity:
        """Who asks. Raises WeirError 401 without a key that is known, unexpired and not revoked."""
        key = credential(headers)
        if key is None:
            raise _unauthorized(
                "No API key was sent. Send the virtual key that you were given as `Authorization: Bearer KEY`."
            )
        digest = hashlib.sha256(key).hexdigest()
        record = self._records.get(digest)
        if record is None or not compare_digest(record.sha256, digest) or not record.active(self._clock()):
            raise _unauthorized("The API key is not known, has expired or was revoked.")
        return self._identities[digest]


def _identity(record: KeyRecord) -> Identity:
    # The smallest named group that shares what it keeps: a project's keys see the same cache entries and object ids.
    return Identity(
        tenant=_group(record.org, record.team, record.project) or record.id,
        key=record.id,
        team=record.team or None,
        project=record.project or None,
        org=record.org or None,
        tags=dict(record.tags),
        models=None if record.models is None else tuple(record.models),
    )


def _group(*names: str) -> str:
    """`org/team/project`, `org/team`, `-/team`: each group has one such name, whatever stands in its parts."""
    parts = ["%2D" if name == "-" else quote(name, safe=" ") if name else "-" for name in names]
    while parts and parts[-1] == "-":
        parts.pop()
    return "/".join(parts)
