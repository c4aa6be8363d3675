"""Prices as they are told to people."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from proxy.config.upstreams import Price
from proxy.pricing import RateCards
from proxy.pricing.quote import Change, Line, Quote, compared, moment, nearest, quote

NOW = datetime(2026, 11, 18, 12, tzinfo=UTC)


def told(cards: RateCards, provider: str | None, model: str, tier: str | None = None, at: datetime = NOW) -> Quote:
    """What is said of a model that has a price."""
    card = cards.card(provider, model, at)
    assert card is not None
    return quote(cards, card, tier)


def test_everything_that_applies(cards: RateCards) -> None:
    """Rates, cache, fees, thresholds, tiers, limits, the list and its hash."""
    found = told(cards, "openai", "gpt-5.4")
    assert (found.provider, found.model, found.source) == ("openai", "gpt-5.4", cards.source)
    assert (found.cards, found.context_window, found.max_output) == (cards.hash, 1_050_000, 128_000)
    assert found.override is None
    expected = [
        Line("", "input", "2.5", 10**6, {272_000: "5"}, "published"),
        Line("", "cached_input", "0.25", 10**6, {272_000: "0.5"}, "published"),
        Line("", "search", "10", 1000, {}, "published"),
        Line("", "code_interpreter", "0.03", 1, {}, "price page"),
        Line("flex", "cached_input", "0.13", 10**6, {272_000: "0.25"}, "published"),
        Line("priority", "output", "30", 10**6, {}, "published"),
    ]
    assert [line for line in expected if line not in found.lines] == []


def test_one_tier_is_told_whole(cards: RateCards) -> None:
    """A tier that is asked for has all its prices, those of the standard too."""
    found = told(cards, "google", "gemini-2.5-pro", "flex")
    assert {(line.unit, line.usd, line.origin) for line in found.lines} >= {
        ("input", "0.625", "standard × 0.5"),
        ("cached_input", "0.125", "standard"),
        ("search", "35", "standard"),
    }
    assert {line.tier for line in found.lines} == {"flex"}


def test_a_tier_without_a_price(cards: RateCards) -> None:
    """A tier that costs more, and nobody says how much, is named as unpriced."""
    assert told(cards, "openai", "o1").unpriced_tiers == ["priority", "fast"]


def test_hours_and_first_days(cards: RateCards) -> None:
    """Prices by the hour say their hours, others their first day."""
    night = NOW.replace(hour=2)
    assert told(cards, "deepseek", "deepseek-v4-pro", at=night).hours == "01:00-04:00 UTC Monday to Friday"
    assert told(cards, "openai", "o3").effective_from == "2025-06-10"


def test_where_each_price_is_from(cards: RateCards) -> None:
    """Named prices, multiplied ones, those of a residency: each says so, and which pattern of the file it was."""
    yours = cards.overridden(
        {"openai/gpt-5": [Price(input="1", multiplier="0.9", residency="1.1", effective_from=date(2026, 11, 1))]}
    )
    found = told(yours, "openai", "gpt-5")
    origins = {line.unit: (line.usd, line.origin) for line in found.lines if not line.tier}
    assert origins["input"] == ("1.1", "deployment file × 1.1 for residency")
    assert origins["output"] == ("9.9", "published × 0.9 × 1.1 for residency")
    assert origins["search"] == ("9", "published × 0.9")
    assert (found.override, found.effective_from) == ("openai/gpt-5", "2026-11-01")
    flex = {line.unit: (line.usd, line.origin) for line in found.lines if line.tier == "flex"}
    assert flex["output"] == ("4.95", "published × 0.99")


def test_region_of_an_address(cards: RateCards) -> None:
    """A regional address is named as the reason of its uplift."""
    card = cards.card("openai", "gpt-5.4", NOW, regional=True)
    assert card is not None
    lines = {line.unit: (line.usd, line.origin) for line in quote(cards, card).lines if not line.tier}
    assert lines["input"] == ("2.75", "published × 1.1 for its region")
    assert lines["search"] == ("10", "published")


def test_what_no_decimal_holds(cards: RateCards) -> None:
    """A rate that no decimal holds ends in an ellipsis."""
    yours = cards.overridden({"llama": [Price(gpu_hour="2.40", tokens_per_gpu_hour=7_000_000)]})
    assert told(yours, None, "llama").lines[0].usd == "0.342857…"


def test_what_differs(cards: RateCards) -> None:
    """Only what differs, with how many times as much; fees once, not for every tier."""
    yours = cards.overridden({"gpt-5": [Price(input="1", search="9")]})
    changes = compared(told(cards, "openai", "gpt-5"), told(yours, "openai", "gpt-5"))
    assert Change("", "input", "1.25", "1", 10**6, 0.8) in changes
    assert Change("flex", "input", "0.625", "0.5", 10**6, 0.8) in changes
    assert [(change.tier, change.unit) for change in changes if change.unit == "search"] == [("", "search")]
    assert {change.unit for change in changes} == {"input", "search"}
    assert compared(told(cards, "openai", "gpt-5"), told(cards, "openai", "gpt-5")) == []
    assert {change.before for change in compared(None, told(cards, "openai", "gpt-5"))} == {None}


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [(None, "gpt-4o-mni", "gpt-4o-mini"), ("anthropic", "claude-opus-48", "claude-opus-4-8"), ("nobody", "x", None)],
)
def test_nearest_names(cards: RateCards, provider: str | None, model: str, expected: str | None) -> None:
    """A name that nobody has brings those that it may have meant."""
    found = nearest(cards, provider, model)
    assert (expected in found) if expected is not None else found == []


def test_moments() -> None:
    """A date means its noon; a time without a zone is UTC."""
    assert moment("2026-11-18", NOW) == NOW
    assert moment("2026-11-18T02:00", NOW) == NOW.replace(hour=2)
    assert moment("2026-11-18T02:00+02:00", NOW) == NOW.replace(hour=0)
    assert moment("now", NOW) is NOW
    with pytest.raises(ValueError, match="tomorrow"):
        moment("tomorrow", NOW)
