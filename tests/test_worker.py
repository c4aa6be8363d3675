"""What a worker reads before it swaps, so that no request waits for it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.config.deployment import DeploymentFile
from proxy.wire.connect import Connector, Resolver
from proxy.worker import Worker


def test_certificates_are_read_beforehand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of an upstream that a reload adds, once, and none for one that speaks no TLS."""
    made: list[dict[str, Any]] = []
    make = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda **given: made.append(given) or make(**given))
    worker: Any = SimpleNamespace(_connector=Connector(Resolver()))
    upstreams = {"plain": {"url": "http://127.0.0.1:1/v1"}}
    for expected in (0, 1, 1):
        file = {"version": 1, "home": tmp_path, "upstreams": upstreams}
        Worker._read_certificates(worker, DeploymentFile.model_validate(file))
        assert len(made) == expected
        upstreams["secure"] = {"url": "https://127.0.0.1:1/v1"}
    worker._connector.context(None)
    assert len(made) == 1


async def test_rate_cards_are_read_where_they_are_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file that is in use isn't read again."""
    monkeypatch.setattr("proxy.worker.RateCards", SimpleNamespace(from_bytes=lambda data: data))
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    worker: Any = SimpleNamespace(_loop=asyncio.get_running_loop(), _cards_path=str(tmp_path / "one"))
    found = [await Worker._cards(worker, path and str(tmp_path / path)) for path in (None, "one", "two")]
    assert found == [None, None, b"two"]
