"""`weir cascade status` in words: what is proven, what it takes, what it saves."""

from __future__ import annotations

from typing import Any

from policies.cascade.evidence import Evidence
from policies.cascade.learning.features import answer_features, joined, prompt_features
from policies.cascade.shared import Agreed, Pair, Traffic
from proxy.cli.cascade import standing

FEATURES = joined(prompt_features("How much is it?"), answer_features("42", [-0.01], "stop")).packed()


def told(evidence: Evidence, **more: Any) -> str:
    """What people read."""
    about = {"policy": "cascade", "rungs": ["mini", "large"], "shadow_rate": 0.1, "observing": False}
    return "\n".join(standing({**about, "until_certified": "large", "judge": "numeric", **evidence.report(), **more}))


def evidence(losses: list[float], small: int = 100_000) -> Evidence:
    """Of so many pairs, of which a tenth was asked for."""
    found = Evidence("whole", "k", 0.1, 0.05)
    for loss in losses:
        found.hear(Pair(FEATURES, None, loss, small, 1_000_000))
    hours = len(losses) * 10
    found.hear(Traffic(3600.0, hours // 2, 3, 2, 5_000_000, 40_000_000, {"refusal": 2}))
    found.hear(Traffic(3600.0 * 13, hours // 2, 0, 0, 0, 0))
    return found


def test_gathering() -> None:
    """How many more pairs, what they cost, and how long they take at present traffic."""
    text = told(evidence([0.0] * 20))
    assert "cascade, whole: gathering (mini before large)" in text
    assert "not yet 95 % sure that less than 10 points are lost; until then large answers" in text
    needed = evidence([0.0] * 20).report()["pairs_needed"]
    cost = needed * 40_000_000 // 20
    assert f"about {needed} more pairs, ${cost / 1e9:.3f}" in text  # 0.002 a pair
    assert f"{needed / 40 * 24:.0f} hours at present traffic" in text  # 200 in 12 hours, of which a tenth
    assert "200 requests, 3 by mini, 2 escalated (refusal 2)" in text
    assert "agreement with people isn't measured" in text


def test_certified() -> None:
    """What is given, what it saves, and how far each proof has come."""
    found = evidence([0.0] * 150)
    for number in range(10):
        found.hear(Agreed(number, number > 0))
    text = told(found)
    assert "mini answers 100 % of the requests; 95 % sure that this loses at most 10 points" in text
    assert "saves about $2.70 a day" in text  # 3,000 a day, 0.0009 each
    assert "agrees with people on 9 of 10 labelled pairs (90%)" in text
    assert "████████████████████ proven ◂" in text
    assert "mini could answer 100 %" in told(found, observing=True)
    assert "would save about" in told(found, observing=True)


def test_infeasible() -> None:
    """A small model that doesn't pay is off, and that is said."""
    text = told(evidence([0.0] * 400, small=1_200_000))
    assert "infeasible" in text
    assert "no threshold pays" in text
    assert "`weir cascade reset` tries again" in text


def test_reverted() -> None:
    """A small model that became worse no longer answers, by itself."""
    found = evidence([0.0] * 150)
    assert found.status == "certified"
    worse = 0
    while found.serving is not None:
        found.hear(Pair(FEATURES, None, 0.5, 100_000, 1_000_000))
        worse += 1
        assert worse < 100
    assert (found.status, found.begun) == ("reverted", 1)
    assert "became worse by more than 10 points: large answers until it is proven again" in told(found)
    for _ in range(200):
        found.hear(Pair(FEATURES, None, 0.0, 100_000, 1_000_000))
    assert found.status == "certified"
