"""Tokens of issuers: what is accepted, what is refused, and who their bearers are."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.clients.identity import Keys
from proxy.clients.oidc import Tokens
from proxy.config.teams import TeamsFile
from proxy.errors import WeirError
from tests.issuer import URL, algorithm, jwk, private, token
from tests.plane.running import key

ISSUER = {"url": URL, "audience": ["other", "weir"], "algorithms": ["RS256", "ES256", "EdDSA"]}


def teams(**issuer: Any) -> TeamsFile:
    return TeamsFile.model_validate(
        {
            "version": 1,
            "orgs": {"acme": {"tags": {"org": "acme"}}},
            "teams": {"search": {"org": "acme", "tags": {"unit": "web"}}, "docs": {}},
            "projects": {"ranking": {"team": "search"}},
            "issuers": {"corp": {**ISSUER, **issuer}},
        }
    )


def tokens(*named: dict[str, Any], **issuer: Any) -> Tokens:
    found = Tokens(teams(**issuer))
    found.adopt({"corp": list(named or (jwk("rsa"), jwk("ec"), jwk("ed")))})
    return found


def error_of(given: bytes, of: Tokens | None = None) -> WeirError:
    with pytest.raises(WeirError) as caught:
        (of or tokens()).identify(given, time.time())
    assert given.decode("latin-1") not in caught.value.message
    return caught.value


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed"])
def test_good(kind: str) -> None:
    """Signed by a key that the issuer names: its bearer, until it ends and the clocks' difference is over."""
    now_s = int(time.time())
    identity, until_s = tokens().identify(token(kind, exp=now_s + 100), now_s)
    assert (identity.key, identity.tenant, until_s) == ("corp:ann", "corp:ann", now_s + 130)


def encoded(head: dict[str, Any], claims: dict[str, Any], sign: Any = lambda text: b"") -> bytes:
    text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims))
    return text + b"." + base64.urlsafe_b64encode(sign(text)).rstrip(b"=")


def confused() -> bytes:
    """HS256 with the public key as its secret: what a library that trusts `alg` would accept."""
    secret = private("rsa").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = {"iss": URL, "aud": "weir", "sub": "ann", "exp": time.time() + 60}
    return encoded({"alg": "HS256", "kid": "rsa"}, claims, lambda text: hmac.new(secret, text, hashlib.sha256).digest())


NOW = int(time.time())
GOOD = {"iss": URL, "aud": "weir", "sub": "ann", "exp": NOW + 600}


@pytest.fixture(autouse=True)
def present() -> None:
    """In a long run the tests begin long after this module was read."""
    global NOW
    NOW = int(time.time())
    GOOD["exp"] = NOW + 600


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (lambda: encoded({"alg": "none"}, GOOD), "invalid_token"),
        (lambda: encoded({"alg": "none", "kid": "rsa"}, GOOD), "invalid_token"),
        (confused, "invalid_token"),
        (lambda: token(iss="https://evil.example"), "invalid_token"),
        (lambda: token(iss=URL + "/"), "invalid_token"),
        (lambda: token(aud="them"), "invalid_token"),
        (lambda: token(aud=None), "invalid_token"),
        (lambda: token(exp=None), "invalid_token"),
        (lambda: token(exp=NOW - 120), "token_expired"),
        (lambda: token(nbf=NOW + 120), "invalid_token"),
        (lambda: token(exp=NOW + 90_000), "invalid_token"),
        (lambda: token(exp=float("inf")), "invalid_token"),
        (lambda: token("ec", head={"kid": "rsa"}), "signing_key_unknown"),
        (lambda: token(head={"crit": ["exp"]}), "invalid_token"),
        (lambda: token(head={"kid": None}), None),
        (lambda: token()[:-4] + b"AAAA", "invalid_token"),
        (lambda: b"eyJ.eyJ.x", "invalid_token"),
        (lambda: token(sub="x" * 20_000), "invalid_token"),
        (lambda: jwt.encode(GOOD, private("rsa"), "PS256", {"kid": "rsa"}).encode(), "invalid_token"),
    ],
)
def test_refused(given: Any, code: str | None) -> None:
    """No `none`, no shared secret, no other issuer, audience, algorithm or kind of key; in its time only."""
    if code is None:  # without a name of its key it is good where only one fits
        assert tokens(jwk("rsa"), jwk("ec")).identify(given(), NOW)[0].key == "corp:ann"
        assert error_of(given(), tokens(jwk("rsa"), jwk("rsa-2"))).status == 503
        return
    error = error_of(given())
    assert (error.code, error.status) == (code, 503 if code == "signing_key_unknown" else 401)


