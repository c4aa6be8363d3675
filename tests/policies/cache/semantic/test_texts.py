"""Texts: what is seen of them beside their vectors, when answers are equal, how vectors are made."""

from __future__ import annotations

import random

import numpy as np
import pytest

from policies.cache.semantic.equality import Common, alike, answer_of, normal
from policies.cache.semantic.facts import facts_of, opposites, unpacked
from policies.cache.semantic.features import question
from policies.cache.semantic.room import Room, Stored, half
from policies.cache.semantic.static import Static


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It costs 1,000 EUR.", "it costs 1000 eur"),
        ("The rate is 3.50%", "the rate is 3.5 %"),
        ("**Yes**, you can!", "yes you can"),
        ("1. Open it\n2. Press it", "- open it\n- press it"),
        ("Don’t", "don't"),
    ],
)
def test_normal_forms(one: str, other: str) -> None:
    """Case, punctuation, mark-up, spacing and the form of numbers don't count."""
    assert normal(one) == normal(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("It costs 100", "it costs 1000"), ("3.5%", "35%"), ("you can", "you can't"), ("-5", "5"), ("v1.2.3", "v1.23")],
)
def test_what_counts(one: str, other: str) -> None:
    """Numbers, signs and negations do."""
    assert normal(one) != normal(other)


def told(*texts: str) -> Common:
    """Answers that came once each, with nothing beside them."""
    common = Common()
    for text in texts:
        common.add(answer_of(text).set, None)
    return common


THINGS = ("card", "phone", "transfer", "loan", "receipt", "passport", "voucher", "statement")
STATES = ("lost", "pending", "blocked", "expired", "doubled")
BODIES = tuple(f"{state} {thing}" for state in STATES for thing in THINGS)
FRAMES = ("{}", "Sure! {}.", "Here is what I found: {}.", "In short, {}.", "Thanks for asking! This is about {}.")


def lived() -> Common:
    """A partition in which nine of ten nearest questions have the same answer, worded at random."""
    drawn, common = random.Random(1), Common()
    for _ in range(1000):
        body = drawn.choice(BODIES)
        other = body if drawn.random() < 0.9 else drawn.choice(BODIES)
        one, beside = (answer_of(drawn.choice(FRAMES).format(each)).set for each in (body, other))
        common.add(one, beside)
    return common


def test_other_words_for_the_same_answer() -> None:
    """What is said this time and not the next doesn't count: frames don't make answers differ, nor bodies alike."""
    common = lived()
    for body in BODIES:
        for frame in FRAMES:
            one = answer_of(frame.format(body))
            for other in FRAMES:
                assert alike(one, [answer_of(other.format(body))], common), (frame, other, body)
            others = [answer_of(frame.format(each)) for each in BODIES if each != body]
            assert not alike(one, others, common), (frame, body)


def test_unknown_words_count() -> None:
    """In a young partition nobody knows which words matter: all do."""
    assert not alike(answer_of("lost card"), [answer_of("Sure! lost card, here it is found")], Common())
    assert alike(answer_of("your lost card"), [answer_of("the lost card")], Common())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("You may take 2 tablets a day.", "You may take 3 tablets a day."),
        ("You can withdraw the money.", "You can not withdraw the money."),
        ("Turn the dark mode on in settings.", "Turn the dark mode off in settings."),
        ("Increase the dose slowly.", "Decrease the dose slowly."),
    ],
)
def test_in_doubt_answers_differ(one: str, other: str) -> None:
    """However alike: another number, a negation, an opposite is another answer."""
    assert not alike(answer_of(one), [answer_of(other)], told(one, other))


def test_facts() -> None:
    """Numbers in words and figures, negation, opposites, the kind of question."""
    facts = facts_of("How can't I turn off two of the 1,000 cards?")
    assert facts.numbers == {"2", "1000"}
    assert facts.negated
    assert facts.asks == "how"
    assert unpacked(facts_of("card").words) < unpacked(facts.words)
    assert opposites(facts_of("turn it on").opposed, facts_of("turn it off").opposed)
    assert not opposites(facts_of("turn it on").opposed, facts_of("turn it").opposed)
    assert facts_of("B or a?").spelt == facts_of("a, or b").spelt


def test_tokens_of_words_are_those_of_the_text() -> None:
    """Put together word by word, tokens are what the tokenizer makes of the whole, whatever the text."""
    static, drawn = Static(), random.Random(5)
    parts = (
        "card",
        "cards",
        "don't",
        "naïve",
        "東京",
        "😀",
        "a\nb",
        "x" * 50,
        "▁",
        "c▁",
        "<s>",
        "</s>",
        "",
        " ",
        "\t",
        "1,000",
    )
    for _ in range(500):
        text = " ".join(drawn.choices(parts, k=drawn.randrange(1, 7)))
        whole = static._tokens.encode(text, add_special_tokens=False).ids or [0]
        assert static.tokens(text).tolist() == whole, text


def test_static_vectors() -> None:
    """Of length one, the same each time, and nearer for what means the same."""
    static = Static()

    def vector(text: str) -> np.ndarray:
        return static.vector(static.rows(static.tokens(text)))

    one, same, other = (
        vector("How do I reset my password?"),
        vector("password reset, how?"),
        vector("Best pizza in town"),
    )
    assert abs(float(one @ one) - 1) < 1e-5
    assert np.array_equal(one, vector("How do I reset my password?"))
    assert float(one @ same) > float(one @ other) + 0.2
    for odd in ("", " ", "\x00", "😀" * 50, "ж" * 200):
        assert np.isfinite(vector(odd)).all()


def test_an_answer_that_says_both_joins_them() -> None:
    """Two groups that turn out to be one become one: members, wordings and names."""
    static = Static()
    room = Room("t")

    def store(key: str, text: str, said: str, group: bytes, *joined: bytes) -> None:
        asked = question(text, static)
        tokens, vector = asked.tokens.tobytes(), half(asked.vector)
        room.add(Stored("t", "p", key, text, tokens, vector, 1.0, group, answer_of(said), None, joined))

    one, other, third = (answer_of(said).name for said in ("lost card", "Sure! lost card", "Well, lost card"))
    store("a", "I lost my card", "lost card", one)
    store("b", "my card is lost", "Sure! lost card", other)
    assert len(room.partition.members) == 2
    store("c", "card lost", "Well, lost card", one, other)
    assert dict(room.partition.members) == {0: 3}
    near = room.partition.nearest(question("lost card", static).vector)
    for name, said in ((one, "lost card"), (other, "Sure! lost card"), (third, "Well, lost card")):
        assert answer_of(said).name == name
        assert room.grouped(answer_of(said), near, similar=True)[0] == one
    store("d", "still lost", "lost card", other)  # from a worker that hasn't heard of it
    assert dict(room.partition.members) == {0: 4}
