"""Prices of the deployment file."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from proxy.config.upstreams import Price
from proxy.dialects import Usage
from proxy.pricing import RateCards
from proxy.pricing.units import UNITS

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


def test_residency() -> None:
    """Data residency comes last and moves whatever is counted in tokens, named or not, on every tier; fees stay."""
    prices = {"openai/gpt-5": (Price(input="1.00", multiplier="0.9", residency="1.1"),)}
    use = Usage(input_tokens=1000, output_tokens=1000, searches=1)
    assert cost(prices, "openai", "gpt-5", use) == 1_100_000 + 9_900_000 + 9_000_000
    assert cost(prices, "openai", "gpt-5", use, tier="flex") == 550_000 + 4_950_000 + 9_000_000


def test_an_upstream_counts_before_its_provider() -> None:
    """Two upstreams of one provider may have two prices; of patterns alike the upstream's counts."""
    prices = {"azure/gpt-5": (Price(input="2"),), "sweden/gpt-5": (Price(input="3"),), "sweden/*": (Price(input="4"),)}
    cards, use = RateCards.compile(prices), Usage(input_tokens=1000)

    def at(upstream: str, model: str) -> int | None:
        card = cards.card("azure", model, NOW, upstream=upstream)
        return card.cost(use) if card is not None else None

    assert (at("sweden", "gpt-5"), at("texas", "gpt-5"), at("sweden", "gpt-5-mini")) == (3000_000, 2000_000, 4000_000)


def test_address_of_a_region(cards: RateCards) -> None:
    """Published prices of a regional address are a tenth higher for some models; contracts are as they say."""
    use = Usage(input_tokens=1000, searches=1)

    def at(source: RateCards, model: str, regional: bool) -> int | None:
        card = source.card("openai", model, NOW, regional=regional)
        return card.cost(use) if card is not None else None

    assert at(cards, "gpt-5.4", regional=True) == 2_750_000 + 10_000_000
    assert at(cards, "gpt-5.4", regional=False) == 2_500_000 + 10_000_000
    assert at(cards, "gpt-5", regional=True) == at(cards, "gpt-5", regional=False)
    assert at(cards.overridden({"gpt-5.4": [Price(input="2")]}), "gpt-5.4", regional=True) == 2_000_000 + 10_000_000


def test_tools() -> None:
    """The provider's own tools: searches and file searches by the thousand, containers one by one."""
    prices = {
        "own": (Price(input="1", search="7", search_preview="20", file_search="3", code_interpreter="0.05"),),
    }
    assert cost(prices, None, "own", Usage(searches=3)) == 21_000_000
    assert cost(prices, None, "own", Usage(searches=3, preview_searches=1)) == 2 * 7_000_000 + 20_000_000
    assert cost(prices, None, "own", Usage(file_searches=2, code_sessions=1)) == 6_000_000 + 50_000_000
    assert cost({"own": (Price(input="1"),)}, None, "own", Usage(input_tokens=1, code_sessions=1)) is None


