"""Who asks: from a request's credentials to an `Identity`.

Open mode (loopback only): there are no keys of ours; the client's own key passes through to the upstream, and the
tenant is its hash. Keys mode: the client shows a virtual key; it is looked up by its SHA-256 in this worker's memory,
and never leaves the proxy. Beside keys, tokens of issuers (`proxy.clients.oidc`) where the teams file names some.

A key is never logged, echoed or kept: what is remembered is its hash.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from proxy.clients.keys import KeyRecord
from proxy.clients.names import group_name
from proxy.errors import AUTHENTICATION, WeirError
from proxy.exchange import Identity
from proxy.gently import Steps, at_once
from proxy.wire.headers import Headers

if TYPE_CHECKING:
    from proxy.clients.oidc import Signing, Tokens
    from proxy.config import Configuration
    from proxy.config.teams import TeamsFile

_REMEMBERED: Final = 4096
_KEY_BYTES: Final = 4096
_ALWAYS: Final = float("inf")
_TOKEN_BYTES: Final = 16_384
_A_STEP: Final = 64
_ANONYMOUS: Final = Identity(tenant="anonymous")


def credential(headers: Headers, most_bytes: int = _KEY_BYTES) -> bytes | None:
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
    if found is not None and (not found or len(found) > most_bytes):
        raise _unauthorized("The API key is empty or too long.")
    return found


def _unauthorized(message: str) -> WeirError:
    headers = ((b"www-authenticate", b"Bearer"),)
    return WeirError(401, message, type=AUTHENTICATION, code="invalid_api_key", headers=headers)


class Open:
    """No keys of ours. The tenant is a hash of whatever key passes through."""

    def __init__(self) -> None:
        self._known: LRUCache[str, Identity] = LRUCache(_REMEMBERED)

    def recognise(self, headers: Headers) -> tuple[Identity, float]:
        """Who asks, and how long that holds, in Unix seconds."""
        return self.identify(headers), _ALWAYS

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
    """Virtual keys, by hash. `replace` takes a new table: a revoked key is refused from the next request on.

    `tokens` says who bears one of an issuer; None where no issuer is accepted.
    """

    def __init__(
        self,
        records: Iterable[KeyRecord],
        clock: Callable[[], float] = time.time,
        tokens: Tokens | None = None,
    ) -> None:
        self._clock = clock
        self._records: tuple[KeyRecord, ...] = ()
        self._known: Mapping[str, tuple[KeyRecord, Identity, float]] = {}
        self.tokens = tokens
        self._most_bytes = _KEY_BYTES if tokens is None else _TOKEN_BYTES
        self.replace(records)

    def replace(self, records: Iterable[KeyRecord]) -> None:
        """Takes over another table of keys. Those that are as they were keep their identity."""
        at_once(self.replacing(records))

    def replacing(self, records: Iterable[KeyRecord]) -> Steps[None]:
        """The same in steps; the table before it counts until the last."""
        records = tuple(records)
        if records == self._records:
            return
        before, table = self._known, {}
        for number, record in enumerate(records, 1):
            known = before.get(record.sha256)
            if known is None or (known[0] is not record and known[0] != record):  # thousands, at each reload
                known = record, _identity(record), _ALWAYS if record.expires is None else record.expires
            table[record.sha256] = known
            if not number % _A_STEP:
                yield
        self._records, self._known = records, table

    def following(self, tokens: Tokens | None, records: Iterable[KeyRecord]) -> Steps[Keys]:
        """Those of the next configuration."""
        keys = Keys((), self._clock, tokens)
        keys._records, keys._known = self._records, self._known
        yield from keys.replacing(records)
        return keys

    def identify(self, headers: Headers) -> Identity:
        """Who asks. Raises WeirError 401 without a key that is known, unexpired and not revoked."""
        return self.recognise(headers)[0]

    def recognise(self, headers: Headers) -> tuple[Identity, float]:
        """Who asks, and how long that holds, in Unix seconds. Raises WeirError as `identify`."""
        key = credential(headers, self._most_bytes)
        if key is None:
            raise _unauthorized(
                "No API key was sent. Send the virtual key that you were given as `Authorization: Bearer KEY`."
            )
        digest = hashlib.sha256(key).hexdigest()
        known = self._known.get(digest)
        if known is None and self.tokens is not None and key.startswith(b"ey") and key.count(b".") == 2:
            return self.tokens.identify(key, self._clock())
        if known is None or not compare_digest(known[0].sha256, digest) or not known[0].active(self._clock()):
            raise _unauthorized("The API key is not known, has expired or was revoked.")
        return known[1], known[2]


def _identity(record: KeyRecord) -> Identity:
    # The smallest named group that shares what it keeps: a project's keys see the same cache entries and object ids.
    return Identity(
        tenant=group_name(record.org, record.team, record.project) or record.id,
        key=record.id,
        team=record.team or None,
        project=record.project or None,
        org=record.org or None,
        tags=dict(record.tags),
        models=None if record.models is None else tuple(record.models),
    )


def identities_of(
    configuration: Configuration,
    records: Iterable[KeyRecord],
    before: Open | Keys | None,
    signing: Signing,
    unknown: Callable[[str], object],
) -> Steps[Open | Keys]:
    """What a configuration asks for, in steps. What didn't change is taken over from `before`."""
    if configuration.deployment.keys != "required":
        return Open()
    last = before if isinstance(before, Keys) else None
    tokens = _tokens_of(configuration.teams, last, signing, unknown)
    return (yield from (last or Keys(())).following(tokens, records))


def _tokens_of(
    teams: TeamsFile | None, before: Keys | None, signing: Signing, unknown: Callable[[str], object]
) -> Tokens | None:
    if teams is None or not teams.issuers:
        return None
    if before is not None and before.tokens is not None and before.tokens.teams == teams:
        return before.tokens
    from proxy.clients.oidc import Tokens  # with cryptography it takes a while to import: only where there are issuers

    tokens = Tokens(teams, unknown)
    tokens.adopt(signing)
    return tokens
