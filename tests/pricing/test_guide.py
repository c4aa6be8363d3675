"""The guide's examples, and what it says of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from proxy.config.upstreams import Price
from proxy.dialects import Usage
from proxy.pricing import RateCards

PAGE = Path(__file__).parents[2] / "docs/guide/prices.md"
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def examples() -> RateCards:
    """Cards compiled with the prices that the page shows."""
    shown = next(block for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S) if "prices:" in block)
    prices = {
        pattern: price if isinstance(price, list) else [price]
        for pattern, price in yaml.load(shown, yaml.BaseLoader)["prices"].items()
    }
    return RateCards.compile(TypeAdapter(dict[str, tuple[Price, ...]]).validate_python(prices))


def test_examples_of_prices() -> None:
    """Each example does what the page says."""
    cards, use = examples(), Usage(input_tokens=1000, output_tokens=1000)
    costs = {
        (provider, model): card.cost(use)
        for provider, model in (
            ("openai", "gpt-4o"),
            ("anthropic", "claude-sonnet-4-5-20250929"),
            ("azure", "gpt-4o"),
            (None, "mistral-small-24b"),
            (None, "llama-3.1-8b"),
        )
        if (card := cards.card(provider, model, NOW)) is not None
    }
    assert costs == {
        ("openai", "gpt-4o"): 10_000_000,
        ("anthropic", "claude-sonnet-4-5-20250929"): 18_000_000 * 85 // 100,
        ("azure", "gpt-4o"): 12_500_000 * 11 // 10,
        (None, "mistral-small-24b"): 200_000,
        (None, "llama-3.1-8b"): 685_714,
    }


def test_every_field_of_a_price_is_explained() -> None:
    """Fields that the page names exist."""
    named = set(re.findall(r"([a-z_]+): ", "\n".join(re.findall(r"\{(.*?)\}", PAGE.read_text()))))
    assert named - {"url", "provider"} <= Price.model_fields.keys()
    assert named >= {"input", "output", "multiplier", "effective_from", "gpu_hour", "tokens_per_gpu_hour"}
