"""The decision: what is preferred among what fits, and when a conversation moves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.route.choice import WAITING, Offer, decided, lost, ordered
from policies.route.config import Prefer

SMALL = Offer("small", now_nanodollars=100, later_nanodollars=100, latency_s=1.0)
LARGE = Offer("large", now_nanodollars=1000, later_nanodollars=1000, latency_s=0.4)
OFFERS = st.lists(
    st.builds(
        Offer,
        st.sampled_from("abcdef"),
        st.sampled_from(["", "", "", "context"]),
        st.none() | st.integers(0, 10**9),
        st.none() | st.integers(0, 10**9),
        st.none() | st.floats(0, 60) | st.just(WAITING),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda offer: offer.model,
)


@pytest.mark.parametrize(
    ("prefer", "first"), [("order", "large"), ("cost", "small"), ("latency", "large"), ("balanced", "small")]
)
def test_preferences(prefer: Prefer, first: str) -> None:
    """By the file, by dollars, by seconds; balanced: a tenth of the price outweighs twice the time."""
    assert ordered([LARGE, SMALL], prefer)[0].model == first


def test_nobody_knows() -> None:
    """An unknown price is the dearest; a model that nobody asked is asked once, and not twice at a time."""
    unpriced, new = Offer("unpriced", latency_s=1.0), Offer("new", now_nanodollars=5000)
    waiting = Offer("waiting", now_nanodollars=1, latency_s=WAITING)
    assert ordered([LARGE, unpriced, SMALL], "cost")[-1] is unpriced
    assert ordered([LARGE, SMALL, new], "latency")[0] is new
    assert ordered([waiting, LARGE, SMALL], "latency")[0] is LARGE


@given(OFFERS, st.sampled_from(["order", "cost", "latency", "balanced"]), st.sampled_from("abcdefg"), st.booleans())
def test_only_what_fits(offers: list[Offer], prefer: Prefer, at: str, sticky: bool) -> None:
    """All that fit are tried, each once, and nothing else, whatever is preferred and wherever the conversation is."""
    free = {offer.model for offer in offers if not offer.bar}
    if not free:
        return
    course = decided(offers, prefer, at=at, sticky="priced" if sticky else "off")
    assert set(course.models) == free
    assert len(course.models) == len(free)
    if prefer == "order" and sticky and at in free:
        assert course.models[0] == at


WARM = Offer("large", now_nanodollars=400, later_nanodollars=400, warm_tokens=9000)
COLD = Offer("small", now_nanodollars=450, later_nanodollars=200)


@pytest.mark.parametrize(
    ("options", "model", "why"),
    [
        ({}, "large", "cost"),  # 450 > 400: the lost cache isn't paid for
        ({"pays_within": 2}, "small", "switch"),  # 450 + 200 < 400 + 400
        ({"pays_within": 2, "sticky": "always"}, "large", "conversation"),
        ({"sticky": "off"}, "large", "cost"),  # cheapest now, for what is warm
        ({"at": None, "pays_within": 9}, "large", "cost"),
        ({"at": "gone"}, "large", "cost"),
    ],
)
def test_warmth_is_priced_into_a_switch(options: dict[str, Any], model: str, why: str) -> None:
    """(Uncached less cached price) x warm tokens is what going over costs; over some turns it may be paid back."""
    course = decided([WARM, COLD], "cost", **{"at": "large", **options})
    assert (course.models[0], course.why) == (model, why)
    assert course.lost_nanodollars == (lost(COLD) if why == "switch" else 0)
    assert lost(COLD) == 250


def test_a_conversation_leaves_what_no_longer_fits() -> None:
    """Neither `always` nor a warm cache keeps it at a model that can't take the request."""
    full = Offer("large", "context", 400, 400)
    assert decided([full, COLD], "cost", at="large", sticky="always").models == ("small",)


@pytest.mark.parametrize(
    ("gain", "model", "why"), [(0.2, "small", "score"), (0.3, "large", "score"), (None, "large", "no_score")]
)
def test_by_score(gain: float | None, model: str, why: str) -> None:
    """The large model where it is likely to be better; also while nobody knows, so that nothing gets worse."""
    course = decided([SMALL, LARGE], "score", gain=gain, escalate_at=0.3)
    assert (course.models[0], course.why) == (model, why)
    only = decided([SMALL, Offer("large", "unavailable")], "score", gain=0.9, escalate_at=0.3)
    assert only.models == ("small",)
