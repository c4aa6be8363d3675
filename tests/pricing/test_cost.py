"""Costs worked out by hand from the price lists that providers publish, to the nano-dollar."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.dialects import Usage
from proxy.pricing import RateCards

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("provider", "model", "tier", "usage", "expected"),
    [
        # $0.15 and $0.60 a million: 150 and 600 nano-dollars a token.
        ("openai", "gpt-4o-mini", None, Usage(input_tokens=1000, output_tokens=100), 210_000),
        ("openai", "gpt-4o-mini-2024-07-18", "default", Usage(input_tokens=1, output_tokens=0), 150),
        ("openai", "gpt-4o-mini", "auto", Usage(input_tokens=0, output_tokens=1), 600),
        # Cached tokens are inside prompt_tokens, at half: 500 x 150 + 500 x 75 + 100 x 600.
        (
            "openai",
            "gpt-4o-mini",
            None,
            Usage(input_tokens=1000, cached_tokens=500, output_tokens=100),
            172_500,
        ),
        # Reasoning is inside the output: $8 a million.
        ("openai", "o3", None, Usage(input_tokens=0, output_tokens=1000, reasoning_tokens=900), 8_000_000),
        # Tiers: gpt-5 is $1.25/$10, flex and batch half of it, priority double.
        ("openai", "gpt-5", None, Usage(input_tokens=1000, output_tokens=100), 2_250_000),
        ("openai", "gpt-5", "flex", Usage(input_tokens=1000, output_tokens=100), 1_125_000),
        ("openai", "gpt-5", "batch", Usage(input_tokens=1000, output_tokens=100), 1_125_000),
        ("openai", "gpt-5", "priority", Usage(input_tokens=1000, output_tokens=100), 4_500_000),
        ("azure", "gpt-5", "batch", Usage(input_tokens=1000, output_tokens=100), 1_125_000),
        # Long context reprices the whole request, output too: gpt-5.4 above 272,000 is $5/$22.50, else $2.50/$15.
        ("openai", "gpt-5.4", None, Usage(input_tokens=272_000, output_tokens=1000), 695_000_000),
        ("openai", "gpt-5.4", None, Usage(input_tokens=272_001, output_tokens=1000), 1_382_505_000),
        ("google", "gemini-2.5-pro", None, Usage(input_tokens=200_001, output_tokens=10), 500_152_500),
        # Claude: $3/$15, cache read $0.30, 5-minute write $3.75, 1-hour write $6; searches $10 a thousand.
        (
            "anthropic",
            "claude-sonnet-4-5-20250929",
            "standard",
            Usage(
                input_tokens=10_000,
                cached_tokens=6000,
                cache_write_tokens=2000,
                cache_write_1h_tokens=1000,
                output_tokens=200,
                searches=3,
            ),
            1000 * 3000 + 6000 * 300 + 2000 * 3750 + 1000 * 6000 + 200 * 15_000 + 3 * 10_000_000,
        ),
        ("anthropic", "claude-opus-4-8", "fast", Usage(input_tokens=10, output_tokens=10), 600_000),
        # Audio and images in their own units.
        (
            "openai",
            "gpt-realtime",
            None,
            Usage(input_tokens=100, input_audio_tokens=40, output_tokens=50, output_audio_tokens=30),
            60 * 4000 + 40 * 32_000 + 20 * 16_000 + 30 * 64_000,
        ),
        (
            "openai",
            "gpt-image-1",
            None,
            Usage(input_tokens=100, input_image_tokens=60, output_tokens=1000),
            40 * 5000 + 60 * 10_000 + 1000 * 40_000,
        ),
        ("openai", "text-embedding-3-small", None, Usage(input_tokens=8), 160),
        # By the clock: $0.36 an hour is 100,000 nano-dollars a second.
        ("openai", "whisper-1", None, Usage(audio_ms=61_500), 6_150_000),
        ("groq", "whisper-large-v3", None, Usage(audio_ms=1000), 308_333),  # $0.111 an hour, ten seconds at least
        # By characters: $15 a million.
        ("openai", "tts-1", None, Usage(characters=7), 105_000),
        ("openai", "tts-1", None, Usage(characters=7, input_tokens=3), 105_000),
        # By request as well: $1/$1 a million and $12 a thousand requests.
        ("perplexity", "sonar", None, Usage(input_tokens=10, output_tokens=10), 12_020_000),
        # Fractions of a nano-dollar are rounded once, half up: $0.003625 a million cached is 3.625 a token.
        ("deepseek", "deepseek-v4-pro", None, Usage(input_tokens=1, cached_tokens=1), 44),
    ],
)
def test_published_price(
    cards: RateCards, provider: str, model: str, tier: str | None, usage: Usage, expected: int
) -> None:
    """A use costs what the provider's price list says."""
    card = cards.card(provider, model, NOW)
    assert card is not None
    assert card.cost(usage, tier) == expected


