"""Features, and the scores that are fitted to them."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.cascade.learning import ridge
from policies.cascade.learning.features import (
    PLACES,
    Features,
    answer_features,
    explained,
    joined,
    prompt_features,
    unpacked,
)
from policies.cascade.learning.score import FEWEST, Example, Score, fit, prior

WORDS = ("the", "of", "river", "stone", "market", "seven", "paper", "cloud", "garden", "winter", "song", "letter")


def asked(drawn: random.Random, hard: bool) -> Features:
    words = [drawn.choice(WORDS) for _ in range(12)] + (["eigenvalue"] if hard else ["capital"])
    drawn.shuffle(words)
    return joined(prompt_features(" ".join(words)), answer_features("It is so.", None, "stop"))


def examples(count: int, seed: int = 1) -> list[Example]:
    """The small one fails at half of the hard ones, and at nothing else."""
    drawn = random.Random(seed)
    made = []
    for _ in range(count):
        hard = drawn.random() < 0.4
        made.append(Example(asked(drawn, hard), 0.0 if hard and drawn.random() < 0.5 else 1.0, 1.0))
    return made


@pytest.fixture(scope="module")
def fitted() -> Score:
    return fit(examples(300))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=6000), st.text(max_size=6000), st.lists(st.floats(), max_size=50) | st.none())
def test_any_text_has_features_and_a_score(prompt: str, answer: str, logprobs: list[float] | None) -> None:
    """And they survive being packed."""
    first = prompt_features(prompt)
    both = joined(first, answer_features(answer, logprobs, None, prompt=first))
    assert 0 <= prior().benefit(both) <= 1
    again = unpacked(both.packed())
    assert again.numbers.tolist() == both.numbers.tolist()
    assert again.words.tolist() == both.words.tolist()
    assert all(0 <= place < PLACES for place in both.words.tolist())


def test_features_are_the_same_in_every_process() -> None:
    """Whatever its hash seed."""
    program = (
        "from policies.cascade.learning.features import prompt_features\n"
        "print(sorted(prompt_features('What is 2 + 2?').words.tolist()))"
    )
    came = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert came.stdout.strip() == str(sorted(prompt_features("What is 2 + 2?").words.tolist()))


def test_what_an_answer_gives_away_is_named() -> None:
    """Sums that are wrong, doubts, refusals, being cut off, unsure tokens, figures of the question left aside."""
    question = prompt_features("Tom has 12 apples and 7 pears and 3 plums. How many?")
    good = explained(
        joined(question, answer_features("12 + 7 = 19, 19 + 3 = 22. So 22.", None, "stop", prompt=question))
    )
    poor = answer_features("I'm sorry, however 12 + 7 = 20 might be", [-0.1, -3.0], "length", prompt=question)
    bad = explained(joined(question, poor))
    assert (good["answer_sums"], good["answer_sums_wrong"]) == (pytest.approx(1.0986, abs=1e-3), 0)
    assert bad["answer_sums_wrong"] > 0
    assert good["answer_figures_left"] == 0 < bad["answer_figures_left"]
    for name in ("refusal", "doubts", "cut_off", "unsure", "told"):
        assert good[f"answer_{name}"] == 0 < bad[f"answer_{name}"], name
    assert prior().benefit(joined(question, poor)) > 0.7


def test_what_benefits_is_learnt(fitted: Score) -> None:
    """Words of questions that the small one fails at; half of these benefit."""
    drawn = random.Random(2)
    hard = [fitted.gain(asked(drawn, True)) for _ in range(50)]
    easy = [fitted.gain(asked(drawn, False)) for _ in range(50)]
    assert sum(hard) / 50 > sum(easy) / 50 + 0.15
    assert sum(one > two for one, two in zip(hard, easy, strict=True)) >= 45


def test_what_both_fail_at_is_not_worth_escalating() -> None:
    """P(benefit), not P(small wrong)."""
    drawn, made = random.Random(3), []
    for at in range(200):
        made.append(Example(asked(drawn, hard=at % 2 == 0), 0.0 if at % 2 == 0 else float(at % 4 == 1), float(at % 2)))
    score = fit(made)
    assert score.benefit(asked(drawn, True)) < score.benefit(asked(drawn, False))


def test_thresholds_are_ascending_and_those_without_hope_left_out(fitted: Score) -> None:
    """What is plausible isn't beyond what is hopeful."""
    grid, hopeful = fitted.grid(), fitted.grid(0.02)
    assert grid == sorted(set(grid))
    assert hopeful == grid[: len(hopeful)]
    assert len(hopeful) < len(grid)
    plausible = fitted.plausible(0.02)
    assert plausible is None or plausible <= hopeful[-1]
    assert fitted.plausible(1.0) == grid[-1]
    assert fitted.plausible(-1.0) is None


def test_a_score_survives_bytes(fitted: Score) -> None:
    """Bit by bit; anything else is refused."""
    again = Score.loads(fitted.dumps())
    one = asked(random.Random(5), True)
    assert again.version == fitted.version != prior().version
    assert again.benefit(one) == fitted.benefit(one)
    assert again.grid(0.02) == fitted.grid(0.02)
    rows = ridge.Rows(one.numbers[None], [one.words], PLACES)
    assert again.benefits(rows).tolist() == [pytest.approx(fitted.benefit(one), abs=1e-6)]
    for data in (b"", b"x" * 60, fitted.dumps()[:-1], fitted.dumps().replace(b"wcs2\x02", b"wcs2\x03", 1)):
        with pytest.raises(ValueError, match="score"):
            Score.loads(data)


def test_the_same_examples_give_the_same_score(fitted: Score) -> None:
    """On every worker."""
    assert fit(examples(300)).version == fitted.version


def test_both_ways_of_fitting_tell_the_same(monkeypatch: pytest.MonkeyPatch, fitted: Score) -> None:
    """In closed form, and by conjugate gradients where examples are many."""
    monkeypatch.setattr(ridge, "CLOSED", 10)
    other, drawn = fit(examples(300)), random.Random(6)
    told = [asked(drawn, at % 2 == 0) for at in range(40)]
    assert max(abs(fitted.gain(each) - other.gain(each)) for each in told) < 0.1
    easy, hard = ([other.gain(each) for each in told[at::2]] for at in (1, 0))
    assert sum(hard) > sum(easy) + 3


def test_too_few_examples_are_refused() -> None:
    """A score of nothing would be certified by luck at best."""
    with pytest.raises(ValueError, match="too few"):
        fit(examples(FEWEST - 1))


@pytest.mark.parametrize("data", [b"", b"\x01\x00\x00\x00\x00", b"\x02\x05\x00\x05\x00abc"])
def test_features_of_another_version_are_refused(data: bytes) -> None:
    """Cut short, too."""
    with pytest.raises(ValueError, match="features"):
        unpacked(data)


def test_a_loss_is_spent_where_it_saves_most() -> None:
    """Of requests that gain as much by the large answer, the small one is to answer the dear ones first."""
    drawn, made = random.Random(7), []
    for at in range(400):
        fails, price = drawn.random() < 0.1, 1000.0 if at % 2 else 10.0
        made.append(Example(asked(drawn, hard=at % 2 == 1), 0.0 if fails else 1.0, 1.0, price=price))
    asks = [(asked(drawn, True), asked(drawn, False)) for _ in range(50)]

    def dearer(score: Score) -> float:
        return sum(score.gain(dear) - score.gain(cheap) for dear, cheap in asks) / len(asks)

    assert dearer(fit(made, epsilon=0.02)) < dearer(fit(made)) - 0.03
