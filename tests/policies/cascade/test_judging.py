"""Who compares answers: by equality, by a model in both orders; and how often that agrees with people."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from policies.cascade.answers import Call, Said
from policies.cascade.config import Config, Labelled
from policies.cascade.gates import lenient
from policies.cascade.judging import agrees, equal, loss_of, same_text, text_of
from proxy.config import ConfigurationError, load
from proxy.config.scalars import FROM_FILE
from proxy.feedback import TOPIC, Message
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.policies.cascade.models import JUDGE, LARGE, SMALL, Models, cascading, layer

BASE: dict[str, Any] = {"rungs": ["a", "b"], "max_quality_loss": "2 points", "judge": {"equality": "exact"}}


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        ("numeric", "So it is 1,000.", "#### 1000.0", True),
        ("numeric", "First 3, then \\boxed{7}; of 9", "7", True),
        ("numeric", "It is 12", "It is 13", False),
        ("numeric", "(B)", "(b)", True),
        ("json", '```json\n{"a": 1, "b": [2]}\n```', '{"b": [2], "a": 1}', True),
        ("json", 'Here: {"a": 1}', '{"a": 2}', False),
        ("json", "no", "No.", True),
        ("exact", "  Paris.\n", "paris", True),
        ("exact", "Paris", "Lyon", False),
    ],
)
def test_equality(kind: str, one: str, other: str, same: bool) -> None:
    """Numbers, JSON and words are compared as what they are."""
    assert same_text(kind, one, other) is same


def test_calls_are_compared() -> None:
    """Calls are the same if names and arguments are, however these are written."""
    one = Said(calls=(Call("look", '{"a": 1, "b": 2}'),))
    other = Said(calls=(Call("look", '{"b":2,"a":1}'),))
    assert equal("exact", [one], [other]) == 0.0
    assert equal("exact", [one], [Said(calls=(Call("see", '{"b":2,"a":1}'),))]) == 1.0
    assert equal("exact", [Said("x"), Said("y")], [Said("x"), Said("z")]) == 0.5
    assert text_of([one]) == text_of([other])


def test_lenient_json() -> None:
    """JSON is found in a fence and between words; where there is none, that is said."""
    assert lenient('Sure! ```json\n{"a": 1}\n``` Anything else?') == {"a": 1}
    assert lenient("The list: [1, 2].") == [1, 2]
    with pytest.raises(ValueError, match="no JSON"):
        lenient("none {here")


def test_order_cancels_out() -> None:
    """A judge that always prefers the first answer says nothing; one that is sure says all."""
    assert loss_of(1.0, 1.0) == 0.0
    assert loss_of(1.0, -1.0) == 1.0
    assert loss_of(-1.0, 1.0) == -1.0
    assert loss_of(None, 1.0) is None
    assert agrees(1.0, Labelled(small="x", large="y", better="large"))
    assert not agrees(0.0, Labelled(small="x", large="y", better="large"))


async def test_a_model_judges(serve: Serve, models: Models) -> None:
    """A model is asked twice, in either order, tagged and charged apart; and about what people have compared."""

    def compare(request: dict[str, Any]) -> str:
        first, second = [part.split("</")[0] for part in request["messages"][1]["content"].split("nswer>\n")[1::2]]
        return "equal" if first == second else "first" if "good" in first else "second"

    models.says.update({SMALL: "so so", LARGE: "good", JUDGE: compare})
    pairs = [{"small": "so so", "large": "good", "better": each} for each in ("large", "small")]
    async with cascading(serve, models, judge={"model": JUDGE, "rubric": "Be strict.", "pairs": pairs}) as plane:
        for _ in range(3):
            await plane.chat(model=LARGE)
            await plane.quiet()
        (evidence,) = layer(plane).classes
        kinds = [(record["kind"], record["tags"].get("weir")) for record in plane.journal("ended")]
        spent = layer(plane).classes.count(evidence).spent_nanos
        costs = {record["kind"]: record["nanodollars"] for record in plane.journal("ended")}
    assert [loss for _, loss, _ in evidence.examples] == [1.0, 1.0, 1.0]
    assert (sum(evidence.agreed.values()), len(evidence.agreed)) == (1, 2)
    assert kinds.count(("judge", "judge")) == 3 * 2 + 2 * 2
    assert "Be strict." in models.asked[-1]["messages"][0]["content"]
    assert spent == 3 * costs["shadow"] + 10 * costs["judge"]


async def test_a_judge_without_a_word(serve: Serve, models: Models) -> None:
    """A pair that the judge has no word for counts nowhere."""
    models.says.update({SMALL: "a", LARGE: "b", JUDGE: "I'd rather not."})
    async with cascading(serve, models, judge={"model": JUDGE}) as plane:
        await plane.chat(model=LARGE)
        await plane.quiet()
        assert next(iter(layer(plane).classes)).judged == 0
        assert ("cascade", "not_judged", 1) in plane.metrics.snapshot()["decisions"]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_clients_judge(serve: Serve, models: Models, stream: bool) -> None:
    """What a client says of the small model's answer is its loss; of other exchanges it is none; no shadow is asked."""
    store = MemoryStore()
    options: dict[str, Any] = {"until_certified": "small", "settings": {"store": store}}
    async with cascading(serve, models, judge={"feedback": True}, **options) as plane:
        for rating in (0.25, 1.0):
            answer = await plane.chat(model=LARGE, stream=stream)
            for exchange in ((answer.header(b"x-weir-exchange") or b"").decode(), "another"):
                said = Message(1, exchange, "t", None, rating, None, None, None, [])
                await store.publish(TOPIC, msgspec.json.encode(said))
        (evidence,) = layer(plane).classes
        while evidence.judged < 2:
            await asyncio.sleep(0)
    assert [loss for _, loss, _ in evidence.examples] == [0.75, 0.0]
    costs = evidence.costs()
    assert costs is not None and costs[0] < costs[1]
    assert models.models_asked() == [SMALL, SMALL]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rungs": ["a"]}, "two models"),
        ({"rungs": ["a", "b", "c"]}, "found 3"),
        ({"rungs": ["a", "a"]}, "same model"),
        ({"answers_for": ["a"]}, "can't be answered by a larger model"),
        ({"max_quality_loss": "2%"}, "2 points"),
        ({"max_quality_loss": 2}, "2 points"),
        ({"max_quality_loss": "60 points"}, "can't be certified"),
        ({"confidence": "100%"}, "between 50%"),
        ({"judge": {}}, "one of `equality`"),
        ({"judge": {"model": "x", "equality": "json"}}, "one of `equality`"),
        ({"judge": {"equality": "json", "rubric": "x"}}, "for a model"),
        ({"shadow_limit": "5 tokens/day"}, "in dollars"),
        ({"judge": {"feedback": True}}, "nobody gets them"),
        ({"streaming": "bufer"}, "buffer"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], says: str) -> None:
    """A wrong option is refused, with what would be right."""
    with pytest.raises(ValidationError, match=says):
        Config.model_validate({**BASE, **options}, context=FROM_FILE)