@pytest.mark.parametrize(
    ("provider", "model", "tier", "usage"),
    [
        ("openai", "whisper-1", None, Usage(input_tokens=10, output_tokens=10)),  # priced by time
        ("openai", "tts-1", None, Usage(input_tokens=10)),  # priced by characters
        ("openai", "text-embedding-3-small", None, Usage(input_tokens=1, output_tokens=1)),
        ("openai", "gpt-4o-mini", None, Usage(audio_ms=1)),
        ("openai", "o1", "priority", Usage(input_tokens=10)),  # dearer, by how much isn't published
    ],
)
def test_use_without_a_price(cards: RateCards, provider: str, model: str, tier: str | None, usage: Usage) -> None:
    """What has no price is unpriced, never free."""
    card = cards.card(provider, model, NOW)
    assert card is not None
    assert card.cost(usage, tier) is None


def test_prices_have_a_first_day(cards: RateCards) -> None:
    """o3 cost $10/$40 until 10 June 2025 and $2/$8 since; a time without a zone is UTC."""
    use = Usage(input_tokens=1000, output_tokens=1000)

    def cost(at: datetime) -> int | None:
        card = cards.card("openai", "o3", at)
        return card.cost(use) if card is not None else None

    assert cost(datetime(2025, 6, 9, 23, 59, tzinfo=UTC)) == 50_000_000
    assert cost(datetime(2025, 6, 10, tzinfo=UTC)) == 10_000_000
    assert cost(datetime(2025, 6, 10)) == 10_000_000


def test_prices_by_time_of_day(cards: RateCards) -> None:
    """DeepSeek's nights are cheaper: 00:30 to 16:30 UTC is the dear part of the day."""
    use = Usage(input_tokens=1000)
    costs = [
        card.cost(use)
        for hour, minute in ((0, 29), (0, 30), (16, 29), (16, 30))
        if (card := cards.card("deepseek", "deepseek-chat", datetime(2026, 11, 20, hour, minute, tzinfo=UTC)))
    ]
    assert costs == [135_000, 270_000, 270_000, 135_000]


def test_half_where_the_provider_sells_it_so(cards: RateCards) -> None:
    """A tier without a published price: half on OpenAI's flex, searches apart; the same where that isn't sold."""
    use = Usage(input_tokens=1000, searches=1)
    gpt, llama = cards.card("openai", "gpt-4o-mini", NOW), cards.card("groq", "llama-3.3-70b-versatile", NOW)
    assert gpt is not None
    assert llama is not None
    assert gpt.cost(use, "flex") == 75_000 + 10_000_000
    assert llama.cost(Usage(input_tokens=1000), "flex") == llama.cost(Usage(input_tokens=1000))


def test_reserve(cards: RateCards) -> None:
    """A reservation is input plus n times the cap, in the band that the input is in, on the tier asked for."""
    card = cards.card("openai", "gpt-5.4", NOW)
    assert card is not None
    assert card.reserve(1000, 100, 3) == 1000 * 2500 + 300 * 15_000
    assert card.reserve(300_000, 100, 1) == 300_000 * 5000 + 100 * 22_500
    assert card.reserve(1000, 100, 1, "priority") == 1000 * 5000 + 100 * 30_000
    speech = cards.card("openai", "tts-1", NOW)
    assert speech is not None
    assert speech.reserve(1000, 0) == 4000 * 15_000  # four characters a token
