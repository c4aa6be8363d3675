"""What a request can cost at most: no answer to it costs more, whatever it used."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from genai_prices.data import providers
from hypothesis import given, note, settings
from hypothesis import strategies as st

from proxy.config.upstreams import Price
from proxy.dialects import Usage
from proxy.pricing import RateCard, RateCards

NOW = datetime(2026, 11, 18, 9, 30, tzinfo=UTC)
ALL = [(provider.id, model.id) for provider in providers for model in provider.models]
TIERED = [(each.id, model.id) for each in providers for model in each.models if model.price_variants]
TIMED = [(each.id, model.id) for each in providers for model in each.models if isinstance(model.prices, list)]
SERVED = {
    None: (None, "default", "auto", "flex", "batch", "priority", "standard", "standard@us", "ultra"),
    "auto": (None, "default", "flex", "priority", "standard@us"),
    "default": (None, "default", "standard@us"),
    "flex": (None, "default", "flex", "flex@us"),
    "priority": (None, "default", "priority", "priority@us"),
    "fast": (None, "standard", "fast", "fast@us", "standard@us"),
    "batch": (None, "batch", "batch@us"),
}


@st.composite
def used(draw: st.DrawFn, most_in: int, most_out: int, *, media: bool = True) -> Usage:
    """Any usage within these bounds, its parts within their totals, as `Usage` promises."""

    def parts(whole: int, count: int) -> list[int]:
        found = []
        for _ in range(count):
            found.append(draw(st.integers(0, whole)))
            whole -= found[-1]
        return draw(st.permutations(found))

    total_in = draw(st.just(most_in) | st.integers(0, most_in))
    total_out = draw(st.just(most_out) | st.integers(0, most_out))
    read, written, written_1h, written_12h = parts(total_in, 4)
    audio, image = parts(total_in, 2) if media else (0, 0)
    read_audio, read_image = parts(read, 2)
    reasoning, citation, audio_out, image_out = parts(total_out, 4)
    return Usage(
        input_tokens=total_in,
        output_tokens=total_out,
        cached_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=written_1h,
        cache_write_12h_tokens=written_12h,
        input_audio_tokens=audio,
        input_image_tokens=image,
        cached_audio_tokens=min(audio, read_audio),
        cached_image_tokens=min(image, read_image),
        reasoning_tokens=reasoning,
        citation_tokens=citation,
        output_audio_tokens=audio_out if media else 0,
        output_image_tokens=image_out if media else 0,
    )


@settings(max_examples=800, deadline=None, print_blob=True)
@given(st.data())
def test_nothing_costs_more_than_its_bound(cards: RateCards, data: st.DataObject) -> None:
    """Of any model, on any tier that may be served, at any time within a day, no usage within the bounds costs more."""
    provider, model = data.draw(st.sampled_from(ALL) | st.sampled_from(TIERED) | st.sampled_from(TIMED))
    asked = data.draw(st.sampled_from(list(SERVED)))
    served = data.draw(st.sampled_from(SERVED[asked]))
    at = NOW + timedelta(minutes=data.draw(st.integers(0, 7 * 24 * 60)))
    later = at + timedelta(minutes=data.draw(st.integers(0, 24 * 60)))
    card = cards.card(provider, model, at)
    if card is None:
        return
    input_tokens = data.draw(st.one_of(st.integers(0, 2000), st.integers(100_000, 1_100_000)))
    cap, n = data.draw(st.integers(0, 200_000)), data.draw(st.integers(1, 5))
    media, characters = data.draw(st.booleans()), data.draw(st.integers(0, 5000))
    if provider == "google" and served == "priority" != asked:
        return  # there nobody is served it who didn't ask for it
    bound = card.bound(input_tokens, cap, n, asked, media=media, characters=characters)
    usage = data.draw(used(input_tokens, cap * n, media=media))
    then = cards.card(provider, model, later)
    assert then is not None
    cost = then.cost(usage, served)
    note(f"{card!r} bound {bound}, cost {cost}")
    if bound is not None and cost is not None:
        assert cost <= bound


@settings(max_examples=200, deadline=None, print_blob=True)
@given(st.data())
def test_prices_of_the_deployment_file_are_bounded_too(data: st.DataObject) -> None:
    """Whatever the deployment file says, from whatever day on, no usage costs more than its bound."""
    rate = st.none() | st.decimals(0, 100, places=3)
    names = ("input", "output", "cached_input", "cache_write", "cache_write_1h", "input_audio", "reasoning", "request")
    prices = [
        Price(
            **{name: data.draw(rate) for name in names},
            multiplier=data.draw(st.none() | st.decimals(0, 3, places=2)),
            residency=data.draw(st.none() | st.decimals(1, 2, places=2)),
            effective_from=day,
        )
        for day in (None, date(2026, 11, 19))
    ]
    cards = _cards(prices)
    card = cards.card("openai", "gpt-6-sol", NOW)
    assert card is not None
    input_tokens, cap = data.draw(st.integers(0, 400_000)), data.draw(st.integers(0, 1000))
    bound = card.bound(input_tokens, cap, 2)
    then = cards.card("openai", "gpt-6-sol", NOW + timedelta(hours=data.draw(st.integers(0, 24))))
    assert bound is not None
    assert then is not None
    cost = then.cost(data.draw(used(input_tokens, 2 * cap)), data.draw(st.sampled_from(SERVED[None])))
    assert cost is not None
    assert cost <= bound


def _cards(prices: list[Price]) -> RateCards:
    """The published cards with these prices for every model; compiled once, since that takes a while."""
    return _PUBLISHED.overridden({"*": prices})


_PUBLISHED = RateCards.compile()


def card_of(cards: RateCards, provider: str, model: str) -> RateCard:
    """A card that exists."""
    card = cards.card(provider, model, NOW)
    assert card is not None
    return card


@pytest.mark.parametrize(
    ("provider", "model", "tier", "media", "expected"),
    [
        # Input as it is, 100 answers' tokens out: nothing in the card is dearer than its plain rates.
        ("openai", "gpt-4.1-nano", "default", False, 1000 * 100 + 100 * 400),
        # An unasked tier may be the project's own: priority costs twice as much.
        ("openai", "gpt-5", None, False, 1000 * 2500 + 100 * 20_000),
        ("openai", "gpt-5", "flex", False, 1000 * 1250 + 100 * 10_000),
        # All of it may be written to a cache: for twelve hours at 2.5 times the input.
        ("openai", "gpt-6-sol", "default", False, 1000 * 5000 + 100 * 10_000),
        # For an hour at twice the input, in one region at 1.1 times.
        ("anthropic", "claude-opus-4-8", None, False, 1100 * 10_000 + 110 * 25_000),
        ("anthropic", "claude-opus-4-8", "fast", False, 1100 * 20_000 + 110 * 50_000),
        ("anthropic", "claude-sonnet-4-5", None, False, 1000 * 6000 + 100 * 15_000),
        # Sound, where the request may hold it.
        ("openai", "gpt-audio", "default", True, 1000 * 32_000 + 100 * 64_000),
        ("openai", "gpt-audio", "default", False, 1000 * 2500 + 100 * 10_000),
        # The hours of the day: the dear ones, even in the cheap ones.
        ("deepseek", "deepseek-v4-pro", None, False, 1000 * 1320 + 100 * 3960),
        # By the request.
        ("perplexity", "sonar-pro", None, False, 1000 * 3000 + 100 * 15_000 + 14_000_000),
        ("openai", "text-embedding-3-small", None, False, 1000 * 20),
    ],
)
def test_the_dearest_that_may_apply(
    cards: RateCards, provider: str, model: str, tier: str | None, media: bool, expected: int
) -> None:
    """A bound is the dearest that may apply, and no more than that."""
    assert card_of(cards, provider, model).bound(1000, 100, 1, tier, media=media) == expected


def test_long_context(cards: RateCards) -> None:
    """The whole request is bounded by the price above the threshold as soon as it may be above."""
    card = card_of(cards, "openai", "gpt-5.4")
    assert card.bound(272_000, 100, 2, "default") == 272_000 * 2500 + 200 * 15_000
    assert card.bound(272_001, 100, 2, "default") == 272_001 * 5000 + 200 * 22_500


def test_speech_by_characters(cards: RateCards) -> None:
    """What is read out is bounded by its characters, and by nothing if they aren't known."""
    card = card_of(cards, "openai", "tts-1")
    assert card.bound(1000, None, characters=500) == 500 * 15_000
    assert card.bound(1000, None) is None


