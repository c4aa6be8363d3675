"""The one-token check of a small answer, on the wire: when it is asked, what it decides, what it costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from policies.cascade.checking import odds
from policies.cascade.config import Config
from policies.cascade.learning.features import explained, unpacked
from proxy.config.scalars import FROM_FILE
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.plane.questions import text
from tests.plane.running import Plane, key
from tests.policies.cascade.models import LARGE, SMALL, Models, cascading, certify, layer, message, ticking

OTHER = "gpt-4.1-nano"
SURE = {"True": -0.02, " false": -4.0, "Maybe": -6.0}
UNSURE = {"Fal": -0.001, "true": -9.0}


def says(top: Any = SURE, answer: Any = "42") -> Any:
    """What a model says: its answer, and of an answer how likely it is right (or a status, or nothing)."""

    def said(request: dict[str, Any]) -> Any:
        if "top_logprobs" not in request:
            return answer
        return top if isinstance(top, int) else message("True", top=top or {}, silent=top is None)

    return said


def checks(models: Models) -> list[dict[str, Any]]:
    return [request for request in models.asked if "top_logprobs" in request]


def action(plane: Plane) -> dict[str, Any]:
    """What was decided of the client's last request."""
    told: dict[str, Any] = [record for record in plane.journal("ended") if record["kind"] == "client"][-1]
    decision = told["decisions"][-1]
    return {"action": decision["action"], "saved": told["saved_nanodollars"], **decision["numbers"]}


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_checked(serve: Serve, models: Models, stream: bool) -> None:
    """A certified small answer is checked before it is given, in one token, at its cost; so is each of the evidence.
    One that its model doubts isn't given."""
    models.says[SMALL] = says()
    async with cascading(serve, models, check="self", streaming="buffer") as plane:
        await certify(plane, stream=stream)
        (evidence,) = layer(plane).classes
        assert len(checks(models)) == evidence.judged
        assert explained(unpacked(evidence.examples[0][0]))["answer_self_doubt"] == pytest.approx(-3.98 / 2)
        costs = evidence.costs()
        assert costs is not None and costs[0] == 2 * (1000 * 150 + 600)
        models.asked.clear()
        answer = await plane.chat(model=LARGE, stream=stream)
        given = action(plane)
        await plane.quiet()
        assert models.models_asked() == [SMALL, SMALL, LARGE]  # the last one is the shadow, which isn't checked again
        models.says[SMALL] = says(UNSURE)
        doubted = await plane.chat(model=LARGE, stream=stream)
        escalated = action(plane)
        await plane.quiet()
    assert (answer.header(b"x-weir-cascade") or b"").startswith(b"small; certified")
    assert (answer.header(b"x-weir-model") or b"").startswith(SMALL.encode())
    assert (text(answer) if stream else answer.json["choices"][0]["message"]["content"]) == "42"
    assert given["p_true"] == round(1 / (1 + math.exp(-3.98)), 4)
    assert given["saved"] == 1000 * 2500 + 10_000 - 2 * (1000 * 150 + 600)
    (check, *_) = checks(models)
    assert check["max_tokens"] == 1 and "stream" not in check
    assert "<Answer>\n42\n</Answer>" in check["messages"][0]["content"]
    assert (escalated["action"], escalated["reason"]) == ("escalated", "score")
    assert escalated["saved"] == -2 * (1000 * 150 + 600)
    assert (doubted.header(b"x-weir-model") or b"").startswith(LARGE.encode() + b"-2024")


async def test_both_at_once(serve: Serve, models: Models) -> None:
    """Where the large model was started beside it, the client is told of the answer, not of its check."""
    async with cascading(serve, models, check="self", second_worth="1000000 USD") as plane:
        ticking(plane)
        models.says[SMALL] = says(answer="")
        await plane.chat(model=LARGE)  # one that is escalated in any case: waiting costs something
        await plane.quiet()
        models.says[SMALL] = says()
        await certify(plane)
        await plane.chat(model=LARGE)
        answer = await plane.chat(model=LARGE)
        models.says[SMALL] = says(UNSURE)
        escalated = await plane.chat(model=LARGE)
        await plane.quiet()
        decided = [[each["action"] for each in record["decisions"]] for record in plane.journal("ended")]
    assert ["both", "small"] in decided and ["both", "escalated"] in decided
    assert (answer.header(b"x-weir-model") or b"").startswith(SMALL.encode())
    assert (escalated.header(b"x-weir-model") or b"").startswith(LARGE.encode() + b"-2024")


