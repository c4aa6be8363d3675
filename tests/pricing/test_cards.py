"""Looking cards up, and carrying them to workers."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.dialects import Usage
from proxy.pricing import RateCards
from proxy.pricing.cards import REMEMBERED

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o-mini", "openai"),
        ("text-embedding-3-small", "openai"),
        ("claude-sonnet-4-5-20250929", "anthropic"),  # sold by Google too
        ("gemini-2.5-flash", "google"),
        ("openai/gpt-4o-mini", "openai"),
        ("grok-4", "x-ai"),
    ],
)
def test_maker_of_a_model(cards: RateCards, model: str, provider: str) -> None:
    """Where the upstream's provider isn't known, the maker's price holds."""
    card = cards.card(None, model, NOW)
    assert card is not None
    assert card.provider == provider


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        (None, "llama-3.1-8b"),
        (None, "gpt-oss-120b"),  # open weights: whoever serves it says what it costs
        (None, "whisper-1"),
        (None, ""),
        (None, "openai/unheard-of"),
        ("openai", "unheard-of"),
        ("openai", "omni-moderation-latest"),  # known, with no price
        ("my-own-servers", "gpt-4o-mini"),
        ("openrouter", "openai/gpt-oss-20b:free"),
    ],
)
def test_unknown_is_unpriced(cards: RateCards, provider: str | None, model: str) -> None:
    """No price is no card."""
    assert cards.card(provider, model, NOW) is None


def test_bytes_carry_everything(cards: RateCards) -> None:
    """Cards read from bytes are those compiled; the same prices give the same hash, other prices another."""
    again = RateCards.from_bytes(cards.to_bytes())
    assert again.hash == cards.hash == RateCards.compile().hash
    assert len(cards.hash) == 64
    use = Usage(input_tokens=123, output_tokens=45)
    assert again.card("openai", "gpt-5", NOW).cost(use) == cards.card("openai", "gpt-5", NOW).cost(use)  # type: ignore[union-attr]


@pytest.mark.parametrize("packed", [b"", b"{}", b"\x91\x01", b"not cards"])
def test_other_bytes_are_refused(packed: bytes) -> None:
    """A file that isn't compiled cards is an error, not empty prices."""
    with pytest.raises(ValueError, match="rate cards"):
        RateCards.from_bytes(packed)


def test_another_format_is_refused(cards: RateCards) -> None:
    """Cards that another version compiled aren't read."""
    packed = cards.to_bytes()
    assert packed[1] == 2
    with pytest.raises(ValueError, match="format 3, not 2"):
        RateCards.from_bytes(packed[:1] + b"\x03" + packed[2:])


def test_workers_dont_import_the_price_database(cards: RateCards, tmp_path: Path) -> None:
    """Reading and using cards needs neither the price database nor pydantic."""
    (tmp_path / "cards.bin").write_bytes(cards.to_bytes())
    code = (
        "import sys; from datetime import datetime; from pathlib import Path; from proxy.pricing import RateCards\n"
        "cards = RateCards.from_bytes(Path(sys.argv[1]).read_bytes())\n"
        "assert cards.card('openai', 'gpt-4o-mini', datetime.now()) is not None\n"
        "print(sorted({'genai_prices', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "cards.bin")], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_memory_of_a_worker(cards: RateCards) -> None:
    """All cards loaded, the largest provider looked into: under 6 MB, and bounded whatever names clients invent."""
    packed = cards.to_bytes()
    tracemalloc.start()
    try:
        loaded = RateCards.from_bytes(packed)
        for provider in ("openai", "anthropic", "google", "openrouter"):
            loaded.card(provider, "gpt-4o-mini", NOW)
        for number in range(REMEMBERED + 100):
            loaded.card("openai", f"invented-{number}", NOW)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 6 * 2**20


def test_cards_are_remembered(cards: RateCards) -> None:
    """The same card as long as the same prices hold, another when others do."""
    morning, evening = NOW.replace(hour=9), NOW.replace(hour=20)
    assert cards.card("deepseek", "deepseek-chat", morning) is cards.card("deepseek", "deepseek-chat", morning)
    assert cards.card("deepseek", "deepseek-chat", morning) is not cards.card("deepseek", "deepseek-chat", evening)


def test_a_card_shows_its_prices(cards: RateCards) -> None:
    """A card reads as its price list."""
    card = cards.card("openai", "gpt-4o-mini", NOW)
    assert repr(card).startswith("<RateCard openai/gpt-4o-mini <Sheet input $0.15 per 1,000,000, output $0.6 per")
    assert repr(cards).startswith("<RateCards genai-prices ")
