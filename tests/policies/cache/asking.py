"""Requests as a cache meets them, without a wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from proxy.body import scan
from proxy.endpoints import endpoint_of
from proxy.exchange import Exchange, Identity, Request

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
    "moderations": "/v1/moderations",
    "speech": "/v1/audio/speech",
}
ALICE = Identity("acme/search", key="key-a", team="search", org="acme")


def request(
    kind: str,
    body: dict[str, Any] | bytes,
    *,
    identity: Identity = ALICE,
    headers: Sequence[tuple[bytes, bytes]] = (),
    query: bytes = b"",
) -> Request:
    """A request with these fields, or with this very text."""
    path = PATHS[kind]
    endpoint = endpoint_of("POST", path)
    assert endpoint is not None
    scanned = scan(body if isinstance(body, bytes) else orjson.dumps(body))
    target = path.encode() + (b"?" + query if query else b"")
    return Request(Exchange(identity), endpoint, "POST", target, path, list(headers), scanned, scanned.get("model"))
