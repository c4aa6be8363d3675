"""`allow`: what is refused, and why. That tenants are kept apart is tested in `tests/plane/test_tenants.py`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import allow
from policies.allow import Config, Rules
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.running import entry


@pytest.mark.parametrize(
    ("config", "endpoint", "model", "code"),
    [
        ({}, "chat.completions", "gpt-4o", None),
        ({"models": ["gpt-4o"]}, "chat.completions", "gpt-4o", None),
        ({"models": ["gpt-4o"]}, "chat.completions", "gpt-4o-mini", "model_not_allowed"),
        ({"models": ["gpt-4o*", "o?-mini"]}, "chat.completions", "o4-mini", None),
        ({"models": ["GPT-4o"]}, "chat.completions", "gpt-4o", "model_not_allowed"),
        ({"models": []}, "chat.completions", "gpt-4o", "model_not_allowed"),
        ({"models": ["gpt-4o"]}, "models", None, None),
        ({"deny_models": ["*-preview"]}, "chat.completions", "gpt-5-preview", "model_not_allowed"),
        ({"models": ["*"], "deny_models": ["gpt-4*"]}, "embeddings", "gpt-4o", "model_not_allowed"),
        ({"endpoints": ["chat.*"]}, "chat.completions", "gpt-4o", None),
        ({"endpoints": ["chat.*"]}, "embeddings", "gpt-4o", "endpoint_not_allowed"),
        ({"endpoints": ["embeddings"], "models": ["x"]}, "embeddings", "x", None),
    ],
)
def test_rules(config: dict[str, object], endpoint: str, model: str | None, code: str | None) -> None:
    """Endpoints first, then models; a denial beats a permission."""
    error = Rules(Config.model_validate(config)).refusal(endpoint, model)
    assert (error and (error.status, error.code)) == (code and (403, code))


@given(model=st.text(max_size=300))
def test_any_name(model: str) -> None:
    """Any name is decided, and none is repeated at length."""
    error = Rules(Config(models=("gpt-4o",))).refusal("chat.completions", model)
    assert (error is None) == (model == "gpt-4o")
    assert error is None or len(error.message) < 300


async def test_on_the_wire(serve: Serve, simulator: Simulator) -> None:
    """A refusal names the field, is noted with its place in the file, costs nothing and goes nowhere."""
    policies = [entry("allow", 7, models=["gpt-4o-mini"], endpoints=["chat.completions", "models"])]
    async with serve(policies=policies, registry={"allow": allow}) as plane:
        assert (await plane.chat()).status == 200
        refused = await plane.chat(model="gpt-4o", stream=True)
        assert (refused.status, refused.error["param"], refused.error["code"]) == (403, "model", "model_not_allowed")
        assert refused.header(b"x-weir-policies") == b"allow=refused"
        ended = plane.journal("ended")[-1]
        assert ended["decisions"][0]["source"] == "policies.yaml:7"
        assert (ended["status"], ended["nanodollars"], ended["attempts"]) == (403, 0, 0)
        embedding = await plane.post("/v1/embeddings", {"model": "gpt-4o-mini", "input": "x"})
        assert embedding.error["code"] == "endpoint_not_allowed"
        message = {"model": "claude-sonnet-4-5", "max_tokens": 1, "messages": []}
        assert (await plane.post("/v1/messages", message)).json["type"] == "error"
    assert len(simulator.requests) == 1


async def test_the_kill_switch_leaves_it(serve: Serve, simulator: Simulator) -> None:
    """What says who may do what isn't switched off in an emergency."""
    async with serve(policies=[entry("allow", models=["gpt-4o-mini"])], registry={"allow": allow}) as plane:
        plane.plane.bypass = True
        assert (await plane.chat(model="gpt-4o")).status == 403
        assert (await plane.chat()).status == 200


async def test_observing(serve: Serve, simulator: Simulator) -> None:
    """Observed, it says whom it would have refused."""
    async with serve(policies=[entry("allow", models=["x"], mode="observe")], registry={"allow": allow}) as plane:
        assert (await plane.chat()).status == 200
        (decision,) = [d for d in plane.ended()["decisions"] if d["action"] == "would_refuse"]
    assert decision["numbers"] == {"status": 403, "code": "model_not_allowed"}
