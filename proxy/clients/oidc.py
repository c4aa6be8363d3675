"""Tokens of issuers (JWT, OpenID Connect): checked in a worker, once each, then remembered by their digest.

Rules:
1. Only what `proxy.config.issuers` names: an issuer to the letter, an audience, an algorithm with a public key. A key
   is used with its own kind of algorithm alone (RFC 8725, 3.1), so a public key can't be taken for a shared secret.
2. Nothing is fetched here. The supervisor fetches public keys and tells all workers (`adopt`); a key that isn't known
   makes this worker ask it once, and the client is told to come again (503); if it stays unknown, 401.
3. What was checked holds until `exp`, or until the public keys change: from then on a request pays one look-up in a
   dictionary. What failed isn't remembered, and nothing of a token is kept, logged or repeated but its digest.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import jwt
import orjson
from cachetools import LRUCache

from proxy.clients.claims import identity_of
from proxy.config.issuers import Issuer
from proxy.config.teams import TeamsFile
from proxy.errors import AUTHENTICATION, UPSTREAM, WeirError
from proxy.exchange import Identity

JWK = dict[str, Any]
Signing = Mapping[str, list[JWK]]
"""By the issuer's name: its public keys as it publishes them. Without a name: they aren't known now."""

TOKEN_BYTES: Final = 16_384
_REMEMBERED: Final = 20_000
_ASK_AGAIN_S: Final = 10.0
_KINDS: Final = {"RS": ("RSA",), "PS": ("RSA",), "ES": ("EC",), "Ed": ("OKP",)}
_CHALLENGE: Final = ((b"www-authenticate", b'Bearer error="invalid_token"'),)


class Checked(NamedTuple):
    """A token that was found good. `claims` are what it says."""

    issuer: str
    claims: dict[str, Any]
    until_s: float


class Checker:
    """The issuers and their public keys. Pure but for the clock; `unknown` is told whose key isn't known."""

    def __init__(
        self,
        issuers: Mapping[str, Issuer],
        unknown: Callable[[str], object] = lambda issuer: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._by_url = {issuer.url: (name, issuer) for name, issuer in issuers.items()}
        self._unknown = unknown
        self._clock = clock
        self._signing: Signing = {}
        self._keys: dict[tuple[str, str | None, str], jwt.PyJWK | None] = {}
        self._asked_s: dict[str, float] = {}

    def adopt(self, signing: Signing) -> None:
        """Other public keys."""
        self._signing = signing
        self._keys = {}

    def check(self, token: bytes) -> Checked:
        """What a token says. Raises WeirError: 401 if it is no good, 503 if that can't be known now."""
        if len(token) > TOKEN_BYTES:
            raise refused("The token is too long.")
        name, issuer = self._issuer(token)
        key = self._key(name, issuer, _head(token))
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=issuer.audience,
                issuer=issuer.url,
                leeway=issuer.leeway_s,
                options={"require": ["exp", "iss", "aud"], "verify_signature": True, "strict_aud": False},
            )
        except jwt.ExpiredSignatureError:
            raise refused("The token has expired: get a new one.", "token_expired") from None
        except jwt.InvalidAudienceError:
            raise refused("The token is for another audience.") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise refused("The token is not valid.") from None
        return Checked(name, claims, self._until(issuer, claims))

    def _issuer(self, token: bytes) -> tuple[str, Issuer]:
        claimed = _part(token.split(b".")[1]).get("iss")
        found = self._by_url.get(claimed) if isinstance(claimed, str) else None
        if found is None:
            raise refused("The token's issuer is not one of those that are accepted here.")
        return found

    def _until(self, issuer: Issuer, claims: Mapping[str, Any]) -> float:
        """When it ends, which PyJWT has checked to lie ahead. One that never seems to end is no good."""
        now_s, until_s = self._clock(), float(claims["exp"])
        began_s = claims.get("iat", claims.get("nbf"))
        since_s = float(began_s) if isinstance(began_s, int | float) else now_s
        if until_s - since_s > issuer.longest_s:
            raise refused("The token is valid for longer than is accepted here.")
        return until_s + issuer.leeway_s

    def _key(self, name: str, issuer: Issuer, head: Mapping[str, Any]) -> jwt.PyJWK:
        algorithm, kid = head.get("alg"), head.get("kid")
        if algorithm not in issuer.algorithms or "crit" in head:
            raise refused("The token's algorithm is not one of those that are accepted here.")
        if kid is not None and not isinstance(kid, str):
            raise refused("The token is not valid.")
        at = (name, kid, algorithm)
        key = self._keys.get(at)
        if key is None:
            key = self._found(name, kid, algorithm)
            if key is None:
                raise self._missing(name)
            self._keys[at] = key
        return key

    def _found(self, name: str, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        fits = [
            jwk
            for jwk in self._signing.get(name, ())
            if jwk.get("kty") in _KINDS[algorithm[:2]]
            and jwk.get("alg", algorithm) == algorithm
            and (kid is None or jwk.get("kid") == kid)
        ]
        if not fits or (kid is None and len(fits) > 1):
            return None
        try:
            return jwt.PyJWK(fits[0], algorithm)
        except jwt.PyJWTError:
            return None

    def _missing(self, name: str) -> WeirError:
        """A public key that isn't known: the first to show it makes us look, at most every few seconds."""
        if name not in self._signing:
            self._unknown(name)
            return later("The public keys of the token's issuer can't be had now.", "signing_keys_unavailable")
        now_s = self._clock()
        if now_s - self._asked_s.get(name, -_ASK_AGAIN_S) < _ASK_AGAIN_S:
            return refused("The token is signed by a key that its issuer doesn't name.")
        self._asked_s[name] = now_s
        self._unknown(name)
        return later("The token is signed by a new key, which is being looked for.", "signing_key_unknown")


class Tokens:
    """Tokens as identities, remembered by digest."""

    def __init__(self, teams: TeamsFile, unknown: Callable[[str], object] = lambda issuer: None) -> None:
        self.teams = teams
        self._checker = Checker(teams.issuers, unknown)
        self._known: LRUCache[bytes, tuple[Identity, float]] = LRUCache(_REMEMBERED)

    def adopt(self, signing: Signing) -> None:
        """Other public keys: what was signed by those that are gone is checked again, and fails."""
        self._checker.adopt(signing)
        self._known.clear()

    def identify(self, token: bytes, now_s: float) -> tuple[Identity, float]:
        """Who asks, and until when that holds. Raises WeirError 401, 403 or 503."""
        digest = hashlib.sha256(token).digest()
        known = self._known.get(digest)
        if known is not None and known[1] > now_s:
            return known
        name, claims, until_s = self._checker.check(token)
        found = self._known[digest] = identity_of(name, self.teams, claims), until_s
        return found


def _head(token: bytes) -> dict[str, Any]:
    return _part(token.partition(b".")[0])


def _part(encoded: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)))
    except (binascii.Error, orjson.JSONDecodeError, ValueError):
        raise refused("The token is not valid.") from None
    if not isinstance(found, dict):
        raise refused("The token is not valid.")
    return found


def refused(message: str, code: str = "invalid_token") -> WeirError:
    """401."""
    return WeirError(401, message, type=AUTHENTICATION, code=code, headers=_CHALLENGE)


def later(message: str, code: str) -> WeirError:
    """503: clients' libraries come again by themselves."""
    return WeirError(503, message, type=UPSTREAM, code=code, headers=((b"retry-after", b"1"),))