async def test_what_is_not_checked(serve: Serve, models: Models) -> None:
    """Neither what isn't whole when it is decided, nor what came without probabilities, nor what isn't certified."""
    models.says[SMALL] = says()
    async with cascading(serve, models, check="self", until_certified="small") as plane:
        await plane.chat(model=LARGE, stream=True)  # by its beginning
        await plane.quiet()
        assert checks(models) == []
        models.says[SMALL] = says(answer=message("42", silent=True))
        await plane.chat(model=LARGE)
        await plane.quiet()
        assert checks(models) == []
        models.says[SMALL] = says()
        answer = await plane.chat(model=LARGE)
        assert (answer.header(b"x-weir-cascade") or b"").startswith(b"small; gathering")
        assert checks(models) == []
        await plane.quiet()
        assert len(checks(models)) == 1  # of the pair


async def test_what_clients_rate_is_checked(serve: Serve, models: Models) -> None:
    """Where clients are the judge, each answer that they may rate is evidence: before anything is certified, too."""
    models.says[SMALL] = says()
    options: dict[str, Any] = {"judge": {"feedback": True}, "settings": {"store": MemoryStore()}}
    async with cascading(serve, models, check="self", until_certified="small", **options) as plane:
        await plane.chat(model=LARGE)
        assert action(plane)["p_true"] == 0.9817
    assert (models.models_asked(), len(checks(models))) == ([SMALL, SMALL], 1)


async def test_checks_that_come_to_nothing(serve: Serve, models: Models) -> None:
    """One that fails is a small answer that failed; one that is refused says nothing; of a model that tells no
    probabilities no more are asked."""
    models.says[SMALL] = says({})
    async with cascading(serve, models, check="self") as plane:
        await certify(plane)
        models.says[SMALL] = says(500)
        assert (await plane.chat(model=LARGE)).status == 200
        failed = action(plane)
        await plane.quiet()
        models.says[SMALL] = says(400)
        await plane.chat(model=LARGE)
        refused = action(plane)
        await plane.quiet()
        models.says[SMALL] = says(None)
        await plane.chat(model=LARGE)
        await plane.quiet()
        asked = len(checks(models))
        await plane.chat(model=LARGE)
        await plane.quiet()
        assert len(checks(models)) == asked
        assert "cascade_check_silent" in [event for _, event, _ in plane.logged]
    assert (failed["action"], failed["reason"], failed["check"]) == ("escalated", "failed", "upstream_500")
    assert (refused["action"], refused["p_true"]) == ("small", 0.5)


async def test_another_model_checks(serve: Serve, models: Models) -> None:
    """A model by its name is asked, whatever the small one tells; not for a client that may not use it."""
    models.says.update({SMALL: message("42", silent=True), OTHER: says()})
    keys = [key("sk-a", "a"), key("sk-b", "b", models=(SMALL, LARGE))]
    settings = {"keys": keys}
    async with cascading(serve, models, check=OTHER, judge={"equality": "exact"}, settings=settings) as plane:
        await plane.chat("authorization: Bearer sk-a", model=LARGE)
        await plane.quiet()
        assert models.models_asked() == [LARGE, SMALL, OTHER]
        (evidence,) = layer(plane).classes
        assert explained(unpacked(evidence.examples[0][0]))["answer_self_doubt"] == pytest.approx(-3.98 / 2)
        await plane.chat("authorization: Bearer sk-b", model=LARGE)
        assert (action(plane)["action"], action(plane)["reason"]) == ("passed", "model_not_allowed")


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        ([("True", math.log(0.8)), (" FALSE", math.log(0.1)), ("f", math.log(0.1))], math.log(0.2 / 0.8)),
        ([("True", -0.1), ("Yes", -3.0)], -8.0),
        ([("False", 0.0)], 8.0),
        ([("Hm", -0.1), ("", -1.0)], 0.0),
    ],
)
def test_odds(tokens: list[tuple[str, float]], found: float) -> None:
    """By tokens that one of both words begins with; where only one of them is there that is all but sure."""
    assert odds(tokens) == pytest.approx(found)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"check": "b"}, "as much as its answer"), ({"check": "self", "logprobs": False}, "probabilities")],
)
def test_what_is_wrong_is_said(options: dict[str, Any], says: str) -> None:
    """A check that can't pay, or can't say anything, is refused."""
    base: dict[str, Any] = {"rungs": ["a", "b"], "max_quality_loss": "2 points", "judge": {"equality": "exact"}}
    with pytest.raises(ValidationError, match=says):
        Config.model_validate({**base, **options}, context=FROM_FILE)
