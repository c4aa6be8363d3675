"""What a request asks for, as far as it moves money."""

from __future__ import annotations

import orjson
import pytest

from proxy.body import scan
from proxy.dialects.request import facts


@pytest.mark.parametrize(
    ("endpoint", "fields", "tier"),
    [
        ("messages", {"speed": "fast"}, "fast"),
        ("messages", {"speed": "fast", "service_tier": "auto"}, "fast"),
        ("messages", {"speed": "standard", "service_tier": "auto"}, "auto"),
        ("chat.completions", {"speed": "fast"}, None),
        ("chat.completions", {"service_tier": "flex"}, "flex"),
    ],
)
def test_tier(endpoint: str, fields: dict[str, str], tier: str | None) -> None:
    """The tier asked for; Claude's fast mode is one, as in its answers."""
    body = scan(orjson.dumps({"model": "m", "max_tokens": 5, **fields}), 64)
    assert facts(endpoint, body).service_tier == tier
