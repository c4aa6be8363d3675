"""The admin token: who may read `<home>/admin.token` may operate this proxy."""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from proxy.clients.keys import write_private

FILE = "admin.token"


def load_or_make(home: Path) -> str:
    """The token in `home`, made at the first call, readable by its owner only."""
    path = home / FILE
    try:
        if token := path.read_text(encoding="ascii").strip():
            return token
    except FileNotFoundError:
        pass
    token = secrets.token_urlsafe(32)
    write_private(path, token.encode() + b"\n")
    return token


def matches(token: str, authorization: str | None) -> bool:
    """Whether an `Authorization` header carries the token; takes the same time for any wrong one."""
    scheme, _, given = (authorization or "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode(errors="surrogateescape"), token.encode()
    )
