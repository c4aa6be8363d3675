"""Client libraries that are not ours, each a process of its own with nothing changed but the base URL and the key."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import environments
from .environments import Environment, Unavailable
from .questions import CALL
from .weir import Weir

HERE = Path(__file__).parent
PATIENCE_S = 90
OPENAI_TASKS = (
    "unary",
    "stream",
    "stream_with_usage",
    "tools",
    "tools_streamed",
    "embeddings",
    "responses",
    "responses_streamed",
)
OPENAI: dict[str, tuple[Callable[[], Environment], str]] = {
    "openai-python": (environments.own_python, "clients/openai_python.py"),
    "openai-python-2": (lambda: environments.python("openai-2"), "clients/openai_python.py"),
    "openai-node": (environments.node, "node/openai_node.cjs"),
}
PYDANTIC_AI = (lambda: environments.python("pydantic-ai"), "clients/pydantic_ai_agent.py")
ANTHROPIC = (lambda: environments.python("anthropic"), "clients/anthropic_python.py")
openai_clients = pytest.mark.parametrize("client", OPENAI.values(), ids=OPENAI.keys())
all_clients = pytest.mark.parametrize("client", [*OPENAI.values(), PYDANTIC_AI], ids=[*OPENAI, "pydantic-ai"])


def answers(weir: Weir, client: tuple[Callable[[], Environment], str], *tasks: str, **env: str) -> dict[str, Any]:
    """What the client printed for each task; the test is skipped, with a reason, where the client can't be had."""
    place, script = client
    try:
        environment = place()
    except Unavailable as error:
        pytest.skip(str(error))
    base = {"OPENAI_BASE_URL": weir.url, "ANTHROPIC_BASE_URL": weir.url.removesuffix("/v1")}
    keys = {"OPENAI_API_KEY": "sk-of-the-client", "ANTHROPIC_API_KEY": "sk-ant-of-the-client"}
    asked = {"MODEL": "tiny-random", "EMBEDDING_MODEL": "tiny-embedding", "CALL": json.dumps(CALL)}
    done = subprocess.run(
        [*environment.command, str(HERE / script), *tasks],
        env={"PATH": os.environ["PATH"], **base, **keys, **asked, **environment.env, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def assert_a_trip(call: dict[str, Any]) -> None:
    assert call["name"] == "weather"
    assert call["arguments"]["city"] in {"Oslo", "Rome"} and 1 <= call["arguments"]["days"] <= 9


@openai_clients
def test_openai_sdk(weir: Weir, client: Any) -> None:
    """An OpenAI SDK gets its chats, streams, usage, tool calls, embeddings and responses as it should."""
    told = answers(weir, client, *OPENAI_TASKS)
    unary, stream, counted = told["unary"], told["stream"], told["stream_with_usage"]
    assert unary["usage"]["output"] == 12 and unary["finish"] == "length"
    assert stream["text"] == counted["text"] == unary["text"]
    assert stream["usage"] is None and counted["usage"] == unary["usage"]
    assert counted["chunks"] == stream["chunks"] + 1
    assert_a_trip(told["tools"])
    assert told["tools_streamed"] == told["tools"]
    assert told["embeddings"] == {"count": 2, "size": 128, "input": 4}
    assert told["responses"]["usage"]["output"] == 8 and told["responses"]["text"]
    assert told["responses_streamed"] == {"first": "response.created", "last": "response.completed"}


def test_pydantic_ai(weir: Weir) -> None:
    """pydantic-ai's agent gets its answer, its stream with usage (it asks for it) and its tool call."""
    told = answers(weir, PYDANTIC_AI, "unary", "stream", "tools")
    assert told["stream"]["text"] == told["unary"]["text"] != ""
    assert told["stream"]["usage"] == told["unary"]["usage"] and told["unary"]["usage"]["output"] == 12
    assert told["stream"]["chunks"] > 1
    assert_a_trip(told["tools"])


@pytest.mark.parametrize("model", ["tiny-random", "claude-sonnet-4-5"], ids=["llama.cpp", "simulator"])
def test_anthropic(weir: Weir, model: str) -> None:
    """Anthropic's SDK gets its messages, whole and streamed to message_stop, and counts what it was sent."""
    told = answers(weir, ANTHROPIC, "unary", "stream", MODEL=model)
    assert told["unary"]["text"] and told["unary"]["usage"]["output"] > 0
    assert told["stream"]["text"] and told["stream"]["usage"]["output"] > 0
    assert (told["stream"]["first"], told["stream"]["last"]) == ("message_start", "message_stop")


FAULTS = {
    "rate limit": {"fault": "rate-limit:7", "stream": False},
    "rate limit, stream": {"fault": "rate-limit:7", "stream": True},
    "too long": {"fault": "context-length", "stream": True},
    "html": {"fault": "html-200", "stream": False},
    "first event": {"fault": "first-event-error", "stream": True},
    "mid error": {"fault": "mid-error:3", "stream": True},
    "no [DONE]": {"fault": "eof-no-done:3", "stream": True},
    "reset": {"fault": "rst:3", "stream": True},
    "malformed": {"fault": "malformed-event:3", "stream": True},
}
MID_STREAM = ("mid error", "no [DONE]", "reset", "malformed")


@openai_clients
def test_openai_sdk_raises_what_it_should(weir: Weir, client: Any) -> None:
    """An upstream's fault is an exception of the SDK's own, never a short answer that looks whole."""
    told = answers(weir, client, "faults", MODEL="gpt-4o-mini", FAULTS=json.dumps(FAULTS))["faults"]
    for name in ("rate limit", "rate limit, stream"):
        assert (told[name]["kind"], told[name]["status"]) == ("RateLimitError", 429)
        assert told[name]["retry_after"] == "7" and told[name]["code"] == "rate_limit_exceeded"
    assert (told["too long"]["kind"], told["too long"]["code"]) == ("BadRequestError", "context_length_exceeded")
    assert (told["html"]["kind"], told["html"]["status"]) == ("InternalServerError", 502)
    assert told["first event"]["kind"] == "InternalServerError" and told["first event"]["chunks"] == 0
    for name in MID_STREAM:
        assert told[name]["kind"] == "APIError" and told[name]["chunks"] > 0, (name, told[name])


def test_pydantic_ai_raises_what_it_should(weir: Weir) -> None:
    """pydantic-ai sees the statuses of a rate limit, of a refused prompt, and of a 200 that was no answer."""
    chosen = {name: FAULTS[name] for name in ("rate limit", "too long", "html")}
    told = answers(weir, PYDANTIC_AI, "faults", MODEL="gpt-4o-mini", FAULTS=json.dumps(chosen))["faults"]
    assert {name: seen["status"] for name, seen in told.items()} == {"rate limit": 429, "too long": 400, "html": 502}


def test_anthropic_raises_what_it_should(weir: Weir) -> None:
    """Anthropic's SDK sees the same faults as exceptions of its own."""
    told = answers(weir, ANTHROPIC, "faults", MODEL="claude-sonnet-4-5", FAULTS=json.dumps(FAULTS))["faults"]
    assert (told["rate limit"]["kind"], told["rate limit"]["status"]) == ("RateLimitError", 429)
    assert told["html"]["status"] == 502
    for name in MID_STREAM:
        assert told[name]["kind"] is not None and told[name]["chunks"] > 0, (name, told[name])