def test_models_that_nobody_offers(tmp_path: Path) -> None:
    """Rungs and judges that no model is offered as, and a file of pairs that is wrong, are told with their place."""
    (tmp_path / "weir.yaml").write_text(
        "version: 1\nupstreams: {up: {url: http://127.0.0.1:9/v1}}\npolicies: policies.yaml\n"
        "models: {mini: {upstream: up}, large: {upstream: up}}\n"
    )
    policies = tmp_path / "policies.yaml"
    use = "version: 1\npolicies:\n  - {use: cascade, rungs: [mini, larg], max_quality_loss: 2 points, judge: {%s}}\n"
    policies.write_text(use % "model: x, labelled: pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text('{"small": "a", "large": "b", "better": "large"}\n')
    loaded = load(tmp_path / "weir.yaml", {"HOME": str(tmp_path)})
    first, second = [str(warning) for warning in loaded.warnings]
    assert "no model is offered as 'larg'" in first and "did you mean large?" in first
    assert "no model is offered as 'x'" in second
    assert Config.model_validate(loaded.policies[0].options).judge.pairs[0].better == "large"
    (tmp_path / "pairs.jsonl").write_text('\n{"small": "a", "large": "b", "better": "neither"}\n')
    with pytest.raises(ConfigurationError, match=r"pairs\.jsonl:2:1: .*not a labelled pair"):
        load(tmp_path / "weir.yaml", {"HOME": str(tmp_path)})


def test_what_is_right() -> None:
    """The options of the guide are taken, as people write them and as processes pass them on."""
    config = Config.model_validate({**BASE, "per": "team", "confidence": "95%"}, context=FROM_FILE)
    assert (config.max_quality_loss, config.confidence, config.per) == (0.02, 0.95, ("team",))
    assert Config.model_validate(config.model_dump()) == config
