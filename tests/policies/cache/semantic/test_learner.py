"""What a scope learns: cold start, certification, suspension, and that its state outlives it."""

from __future__ import annotations

import random

import msgspec
import numpy as np

from policies.cache.semantic.bound import NEVER
from policies.cache.semantic.features import CENTRES, NAMES, SPREADS
from policies.cache.semantic.learner import Label, Learner, fitted_by, rescored
from policies.cache.semantic.score import prior

BEST = NAMES.index("best")


def asked(drawn: random.Random) -> tuple[np.ndarray, bool]:
    """Features of which one tells much, and whether the answer is right."""
    tells = drawn.gauss(0, 1)
    features = CENTRES + SPREADS * np.array([drawn.gauss(0, 0.3) for _ in NAMES])
    features[BEST] = CENTRES[BEST] + SPREADS[BEST] * tells
    return features, drawn.random() < 1 / (1 + np.exp(-6 * tells))


def teach(learner: Learner, count: int, seed: int = 1, wrong: float = 0.0) -> tuple[int, int]:
    """Lives through traffic as the tier does; says how many hits there were, and how many of them were wrong."""
    drawn = random.Random(seed)
    hits = bad = 0
    for _ in range(count):
        features, right = asked(drawn)
        if wrong and drawn.random() < wrong:
            right = False
        score = learner.weights.score(features)
        serves = learner.serves(features, score)
        learner.seen(features, score, served=serves)
        hits += serves
        bad += serves and not right
        share = learner.audit_share(features, score) if serves else 1.0
        if drawn.random() < share:
            label = Label(tuple(features.tolist()), score, right, b"g", 1 / share if serves else 0.0)
            learner.learn(label)
            if learner.wants_fit:
                made = fitted_by(learner.examples())
                learner.adopt(made, *rescored(made, *learner.rows()))
                learner.rethink()
            elif learner.wants_thought:
                learner.rethink()
    return hits, bad


def test_cold_start_serves_nothing() -> None:
    """Before the error can be bounded no score is enough."""
    learner = Learner(0.02)
    assert (learner.status, learner.threshold) == ("gathering", NEVER)
    assert not learner.serves(CENTRES, 1.0)
    teach(learner, 60)
    assert not learner.serves(CENTRES, 1.0)


def test_certifies_and_keeps_its_bound() -> None:
    """Once certified it serves much of what it could, and is wrong no more often than allowed."""
    hits = bad = 0
    for seed in range(2):
        learner = Learner(0.05)
        more, worse = teach(learner, 2000, seed)
        hits, bad = hits + more, bad + worse
        assert learner.status == "certified"
    assert hits > 800
    assert bad <= 0.05 * hits


def test_suspends_what_turns_bad() -> None:
    """When hits turn wrong they are suspended; they come back when what would have been given is right again."""
    learner = Learner(0.05)
    teach(learner, 1200)
    assert learner.status == "certified"
    features, score = tuple(CENTRES.tolist()), 1.0
    for _ in range(60):
        learner.learn(Label(features, score, False, b"g", 1.0))
    learner.evidence()
    assert learner.status == "suspended"
    assert not learner.serves(CENTRES, 1.0)
    for _ in range(99):
        learner.learn(Label(features, score, True, b"g"))
        learner.evidence()
        assert learner.status == "suspended"
    learner.learn(Label(features, score, True, b"g"))
    learner.evidence()
    assert learner.status == "certified"


def test_answers_that_one_entry_holds_are_judged_apart() -> None:
    """Where they are wrong, however high they score, only they aren't given; an older state has no λ for them."""
    drawn, learner = random.Random(4), Learner(0.02)
    several = CENTRES.copy()
    alone = several.copy()
    alone[NAMES.index("members")] = np.log1p(1)
    for _ in range(300):
        for features, right in ((several, True), (alone, drawn.random() < 0.5)):
            learner.seen(features, 0.99, served=False)
            learner.learn(Label(tuple(features.tolist()), 0.99, right, b"g"))
    learner.adopt(fitted_by(learner.examples()), *learner.rows())
    learner.rethink()
    assert learner.serves(several, 1.0)
    assert not learner.serves(alone, 1.0)
    kept = {name: value for name, value in learner.saved().items() if name != "alone"}
    again = Learner(0.02)
    assert again.restored(kept)
    assert again.serves(several, 1.0)
    assert not again.serves(alone, 1.0)


def test_audits_thin_out() -> None:
    """All of the first hits are audited, later about a seventh, near the threshold more."""
    learner = Learner(0.02)
    learner.threshold = 0.5
    assert learner.audit_share(CENTRES, 1.0) == 1.0
    learner.hits = 100_000
    assert learner.audit_share(CENTRES, 1.0) == 0.15
    assert learner.audit_share(CENTRES, 0.5) == 0.3


def test_the_state_outlives_its_process() -> None:
    """What was saved decides the same; another version's features are refused."""
    learner = Learner(0.05)
    teach(learner, 800)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(learner.saved()))
    again = Learner(0.05)
    assert again.restored(kept)
    assert (again.status, again.labels, again.hits) == (learner.status, learner.labels, learner.hits)
    drawn = random.Random(9)
    for _ in range(50):
        features, _ = asked(drawn)
        assert abs(again.weights.score(features) - learner.weights.score(features)) < 1e-9
    assert not Learner(0.05).restored({**kept, "names": ["other"]})


def test_the_prior_knows_better_from_worse() -> None:
    """Before any label: nearer is better; other numbers, a negation, an opposite are worse."""
    weights = prior()
    usual = weights.score(CENTRES)
    for name, better in (
        ("best", True),
        ("share", True),
        ("numbers", False),
        ("negation", False),
        ("opposites", False),
    ):
        features = CENTRES.copy()
        features[NAMES.index(name)] += SPREADS[NAMES.index(name)]
        assert (weights.score(features) > usual) is better, name


def test_another_versions_label_and_fit_change_nothing() -> None:
    """While workers are replaced, what those of other features say is passed over."""
    learner = Learner(0.02)
    learner.learn(Label((0.5,) * (len(NAMES) - 1), 0.5, right=True))
    assert learner.labels == 0
    made = fitted_by(np.zeros((8, len(NAMES) + 3), np.float32))
    assert not made.foreign
    weights = msgspec.structs.replace(made.weights, beta=made.weights.beta[:-1])
    assert msgspec.structs.replace(made, weights=weights).foreign
