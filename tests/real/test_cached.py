"""Client libraries that are not ours, asking twice: from the cache they get what they got from the provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .simulator import Simulator
from .test_clients import ANTHROPIC, OPENAI, answers
from .weir import Weir, weir_server

TASKS = ("unary", "stream", "stream_with_usage", "tools", "tools_streamed", "embeddings")
POLICIES = {"version": 1, "policies": [{"use": "cache", "exact": {"sampled": True}}]}
CHUNKS = ("chunks", "pieces")  # how a stream is cut is the provider's mood


@pytest.fixture(scope="module")
def caching(simulator: Simulator, logs: Path) -> Iterator[Weir]:
    """Weir with a cache, in front of the simulator."""
    policies = logs / "caching.yaml"
    policies.write_text(json.dumps(POLICIES))
    deployment = {
        "upstreams": {
            "openai": {"url": simulator.url, "provider": "openai"},
            "anthropic": {"url": simulator.url, "provider": "anthropic"},
        },
        "models": {"claude-*": {"upstream": "anthropic"}, "*": {"upstream": "openai"}},
        "policies": str(policies),
    }
    with weir_server(deployment, logs / "weir-caching") as server:
        yield server


def counted(weir: Weir) -> dict[str, float]:
    told: dict[str, float] = json.loads(weir.command("cache", "stats", "--json"))["policies"]["cache"]
    return told


def but_chunks(told: Any) -> Any:
    if not isinstance(told, dict):
        return told
    return {name: but_chunks(value) for name, value in told.items() if name not in CHUNKS}


@pytest.mark.parametrize("client", OPENAI.values(), ids=OPENAI.keys())
def test_openai_sdks_cannot_tell(caching: Weir, client: Any) -> None:
    """Texts, ends, usage, tool calls and vectors are the same, whole and streamed; the second time all were hits."""
    models = {"MODEL": "gpt-4o-mini", "EMBEDDING_MODEL": "text-embedding-3-small"}
    first = answers(caching, client, *TASKS, **models)
    before = counted(caching)
    second = answers(caching, client, *TASKS, **models)
    after = counted(caching)
    assert but_chunks(second) == but_chunks(first)
    assert after["hit"] - before["hit"] >= len(TASKS)
    assert after["miss"] == before["miss"]


def test_anthropics_sdk_cannot_tell(caching: Weir) -> None:
    """The same for messages: text, stop reason and usage, and the events from message_start to message_stop."""
    first = answers(caching, ANTHROPIC, "unary", "stream", MODEL="claude-sonnet-4-5")
    before = counted(caching)
    second = answers(caching, ANTHROPIC, "unary", "stream", MODEL="claude-sonnet-4-5")
    after = counted(caching)
    assert but_chunks(second) == but_chunks(first)
    assert (after["hit"] - before["hit"], after["miss"]) == (2, before["miss"])