def test_every_unit_has_a_field() -> None:
    """Each unit of a price list can be set in the deployment file, and is then what it costs."""
    used = {
        "input": Usage(input_tokens=10**6),
        "output": Usage(output_tokens=10**6),
        "cached_input": Usage(input_tokens=10**6, cached_tokens=10**6),
        "cache_write": Usage(input_tokens=10**6, cache_write_tokens=10**6),
        "cache_write_1h": Usage(input_tokens=10**6, cache_write_1h_tokens=10**6),
        "cache_write_12h": Usage(input_tokens=10**6, cache_write_12h_tokens=10**6),
        "input_audio": Usage(input_tokens=10**6, input_audio_tokens=10**6),
        "cached_audio": Usage(
            input_tokens=10**6, input_audio_tokens=10**6, cached_tokens=10**6, cached_audio_tokens=10**6
        ),
        "output_audio": Usage(output_tokens=10**6, output_audio_tokens=10**6),
        "input_image": Usage(input_tokens=10**6, input_image_tokens=10**6),
        "cached_image": Usage(
            input_tokens=10**6, input_image_tokens=10**6, cached_tokens=10**6, cached_image_tokens=10**6
        ),
        "output_image": Usage(output_tokens=10**6, output_image_tokens=10**6),
        "reasoning": Usage(output_tokens=10**6, reasoning_tokens=10**6),
        "citation": Usage(output_tokens=10**6, citation_tokens=10**6),
        "characters": Usage(characters=10**6),
        "audio_hours": Usage(audio_ms=3_600_000),
        "search": Usage(searches=1000),
        "search_preview": Usage(searches=1000, preview_searches=1000),
        "file_search": Usage(file_searches=1000),
        "code_interpreter": Usage(code_sessions=1),
        "request": Usage(),
    }
    renamed = {"audio_hours": "audio_hour"}
    assert used.keys() == {unit.name for unit in UNITS} - {"input_audio_hours"}
    every = {renamed.get(name, name): str(number) for number, name in enumerate(used, 1)}
    card = RateCards.compile({"own": (Price(**every),)}).card(None, "own", NOW)  # type: ignore[arg-type]
    assert card is not None
    request = len(used)
    found = {name: card.cost(usage) for name, usage in used.items()}
    wanted = {name: (number + request) * 10**9 for number, name in enumerate(used, 1)}
    assert found == {**wanted, "request": request * 10**9}


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


@pytest.mark.parametrize(
    ("patterns", "model", "expected"),
    [
        (["gpt-4o-mini"], "gpt-4o-mini-2024-07-18", 1),
        (["*", "openai/gpt-4o-mini", "gpt-4o-*"], "gpt-4o-mini-2024-07-18", 2),
        (["gpt-4", "gpt-4*"], "gpt-4-0613", 1),
        (["claude-3-5-haiku-latest"], "claude-3-5-haiku-20241022", 1),
        (["my-own"], "my-own-2026-01-31", 1),
        (["my-own"], "my-own@20260131", 1),
        (["gpt-4o-mini", "gpt-4o-mini-2024-07-18"], "gpt-4o-mini-2024-07-18", 2),
        (["gpt-4o-mini", "gpt-4o-mini-2024-*"], "gpt-4o-mini-2024-07-18", 2),
        (["gpt-4o-mini", "up/gpt-4o-mini-2024-*"], "gpt-4o-mini-2024-07-18", 2),
        (["gpt-4o"], "gpt-4o-2024-05-13", None),  # another price, published
        (["gpt-4o-2024-08-06"], "gpt-4o", None),
        (["my-own"], "my-own-2048", None),  # not known to be a version
        (["my-own-latest"], "my-own-2026-01-31", None),
    ],
)
def test_versions_of_a_name(patterns: list[str], model: str, expected: int | None) -> None:
    """A price by name counts for the version that answers, unless something more specific does, or a list differs."""
    prices = {pattern: [Price(input=f"0.00{number}")] for number, pattern in enumerate(patterns, 1)}
    provider = "anthropic" if model.startswith("claude") else "openai"
    card = RateCards.compile(prices).card(provider, model, NOW, upstream="up")
    used = Usage(input_tokens=1000)
    assert (card.cost(used) if card is not None and card.override is not None else None) == (
        None if expected is None else expected * 1000
    )


def test_cached_audio_without_a_price() -> None:
    """Cached audio costs as much as other audio where only that has a price."""
    prices = {"own": (Price(input="1", cached_input="0.1", input_audio="10"),)}
    use = Usage(input_tokens=10, cached_tokens=4, input_audio_tokens=5, cached_audio_tokens=2)
    # 3 text + 2 cached text + 3 audio + 2 cached audio
    assert cost(prices, None, "own", use) == 3 * 1000 + 2 * 100 + 5 * 10_000


def test_hash_tells_prices() -> None:
    """Other prices, another hash."""
    assert RateCards.compile({"a": (Price(input="1"),)}).hash != RateCards.compile({"a": (Price(input="2"),)}).hash
