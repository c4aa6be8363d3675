"""Scenario files: what they may say, what is refused, and the course of faults that they set."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.simulator import Scenario, ScenarioError, Simulator, load

from .wire import ask, chat, request

FILE = """
version: 1
seed: 7
latency: {ttft: "lognormal(1ms, 0.5)", per_token: 0ms}
models:
  gpt-4o: {accuracy: 100%, ttft: 1ms}
  house-model: {served: house-model-v2, context: 50, talk: [3, 3]}
answers:
  - {question: capital of France, right: Paris}
faults:
  - {fault: "rate-limit:1", model: "gpt-4o*", every: 3}
  - {fault: error-500, stream: true, first: 1}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    return path


async def statuses(simulator: Simulator, count: int, *, stream: bool = False, model: str = "gpt-4o") -> list[int]:
    sent = request(chat(stream=stream, model=model))
    return [(await ask(simulator, sent)).status for _ in range(count)]


async def test_a_scenario_sets_models_answers_and_faults(tmp_path: Path) -> None:
    """Rules hold by model, stream and count; models have their own names, lengths and contexts."""
    async with Simulator(scenario=written(tmp_path, FILE)) as simulator:
        assert await statuses(simulator, 7) == [200, 200, 429, 200, 200, 429, 200]
        assert await statuses(simulator, 2, stream=True, model="x") == [500, 200]
        answer = (await ask(simulator, request(chat(model="house-model")))).json
        assert (answer["model"], answer["usage"]["completion_tokens"]) == ("house-model-v2", 3)
        question = [{"role": "user", "content": "What is the capital of France?"}]
        said = (await ask(simulator, request(chat(model="gpt-4o", messages=question)))).json
        assert said["choices"][0]["message"]["content"] == "Paris."


async def test_probability_is_seeded() -> None:
    """The same seed has the same course, and about the wished share of faults."""

    async def course(seed: int) -> list[int]:
        scenario = Scenario.model_validate({"seed": seed, "faults": [{"fault": "error-503", "probability": "30%"}]})
        async with Simulator(scenario=scenario) as simulator:
            return await statuses(simulator, 60)

    first = await course(1)
    assert first == await course(1)
    assert first != await course(2)
    assert 8 <= first.count(503) <= 28


async def test_rules_in_a_test() -> None:
    """`simulator.fault` adds a rule; a header goes before all rules."""
    async with Simulator() as simulator:
        simulator.fault("error-502", nth=2, path="/v1/chat/*")
        assert await statuses(simulator, 3) == [200, 502, 200]
        simulator.fault("error-503")
        assert (await ask(simulator, request(chat(), fault="bad-request"))).status == 400
        simulator.reset()
        assert await statuses(simulator, 1) == [200]


async def test_only_listed_models() -> None:
    """A strict scenario refuses other names with OpenAI's 404."""
    scenario = Scenario.model_validate({"only_listed_models": True, "models": {"gpt-4o": {}}})
    async with Simulator(scenario=scenario) as simulator:
        assert await statuses(simulator, 1) == [200]
        answer = await ask(simulator, request(chat(model="gpt-4o-mini-x")))
        assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fauls: []", "fauls"),
        ("faults: [{fault: nonsense}]", "not a fault"),
        ("latency: {ttft: quick}", "not a duration"),
        ("models: {m: {accuracy: 120%}}", "less than or equal to 1"),
        ("version: 2", "version"),
        ("faults: [", "scenario.yaml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, reason: str) -> None:
    """Unknown keys, unknown faults and bad values are errors that name file and place."""
    with pytest.raises(ScenarioError, match=reason):
        load(written(tmp_path, text))
