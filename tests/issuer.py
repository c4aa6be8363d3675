"""An issuer of tokens for tests: keys of several kinds, and a server that names those that it is told to."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

URL = "https://login.example.com/realm"


@cache
def private(kind: str) -> Any:
    """A private key; one of a kind for all tests, since making them takes long."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, 1024 if kind == "rsa-weak" else 2048)
    return ed25519.Ed25519PrivateKey.generate() if kind.startswith("ed") else ec.generate_private_key(ec.SECP256R1())


def algorithm(kind: str) -> str:
    return {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}[kind[:3].rstrip("-12")]


def jwk(kind: str, **more: str) -> dict[str, Any]:
    """The public key as an issuer names it; its `kid` is the kind."""
    public = private(kind).public_key()
    made = jwt.get_algorithm_by_name(algorithm(kind)).to_jwk(public)  # type: ignore[no-untyped-call,unused-ignore]
    found: dict[str, Any] = json.loads(made) if isinstance(made, str) else made
    return {**{name: value for name, value in found.items() if name != "key_ops"}, "kid": kind, "use": "sig", **more}


def token(kind: str = "rsa", head: Mapping[str, Any] | None = None, iss: str = URL, **claims: Any) -> bytes:
    """A good token, unless something else is asked for; a claim of None is left out."""
    now_s = int(time.time())
    said = {"iss": iss, "aud": "weir", "sub": "ann", "iat": now_s, "exp": now_s + 600, **claims}
    kept = {name: value for name, value in said.items() if value is not None}
    headers = {"kid": kind, **(head or {})}
    return jwt.encode(
        kept, private(kind), algorithm(kind), {k: v for k, v in headers.items() if v is not None}
    ).encode()
