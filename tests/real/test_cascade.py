"""A cascade over two llama.cpp servers, a small and a large model, asked by an unchanged client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.patience import PATIENCE_S

from . import gguf_model
from .llama import Llama, llama_server
from .questions import FRESH
from .weir import Weir, weir_server

LARGER = 6  # layers
ONE = {"type": "object", "properties": {"open": {"const": True}}, "required": ["open"], "additionalProperties": False}
FORM = {"type": "json_schema", "json_schema": {"name": "hours", "schema": ONE, "strict": True}}
POLICIES = {
    "version": 1,
    "policies": [
        {
            "use": "cascade",
            "rungs": ["small", "large"],
            "max_quality_loss": "50 points",
            "confidence": "80%",
            "judge": {"equality": "json"},
            "shadow_rate": "100%",
            "logprobs": False,  # what random weights hold for likely isn't what a schema lets pass
            "check": "small",  # nor is it True or False: that it may be asked is all that is seen here
        }
    ],
}
PRICES = {"small": {"input": 0.1, "output": 0.4}, "large": {"input": 2, "output": 8}}
MOST = 200


@pytest.fixture(scope="module")
def larger(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """llama.cpp's server with three times as many layers."""
    path = tmp_path_factory.mktemp("larger") / "larger.gguf"
    gguf_model.write(path, LARGER)
    with llama_server(path, "chat", logs / "llama-larger.log") as server:
        yield server


@pytest.fixture(scope="module")
def cascading(llama: Llama, larger: Llama, logs: Path) -> Iterator[Weir]:
    """Weir with a cascade in front of both."""
    policies = logs / "cascading.yaml"
    policies.write_text(json.dumps(POLICIES))
    deployment = {
        "upstreams": {"first": {"url": llama.url}, "second": {"url": larger.url}},
        "models": {
            "small": {"deployments": [{"upstream": "first", "model": "small"}]},
            "large": {"deployments": [{"upstream": "second", "model": "large"}]},
        },
        "prices": PRICES,
        "policies": str(policies),
    }
    with weir_server(deployment, logs / "weir-cascading") as server:
        yield server


def ask(client: openai.OpenAI, number: int, **more: Any) -> Any:
    """A question whose answer can only be one."""
    question = [{"role": "user", "content": f"Is door {number} open?"}]
    form: dict[str, Any] = {"response_format": FORM, "max_tokens": 40, "temperature": 0, **FRESH, **more}
    return client.chat.completions.with_raw_response.create(model="large", messages=question, **form)


def test_from_gathering_to_certified(cascading: Weir, larger: Llama) -> None:
    """The large model answers until the small one's answers are proven; what only the large one can do, it does."""
    with openai.OpenAI(base_url=cascading.url, api_key="sk-of-the-client", max_retries=0) as client:
        first = ask(client, 0)
        assert first.headers["x-weir-cascade"].startswith("large; gathering; p=")
        for asked in range(1, MOST):
            answer = ask(client, asked)
            if answer.headers["x-weir-cascade"].startswith("small"):
                break
        assert answer.headers["x-weir-cascade"].startswith("small; certified; p=")
        assert float(answer.headers["x-weir-saved"]) > 0
        assert json.loads(answer.parse().choices[0].message.content) == {"open": True}
        assert answer.parse().choices[0].logprobs is None

        chunks = list(ask(client, MOST, stream=True).parse())
        told = "".join([chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices])
        assert json.loads(told) == {"open": True}

        words: dict[str, Any] = {"response_format": openai.NOT_GIVEN, "max_tokens": 8}
        checked = cascading.command("why", answer.headers["x-weir-exchange"])
        assert "p_true" in checked and "attempt 2" in checked  # one that told no probabilities wouldn't be asked again
        escalated = ask(client, 1, **words)  # the small one doesn't come to an end
        assert escalated.headers["x-weir-cascade"].startswith("large; certified")
        with openai.OpenAI(base_url=larger.url, api_key="x", max_retries=0) as direct:
            assert ask(direct, 1, **words).parse().choices[0].message.content == (
                escalated.parse().choices[0].message.content
            )
    why = cascading.command("why", escalated.headers["x-weir-exchange"])
    assert "escalated" in why and "cut_off" in why
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := json.loads(cascading.command("cascade", "status", "--json"))["cascades"]):
        assert time.monotonic() < deadline_s  # what it tells is a few seconds old
    (known,) = found
    assert (known["status"], known["rungs"]) == ("certified", ["small", "large"])
