"""A webhook, as policy files name one: who is told when something has happened.

Rules: the supervisor POSTs (`proxy.supervisor.webhooks`), not the worker; the body is a JSON object, signed over its
bytes.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from proxy.control import Lookup


class Webhook(BaseModel):
    """Who is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^https?://")
    """Where a JSON object is POSTed."""
    secret: str = Field(default="", repr=False)
    """Signs it (HMAC-SHA256, header `x-weir-signature`); take it from the environment: `${NAME}`."""

    async def tell(self, lookup: Lookup, told: dict[str, Any]) -> None:
        """Have this sent."""
        body = orjson.dumps(told)
        await lookup("webhook", url=self.url, body=body.decode(), signature=signature(self.secret, body))


def signature(secret: str, body: bytes) -> str:
    """`sha256=…` over the body's bytes, or nothing without a secret."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest() if secret else ""
