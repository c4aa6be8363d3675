"""Every card against the price database's own arithmetic, and its own idea of which model a name is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec
import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data import providers
from genai_prices.data_snapshot import get_snapshot
from genai_prices.units import _get_registry

from proxy.dialects import Usage
from proxy.pricing import RateCard, RateCards
from proxy.pricing.units import REQUEST, UNITS

NOW = datetime(2026, 11, 18, 9, 30, tzinfo=UTC)  # a day before a weekday: DeepSeek's weekends are cheaper here
TIERS: dict[str | None, dict[str, str]] = {
    None: {},
    "default": {"service_tier": "default"},
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
}


def theirs(usage: Usage) -> TheirUsage:
    """The same use in the words of the price database."""
    return TheirUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens + usage.cache_write_1h_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        output_audio_tokens=usage.output_audio_tokens,
        cache_audio_read_tokens=usage.cached_audio_tokens,
        input_image_tokens=usage.input_image_tokens,
        output_image_tokens=usage.output_image_tokens,
        cache_image_read_tokens=usage.cached_image_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
        web_searches=usage.searches,
        input_video_tokens=0,
        output_video_tokens=0,
        output_citation_tokens=usage.citation_tokens,
        audio_seconds=Decimal(usage.audio_ms) / 1000,
        input_audio_seconds=Decimal(usage.audio_ms) / 1000,
        output_audio_seconds=0,
        input_characters=usage.characters,
        input_document_pages=0,
        input_annotated_document_pages=0,
        input_text_messages=0,
        storage_searches=usage.file_searches,
    )


def nanodollars(usage: Usage, model: Any, provider: Any, at: datetime, tier: dict[str, str]) -> int:
    """Their price, rounded as ours."""
    price = model.calc_price(theirs(usage), provider, genai_request_timestamp=at, price_context=tier or None)
    return int((price.total_price * 10**9).quantize(Decimal(1), ROUND_HALF_UP))


def names_of(clause: Any) -> Iterator[str]:
    """Names that a clause mentions: exact ones, and the fixed part of others."""
    for kind in ("equals", "starts_with", "contains", "ends_with"):
        if (text := getattr(clause, kind, None)) is not None:
            yield text
    for inner in getattr(clause, "or_", None) or getattr(clause, "and_", None) or ():
        yield from names_of(inner)


def every_model() -> Iterator[tuple[Any, Any, str]]:
    """Each model of each provider by its first name that the database resolves to it."""
    for provider in providers:
        for model in provider.models:
            for name in (model.id, *names_of(model.match)):
                if provider.find_model(name, all_providers=providers) is model:
                    yield provider, model, name
                    break


def some_usage(seed: random.Random) -> Usage:
    """A use of every kind at once, its parts within their totals."""
    size = seed.choice((10, 900, 40_000, 150_000, 300_000, 1_200_000))
    cached, written, written_1h, audio, image = (seed.randint(0, size // 6) for _ in range(5))
    out = seed.randint(0, 60_000)
    return Usage(
        input_tokens=size,
        output_tokens=out,
        cached_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=written_1h,
        input_audio_tokens=audio,
        cached_audio_tokens=min(audio, cached) // 3,
        input_image_tokens=image,
        cached_image_tokens=min(image, cached) // 3,
        output_audio_tokens=out // 4,
        output_image_tokens=out // 5,
        reasoning_tokens=out // 3,
        citation_tokens=out // 7,
        searches=seed.randint(0, 3),
        file_searches=seed.randint(0, 3),
    )


def priced_tiers(model: Any) -> dict[str | None, dict[str, str]]:
    """The tiers for which the database says prices of this model."""
    said = [variant.when for variant in model.price_variants or ()]
    return {tier: words for tier, words in TIERS.items() if not words or words in said}


def said_by_the_database(usage: Usage, card: RateCard) -> Usage:
    """The use without what only we know a price of."""
    added = {field: 0 for index in card.priced_as.added for field, _ in UNITS[index].counts}
    return msgspec.structs.replace(usage, **added)


def test_every_model_costs_what_the_database_says(cards: RateCards) -> None:
    """All models of all providers cost the same here, whatever was used, on each tier, at any time of day."""
    seed, compared, wrong = random.Random(20261123), 0, []
    for provider, model, name in every_model():
        for tier, words in priced_tiers(model).items():
            at = NOW + timedelta(minutes=seed.randint(0, 24 * 60))
            usage, card = some_usage(seed), cards.card(provider.id, name, at)
            if card is None or REQUEST in card.priced_as.added:
                continue
            usage = said_by_the_database(usage, card)
            searched = card.cost(usage, tier)
            usage = usage if searched is not None else _sold(usage, card.cost(Usage(output_tokens=1)) is not None)
            ours = card.cost(usage, tier)
            if ours is None:
                continue
            compared += 1
            if ours != (expected := nanodollars(usage, model, provider, at, words)):
                wrong.append((provider.id, model.id, tier, ours, expected))
    assert wrong[:5] == []
    assert compared > 2200


def _sold(usage: Usage, output: bool) -> Usage:
    """The part of a use that a model without searches, or without output, has prices for."""
    if output:
        return Usage(**{name: value for name, value in usage.counts().items() if not name.endswith("searches")})
    return Usage(input_tokens=usage.input_tokens)


def test_every_model_is_found_by_its_names(cards: RateCards) -> None:
    """A name leads to the model that the database finds, and to no card exactly where it has no price that counts."""
    countable, wrong, unpriced = {unit.key for unit in UNITS}, [], 0
    for provider, model, name in every_model():
        card = cards.card(provider.id, name, NOW)
        prices = [model.prices] if not isinstance(model.prices, list) else [each.prices for each in model.prices]
        has_price = any(value is not None and key in countable for each in prices for key, value in vars(each).items())
        if (card.model if card is not None else None) != (model.id if has_price else None):
            wrong.append((provider.id, name, card, has_price))
        unpriced += not has_price
    assert wrong[:5] == []
    assert unpriced > 20


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "gpt-4o-mini-2024-07-18"),
        ("openai", "gpt-5.2-20251211"),
        ("openai", "GPT-4o"),
        ("anthropic", "claude-sonnet-4-5-20250929"),
        ("azure", "gpt-4.1-mini-2025-04-14"),
        ("azure", "claude-opus-4-6"),
        ("google", "claude-sonnet-4-5@20250929"),
        ("openrouter", "openai/gpt-4o-mini"),
        ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("groq", "llama-3.3-70b-versatile"),
        ("aws", "anthropic.claude-3-5-sonnet-20241022-v2:0"),
        ("bedrock", "amazon.nova-pro-v1:0"),
        ("xai", "grok-4"),
        ("mistral", "mistral-small-latest"),
    ],
)
def test_served_names(cards: RateCards, provider: str, name: str) -> None:
    """Names as answers spell them, and other words for a provider, find what the database finds."""
    card = cards.card(provider, name, NOW)
    _, model = get_snapshot().find_provider_model(name, None, provider, None)
    assert card is not None
    assert card.model == model.id


def test_units_are_those_of_the_database() -> None:
    """A unit is a part of another here exactly if it is there: what is subtracted from what depends on it."""
    registry = _get_registry()
    theirs = [unit for unit in UNITS if unit.key]
    known = {unit.key: registry.unit_for_price_key(unit.key) for unit in theirs}
    for unit in theirs:
        scale = {"durations": 1000}.get(known[unit.key].dimensions["family"], 1)
        assert unit.per == known[unit.key].per * scale
        for other in theirs:
            inside = known[other.key].dimensions.items() < known[unit.key].dimensions.items()
            assert (other.dimensions < unit.dimensions) == inside, (unit.name, other.name)
