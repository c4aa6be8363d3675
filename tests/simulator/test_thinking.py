"""What is answered: seeded, counted, and right as often as the model is good."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator import tokens
from proxy.simulator.roster import ROSTER, Model
from proxy.simulator.thinking import Ask, Choice, Tool, think

MODELS = {model.name: model for model in ROSTER}
WEATHER = Tool("get_weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
CLOCK = Tool("read_clock", {"type": "object", "properties": {}})


def ask(question: str, model: str = "gpt-4o", **fields: object) -> Ask:
    return Ask(model=MODELS[model], question=question, identity=question.encode(), input_tokens=1, **fields)  # type: ignore[arg-type]


def one(asked: Ask, seed: int = 0) -> Choice:
    return think(asked, seed)[0]


@given(st.text(max_size=40), st.integers(0, 1 << 30), st.none() | st.integers(0, 200), st.none() | st.integers(1, 99))
def test_every_piece_is_one_token(question: str, seed: int, length: int | None, cap: int | None) -> None:
    """The text has exactly as many tokens as are billed, whatever bounds it."""
    choice = one(ask(question, length=length, cap=cap), seed)
    assert tokens.count(choice.text) == choice.output
    assert cap is None or choice.output <= cap
    assert (choice.finish == "length") is (cap is not None and choice.output == cap and length != cap) or length is None


def test_the_same_seed_gives_the_same_answer() -> None:
    """Equal requests have equal answers; another seed, model or question another one."""
    first = one(ask("of rivers"))
    assert one(ask("of rivers")).text == first.text
    others = [one(ask("of rivers"), 1), one(ask("of rivers", "gpt-4o-mini")), one(ask("of lakes"))]
    assert first.text not in [other.text for other in others]


@pytest.mark.parametrize(
    ("question", "answer"), [("what is 17*23?", "391"), ("12 - 20", "-8"), ("9 / 2", "4.5"), ("2 × 3", "6")]
)
def test_sums_are_answered(question: str, answer: str) -> None:
    """A model that is never wrong gives the right value."""
    asked = ask(question)
    asked.model = msgspec.structs.replace(asked.model, accuracy=1.0)
    assert one(asked).text.endswith(f"= {answer}.")
    assert one(asked).right is True


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-4o-mini", "sim-small", "o4-mini"])
def test_accuracy_is_the_models(name: str) -> None:
    """Over many sums, the share of right answers is the model's accuracy."""
    right = [one(ask(f"what is {a} * {b}?", name)).right for a in range(40) for b in range(40)]
    assert sum(map(bool, right)) / len(right) == pytest.approx(MODELS[name].accuracy, abs=0.04)


def test_wrong_answers_are_wrong_and_doubted() -> None:
    """A wrong sum has another value, and lower confidence."""
    asked = ask("what is 17*23?")
    asked.model = msgspec.structs.replace(asked.model, accuracy=0.0)
    wrong = one(asked)
    assert wrong.right is False
    assert "391" not in wrong.text
    assert wrong.doubt > one(ask("what is 17*23?", "o4-mini")).doubt


def test_known_questions_of_a_scenario() -> None:
    """A scenario's answers are given as they stand."""
    asked = ask("What is the capital of France?")
    asked.model = Model("sure", accuracy=1.0)
    assert think(asked, 0, (("capital of france", "Paris", "Lyon"),))[0].text == "Paris."
    asked.model = Model("never", accuracy=0.0)
    assert think(asked, 0, (("capital of france", "Paris", "Lyon"),))[0].text == "Lyon."


def test_stop_sequences_cut() -> None:
    """The text ends before the first stop."""
    whole = one(ask("of rivers"))
    cut = one(ask("of rivers", stops=(".",)))
    assert cut.text == whole.text.partition(".")[0]


def test_reasoning_is_billed_and_bounded() -> None:
    """Reasoning tokens count as output, more with more effort, and a cap may leave no text at all."""
    low, high = (one(ask("why?", "o4-mini", effort=effort)) for effort in ("low", "high"))
    assert 0 < low.reasoning < high.reasoning
    assert low.output == low.reasoning + len(low.pieces)
    capped = one(ask("why?", "o4-mini", cap=10))
    assert (capped.output, capped.text, capped.finish) == (10, "", "length")


@pytest.mark.parametrize(
    ("fields", "called"),
    [
        ({"tools": (WEATHER, CLOCK)}, ["get_weather"]),
        ({"tools": (CLOCK,)}, []),
        ({"tools": (CLOCK,), "tool_choice": "required"}, ["read_clock"]),
        ({"tools": (WEATHER, CLOCK), "tool_choice": "read_clock"}, ["read_clock"]),
        ({"tools": (WEATHER,), "tool_choice": "none"}, []),
        ({"tools": (WEATHER,), "after_tool": True}, []),
    ],
)
def test_tools_are_called_when_meant(fields: dict[str, object], called: list[str]) -> None:
    """A tool is called when its name shares a word with the question, or when the request insists."""
    choice = one(ask("how is the weather?", **fields))
    assert [call.name for call in choice.calls] == called
    assert (choice.finish == "tool_calls") is bool(called)


def test_several_tools_at_once_unless_forbidden() -> None:
    """Parallel calls can be switched off."""
    tools = (WEATHER, CLOCK)
    assert len(one(ask("the weather and the clock", tools=tools)).calls) == 2
    assert len(one(ask("the weather and the clock", tools=tools, parallel=False)).calls) == 1
