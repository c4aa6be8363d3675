"""Public keys of issuers, fetched by the supervisor: kept in turn, kept through outages, told to all workers.

Rules:
1. An issuer's keys are fetched every `refresh_s`, and once more when a worker meets a token by a key that isn't known,
   but not within `ASKED_S` of the last try: nobody can make us flood the issuer.
2. Turning without a gap: a key that the issuer names is accepted at once, one that it no longer names for `overlap_s`.
3. A fetch that fails changes nothing until `outage_s` after the last one that didn't; then there are no keys, and
   tokens get 503. What was fetched is kept in `<home>/jwks.json`, so that a restart during an outage changes nothing.
4. Only public members of keys are kept, only of kinds that sign, RSA from 2048 bits. No redirects, 256 KiB at most.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import orjson

from proxy.clients.keys import write_private
from proxy.config.issuers import Issuer
from proxy.exposition import IssuerFacts
from proxy.logs import Log

FILE: Final = "jwks.json"
ASKED_S: Final = 10.0
FAILED_S: Final = 15.0  # a fetch that failed is tried again after this, or after `refresh_s` if that is shorter
FETCH_S: Final = 5.0
MOST_KEYS: Final = 64
_MOST_BYTES: Final = 256 * 1024
_PUBLIC: Final = ("kty", "kid", "alg", "use", "n", "e", "crv", "x", "y")
_KINDS: Final = ("RSA", "EC", "OKP")
_RSA_BITS: Final = 2048

JWK = dict[str, Any]
Fetch = Callable[[str], Awaitable[bytes]]
"""The body behind an address. Raises any exception."""


class Named(msgspec.Struct):
    """A public key, and when its issuer last named it."""

    jwk: JWK
    at_s: float


@dataclass
class _Known:
    url: str
    keys: dict[str, Named] = field(default_factory=dict)
    fetched_s: float = 0.0
    tried_s: float = 0.0
    failed: int = 0
    failing: bool = False

    def current(self, issuer: Issuer, now_s: float) -> list[JWK] | None:
        """The keys that count now; None if none is known."""
        if not self.fetched_s or now_s - self.fetched_s > issuer.outage_s:
            return None
        return [one.jwk for one in self.keys.values() if self.fetched_s - one.at_s <= issuer.overlap_s]

    def due_s(self, issuer: Issuer) -> float:
        """When to fetch next."""
        return self.tried_s + (min(FAILED_S, issuer.refresh_s) if self.failing else issuer.refresh_s)


class SigningKeys:
    """The keys of all issuers. `issuers` are those of the files in force; `tell` is called when keys changed."""

    def __init__(
        self,
        home: Path,
        issuers: Callable[[], Mapping[str, Issuer]],
        tell: Callable[[Mapping[str, list[JWK]]], object],
        log: Log,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = home / FILE
        self._issuers = issuers
        self._tell = tell
        self._log = log
        self._fetch = fetch or fetched
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._told: Mapping[str, list[JWK]] = {}
        self._wake = asyncio.Event()

    def current(self) -> dict[str, list[JWK]]:
        """By issuer, the public keys that count now; no entry where none is known."""
        now_s, found = self._clock(), {}
        for name, issuer in self._issuers().items():
            known = self._of(name, issuer).current(issuer, now_s)
            if known is not None:
                found[name] = known
        return found

    def ask(self, name: str) -> None:
        """Somebody met a key that isn't known."""
        issuer = self._issuers().get(name)
        if issuer is not None and self._clock() - self._of(name, issuer).tried_s >= ASKED_S:
            self._of(name, issuer).tried_s = 0.0
            self._wake.set()

    def wake(self) -> None:
        """Other issuers may be named."""
        self._wake.set()

    def facts(self) -> tuple[IssuerFacts, ...]:
        """How they stand."""
        now_s = self._clock()
        found = []
        for name, issuer in self._issuers().items():
            known = self._of(name, issuer)
            keys = known.current(issuer, now_s) or ()
            found.append(IssuerFacts(name, len(keys), now_s - known.fetched_s if known.fetched_s else -1, known.failed))
        return tuple(found)

    async def begin(self) -> None:
        """What was kept, then what the issuers say now: before the first request."""
        await asyncio.to_thread(self._restore)
        await self.refresh()

    async def follow(self) -> None:
        """Fetch in turn, until cancelled."""
        while True:
            now_s = self._clock()
            due_s = [self._of(name, issuer).due_s(issuer) for name, issuer in self._issuers().items()]
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.05, min(due_s, default=now_s + 3600.0) - now_s))
            except TimeoutError:
                pass
            await self.refresh()

    async def refresh(self) -> None:
        """Fetch what is due, and tell what changed."""
        now_s = self._clock()
        issuers = self._issuers()
        due = [(name, one) for name, one in issuers.items() if self._of(name, one).due_s(one) <= now_s]
        await asyncio.gather(*(self._refresh_one(name, issuer) for name, issuer in due))
        now = self.current()
        if now != self._told:
            self._told = now
            self._tell(now)
            await asyncio.to_thread(self._keep)

    async def _refresh_one(self, name: str, issuer: Issuer) -> None:
        known = self._of(name, issuer)
        known.tried_s = self._clock()
        try:
            async with asyncio.timeout(2 * FETCH_S):
                keys = await self._keys_of(issuer)
        except Exception as error:
            known.failed += 1
            if not known.failing:
                self._log.error("public keys can't be fetched", issuer=name, error=_said(error))
            known.failing = True
            return
        known.failing, known.fetched_s = False, self._clock()
        for jwk in keys:
            known.keys[_id(jwk)] = Named(jwk, known.fetched_s)
        gone_s = known.fetched_s - issuer.overlap_s
        known.keys = {id: one for id, one in known.keys.items() if one.at_s >= gone_s}

    async def _keys_of(self, issuer: Issuer) -> list[JWK]:
        url = issuer.jwks
        if url is None:
            found = orjson.loads(await self._fetch(issuer.url.rstrip("/") + "/.well-known/openid-configuration"))
            if found["issuer"] != issuer.url:
                raise ValueError("the document is another issuer's")
            url = found["jwks_uri"]
            if urlsplit(url).scheme != "https" and urlsplit(issuer.url).scheme == "https":
                raise ValueError("the keys' address isn't https")
        keys = [good for jwk in orjson.loads(await self._fetch(url))["keys"] if (good := usable(jwk)) is not None]
        if not keys:
            raise ValueError("there is no usable key")
        return keys[:MOST_KEYS]

    def _of(self, name: str, issuer: Issuer) -> _Known:
        known = self._known.get(name)
        if known is None or known.url != issuer.url:
            known = self._known[name] = _Known(issuer.url)
        return known

    def _keep(self) -> None:
        kept = {name: (one.url, one.fetched_s, one.keys) for name, one in self._known.items() if one.fetched_s}
        write_private(self._path, msgspec.json.encode(kept))

    def _restore(self) -> None:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=dict[str, tuple[str, float, dict[str, Named]]])
        except (OSError, msgspec.DecodeError):
            return
        for name, (url, fetched_s, keys) in kept.items():
            self._known[name] = _Known(url, keys, min(fetched_s, self._clock()))


def usable(jwk: object) -> JWK | None:
    """The public members of a key that signs; None if it is none."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in _KINDS or jwk.get("use", "sig") != "sig":
        return None
    found = {name: value for name in _PUBLIC if isinstance(value := jwk.get(name), str)}
    if found["kty"] == "RSA" and _bits(found.get("n", "")) < _RSA_BITS:
        return None
    return found


async def fetched(url: str) -> bytes:
    """GET, without redirects, a limited amount in limited time."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=FETCH_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
        session.get(url, allow_redirects=False, headers={"accept": "application/json"}) as answer,
    ):
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        body = b""
        async for part in answer.content.iter_chunked(65536):
            body += part
            if len(body) > _MOST_BYTES:
                raise ValueError("the answer is too long")
        return body


def _bits(encoded: str) -> int:
    try:
        return int.from_bytes(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)), "big").bit_length()
    except ValueError:
        return 0


def _id(jwk: JWK) -> str:
    return orjson.dumps(jwk, option=orjson.OPT_SORT_KEYS).decode()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