@pytest.mark.parametrize(
    ("provider", "model", "tier", "tools"),
    [
        ("openai", "gpt-5", None, True),  # searches by themselves, and what they find is input
        ("perplexity", "sonar-deep-research", None, False),  # searches as often as it likes
        ("openai", "whisper-1", None, False),  # by the second: how many isn't known
        ("openai", "o1", "priority", False),  # dearer, by how much isn't published
        ("openai", "gpt-image-1", None, False),  # no cap, no maximum known
    ],
)
def test_what_nothing_bounds(cards: RateCards, provider: str, model: str, tier: str | None, tools: bool) -> None:
    """No bound is None, never a guess."""
    assert card_of(cards, provider, model).bound(1000, None, 1, tier, tools=tools) is None


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("openai", "gpt-4o-mini", 16_384),
        ("openai", "gpt-4o-2024-05-13", 4096),
        ("openai", "gpt-4.1", 32_768),
        ("openai", "gpt-5", 128_000),
        ("openai", "o3", 100_000),
        ("azure", "gpt-4o", 16_384),
        ("anthropic", "claude-opus-4-8", 128_000),
        ("anthropic", "claude-sonnet-4-5-20250929", 64_000),
        ("aws", "global.anthropic.claude-opus-4-8-v1:0", 128_000),
        ("google", "gemini-2.5-pro", 65_536),
        ("groq", "llama-3.3-70b-versatile", None),
    ],
)
def test_the_most_of_one_answer(cards: RateCards, provider: str, model: str, expected: int | None) -> None:
    """A request without a cap is bounded by the model's own maximum, else by its context."""
    card = card_of(cards, provider, model)
    assert card.max_output == expected
    assert card.bound(10, None) == card.bound(10, expected or card.context_window)
