"""Prices of the deployment file."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from proxy.config.upstreams import Price
from proxy.dialects import Usage
from proxy.pricing import RateCards

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
THOUSAND = Usage(input_tokens=1000, output_tokens=1000)


def cost(
    prices: dict[str, tuple[Price, ...]],
    provider: str | None,
    model: str,
    usage: Usage = THOUSAND,
    tier: str | None = None,
    at: datetime = NOW,
) -> int | None:
    """What a use costs with these prices, carried as bytes."""
    card = RateCards.from_bytes(RateCards.compile(prices).to_bytes()).card(provider, model, at)
    return card.cost(usage, tier) if card is not None else None


def test_contract_price() -> None:
    """A named rate replaces the published one, whatever isn't named stays; service tiers keep their share of it."""
    prices = {"openai/gpt-5": (Price(input="1.00"),)}
    assert cost(prices, "openai", "gpt-5") == 1_000_000 + 10_000_000
    assert cost(prices, "openai", "gpt-5", tier="flex") == 500_000 + 5_000_000
    assert cost(prices, "openai", "gpt-5-mini") == cost({}, "openai", "gpt-5-mini")
    assert cost(prices, "azure", "gpt-5") == cost({}, "azure", "gpt-5")


def test_long_context_follows_a_contract() -> None:
    """Above the threshold a contract price rises as the published price does."""
    long = Usage(input_tokens=300_000)
    assert cost({"gpt-5.4": (Price(input="2.00"),)}, "openai", "gpt-5.4", long) == 300_000 * 4000


def test_multiplier() -> None:
    """Data residency: every published rate times 1.1, exactly, cached tokens and searches as well, on every tier."""
    prices = {"openai/*": (Price(multiplier="1.1"),)}
    use = Usage(input_tokens=1000, cached_tokens=300, output_tokens=7, searches=1)
    published = cost({}, "openai", "gpt-5", use)
    assert published is not None
    assert cost(prices, "openai", "gpt-5", use) == published * 11 // 10
    assert cost(prices, "openai", "gpt-5", tier="batch") == 5_625_000 * 11 // 10
    assert cost(prices, "openai", "unheard-of") is None


def test_first_day() -> None:
    """Before its first day the published price holds; of several prices the last begun."""
    prices = {
        "gpt-4o-mini": (
            Price(input="0.30", effective_from=date(2026, 11, 1)),
            Price(input="0.20", effective_from=date(2026, 10, 1)),
        )
    }
    use = Usage(input_tokens=1000)
    at = [datetime(2026, 9, 30, 23, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)]
    assert [cost(prices, "openai", "gpt-4o-mini", use, at=each) for each in at] == [150_000, 200_000, 300_000]


def test_servers_of_ones_own() -> None:
    """A model that nobody sells costs what its GPUs cost an hour, shared by the tokens of an hour."""
    prices = {"llama-3.1-8b": (Price(gpu_hour="2.40", tokens_per_gpu_hour=7_000_000),)}
    # 2.4e9 / 7e6 = 342.857142… nano-dollars a token: exact until the one rounding.
    assert cost(prices, None, "llama-3.1-8b", Usage(input_tokens=6, output_tokens=1)) == 2400
    assert cost(prices, None, "llama-3.1-8b", Usage(input_tokens=1)) == 343
    assert cost(prices, "local", "Llama-3.1-8B", Usage(input_tokens=7)) == 2400
    assert cost(prices, None, "llama-3.1-70b") is None


def test_per_request_and_per_search() -> None:
    """A request's own price, and a thousand searches'."""
    prices = {"own-search": (Price(request="0.002", search="5"),)}
    assert cost(prices, None, "own-search", Usage(input_tokens=10, searches=2)) == 2_000_000 + 10_000_000


def test_half_a_price() -> None:
    """Output tokens of a model whose output has no price are unpriced, not free."""
    assert cost({"own": (Price(input="1"),)}, None, "own") is None
    assert cost({"own": (Price(input="1"),)}, None, "own", Usage(input_tokens=5)) == 5000


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], 1),
        (["*", "gpt-*"], 2),
        (["*", "gpt-*", "openai/gpt-*"], 3),
        (["*", "gpt-*", "openai/gpt-*", "gpt-4o-mini"], 4),
        (["*", "gpt-*", "openai/gpt-*", "gpt-4o-mini", "openai/gpt-4o-mini"], 5),
        (["azure/gpt-4o-mini", "*"], 2),
        (["*", "GPT-4O-MINI"], 2),
    ],
)
def test_most_specific_pattern(patterns: list[str], expected: int) -> None:
    """Of the patterns that match, the most specific counts, alone; letters' case doesn't matter."""
    prices = {pattern: (Price(input=str(number)),) for number, pattern in enumerate(patterns, 1)}
    assert cost(prices, "openai", "gpt-4o-mini", Usage(input_tokens=1)) == expected * 1000


def test_cached_audio_without_a_price() -> None:
    """Cached audio costs as much as other audio where only that has a price."""
    prices = {"own": (Price(input="1", cached_input="0.1", input_audio="10"),)}
    use = Usage(input_tokens=10, cached_tokens=4, input_audio_tokens=5, cached_audio_tokens=2)
    # 3 text + 2 cached text + 3 audio + 2 cached audio
    assert cost(prices, None, "own", use) == 3 * 1000 + 2 * 100 + 5 * 10_000


def test_hash_tells_prices() -> None:
    """Other prices, another hash."""
    assert RateCards.compile({"a": (Price(input="1"),)}).hash != RateCards.compile({"a": (Price(input="2"),)}).hash
