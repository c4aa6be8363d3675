"""Questions that differ by a word and have another answer, and questions that are the same and mean something else.

`minimal`: questions of our own among those to a bank. Each has a partner that differs by an opposite, a `not`, a
number, a name or the order of two words, and comes later; both also come in other words, so that hits are right too.
`histories`: the bank's questions, each as the last turn of several conversations, whose answers differ.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

from bench.cache.asked import Asked

_AMONG: Final = 6000  # questions to the bank, that minimal pairs come among
_TURNS: Final = 2500  # that each come after three conversations


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",")]


_THINGS: Final = _listed("""dark mode, read receipts, location sharing, push notifications, automatic backups, roaming,
    the voice assistant, the screen lock, autoplay, subtitles, the weekly summary, typing sounds, the battery saver,
    the guest account, parental controls, contact sync""")
_WHERE: Final = ("my phone", "my laptop", "the television", "the display of my car")
_STATES: Final = _listed("""invoices paid, orders shipped, tickets answered, devices insured, flights refundable,
    contracts signed, shops open, rooms heated, courses certified, meals vegetarian, trains delayed, files encrypted,
    users verified, parts recyclable, visas renewable, fees waived""")
_WHEN: Final = ("this week", "in Berlin", "for members", "at night")
_PLACES: Final = _listed("""Norway, Japan, Brazil, Canada, Egypt, Poland, Kenya, Vietnam, Chile, Iceland, Portugal,
    Turkey, Mexico, Greece""")
_NEEDS: Final = ("a visa", "a vaccination", "travel insurance", "a plug adapter")
_UNITS: Final = _listed("""acres, barrels, calories, degrees, euros, feet, gallons, hours, inches, joules, knots,
    litres, miles, ounces""")
_SUMS: Final = _listed("20, 50, 75, 120, 250, 300, 480, 600, 900, 1100, 1500, 2200, 3600, 5000, 7500, 9000")


def _others(these: Sequence[str], by: int = 1) -> Iterator[tuple[str, str]]:
    """Each with the one that comes `by` later."""
    return zip(these, [*these[by:], *these[:by]], strict=True)


Words = tuple[str, ...]
# Three wordings, and the pairs of what they are filled with.
_KINDS: Final[dict[str, tuple[Words, list[tuple[Words, Words]]]]] = {
    "opposite": (
        ("How do I turn {0} {1} on {2}?", "Where can I switch {0} {1} on {2}?", "Show me how {1} is turned {0} on {2}"),
        [(("on", *each), ("off", *each)) for each in product(_THINGS, _WHERE)],
    ),
    "negation": (
        ("Which {1} are{0} {2} {3}?", "List the {1} that are{0} {2} {3}", "I want to see what {1} are{0} {2} {3}"),
        [(("", *state.split(), when), (" not", *state.split(), when)) for state, when in product(_STATES, _WHEN)],
    ),
    "number": (
        (
            "What is the fee for sending {0} dollars to {1}?",
            "How much is it to send {0} dollars to {1}?",
            "Cost of a transfer of {0} dollars to {1}",
        ),
        [((one, place), (other, place)) for (one, other), place in product(list(_others(_SUMS))[::2], _PLACES[:8])],
    ),
    "name": (
        (
            "Do I need {1} to travel to {0}?",
            "Is {1} necessary for a journey to {0}?",
            "I travel to {0}, must I have {1}?",
        ),
        [((one, need), (other, need)) for (one, other), need in product(list(_others(_PLACES))[::2], _NEEDS)],
    ),
    "order": (
        ("How do I convert {0} to {1}?", "What is the formula from {0} to {1}?", "I have {0} and need them in {1}"),
        [((one, other), (other, one)) for by in (1, 2, 3, 4) for one, other in _others(_UNITS, by)],
    ),
}


def minimal(bank: list[Asked]) -> list[Asked]:
    """1,104 questions of 276 pairs among 6,000 others. `after` is the partner that was asked before."""
    drawn = random.Random(11)
    stream = drawn.sample(bank, _AMONG)
    for kind, (wordings, pairs) in _KINDS.items():
        for number, fillings in enumerate(pairs):
            first, second = drawn.sample(wordings, 2)
            for place, filling in enumerate(fillings):
                right = f"{kind} {2 * number + place}"
                after = first.format(*fillings[0]) if place else ""
                stream.append(Asked(first.format(*filling), right, after=after))
                stream.append(Asked(second.format(*filling), right))
    return stream


def histories(bank: list[Asked]) -> list[Asked]:
    """2,500 of the bank's questions as the last turn of three conversations each."""
    drawn = random.Random(12)
    talks = [
        ("I have a business account.", "Thank you. What can I do for you?"),
        ("I have a private account.", "Thank you. What can I do for you?"),
        ("This is about my daughter's account.", "I see. What would you like to know?"),
    ]
    return [
        Asked(one.text, f"{one.right} {number}", before=talk)
        for one in drawn.sample(bank, _TURNS)
        for number, talk in enumerate(talks)
    ]
