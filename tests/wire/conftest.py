"""The loop that production runs on, and a real data plane before a simulated provider."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

from proxy.clients.keys import KeyRecord
from tests.plane.conftest import Serve, cards, event_loop_policy, serve, simulator
from tests.plane.running import key

__all__ = ["SECRET", "Serve", "cards", "event_loop_policy", "record", "serve", "simulator"]

SECRET = "wk-the-only-key-that-opens-this-door"

settings.register_profile("wire", deadline=None, print_blob=True)
settings.load_profile("wire")


def record(secret: str = SECRET, **fields: Any) -> KeyRecord:
    """A virtual key's record: `serve(keys=[record()])` lets nobody in without it."""
    return key(secret, **{"org": "acme", "team": "search", **fields})