def test_a_key_goes_with_its_own_algorithm() -> None:
    """A key that is named for one algorithm verifies no other (RFC 8725, 3.1)."""
    named = {**jwk("rsa"), "alg": "RS512"}
    assert error_of(token(), tokens(named)).code == "signing_key_unknown"


def test_clocks_may_differ() -> None:
    """Ended or not yet begun by less than the leeway is good."""
    for claims in ({"exp": NOW - 5, "iat": NOW - 100}, {"nbf": int(time.time()) + 20}):
        assert tokens().identify(token(**claims), time.time())[0].key == "corp:ann"


def test_an_unknown_key_is_asked_for_once() -> None:
    """The first token by a key that isn't known makes us look and its client come again; the next are refused."""
    asked: list[str] = []
    found = Tokens(teams(), asked.append)
    assert error_of(token(), found).code == "signing_keys_unavailable"
    asked.clear()
    found.adopt({"corp": [jwk("ec")]})
    errors = [error_of(token(), found) for _ in range(3)]
    assert [error.status for error in errors] == [503, 401, 401]
    assert errors[0].headers == ((b"retry-after", b"1"),)
    assert asked == ["corp"]
    found.adopt({"corp": [jwk("ec"), jwk("rsa")]})
    assert found.identify(token(), time.time())[0].key == "corp:ann"


def test_checked_once() -> None:
    """A token is remembered by its digest until it ends; when the public keys change, it is checked again."""
    found, given = tokens(), token()
    first = found.identify(given, NOW)
    assert found.identify(given, NOW) is first
    assert given not in repr(list(found._known.items())).encode()
    found.adopt({"corp": [jwk("ec")]})
    assert error_of(given, found).status == 503


CLAIMS = {"team": "groups", "project": "project", "tags": {"office": "address.city", "on": "on"}}
MAPPED = {
    "claims": CLAIMS,
    "teams": {"g-docs": "docs", "g-search": "search"},
    "tags": {"via": "corp"},
    "models": "gpt-*",
}


def test_who_the_bearer_is() -> None:
    """Team by group in the file's order, its organisation and tags; tags by paths; the claims' own can't win."""
    claims: dict[str, Any] = {"groups": ["x", "g-search", "g-docs"], "address": {"city": "Ulm"}, "on": True}
    identity = tokens(**MAPPED).identify(token(**claims), NOW)[0]
    assert (identity.team, identity.tenant, identity.models) == ("docs", "-/docs", ("gpt-*",))
    identity = tokens(**MAPPED).identify(token(**{**claims, "groups": "g-search"}), NOW)[0]
    assert (identity.org, identity.team, identity.tenant) == ("acme", "search", "acme/search")
    assert identity.tags == {"office": "Ulm", "on": "true", "via": "corp", "unit": "web", "org": "acme"}
    identity = tokens(**MAPPED).identify(token(project="ranking", sub="a b\nc"), NOW)[0]
    assert (identity.team, identity.project, identity.tenant) == ("search", "ranking", "acme/search/ranking")
    assert identity.key is not None
    assert identity.key.removeprefix("corp:").isalnum()


@pytest.mark.parametrize(
    ("claims", "issuer"),
    [
        ({"groups": ["other"]}, MAPPED),
        ({}, MAPPED),
        ({"project": "nope"}, MAPPED),
        ({"project": "ranking", "groups": ["g-docs"]}, MAPPED),
        ({"sub": None}, {}),
        ({"sub": ""}, {}),
        ({"email_verified": False}, {"require": {"email_verified": "true"}}),
        ({}, {"require": {"scope": ["a", "b*"]}}),
    ],
)
def test_nobody_here(claims: dict[str, Any], issuer: dict[str, Any]) -> None:
    """A good token whose bearer has no team, project, name or right here: 403."""
    error = error_of(token(**claims), tokens(**issuer))
    assert (error.status, error.code) == (403, "identity_not_mapped")


def test_beside_keys() -> None:
    """A virtual key opens as ever; what is neither a key nor a token is refused like an unknown key."""
    keys = Keys([key("a", "key-a")], tokens=tokens())
    assert keys.identify([(b"x-api-key", b"a")]).key == "key-a"
    assert keys.recognise([(b"authorization", b"Bearer " + token())])[0].key == "corp:ann"
    for other in (b"ey", b"eyx.y", b"b", b"a.b.c"):
        with pytest.raises(WeirError) as caught:
            keys.identify([(b"authorization", b"Bearer " + other)])
        assert caught.value.code == "invalid_api_key"


def test_algorithms_are_those_of_pairs() -> None:
    """No file can allow `none` or a shared secret."""
    for name in ("none", "HS256", "HS512"):
        with pytest.raises(ValueError, match="algorithms"):
            teams(algorithms=[name])
    assert algorithm("ec") == "ES256"
