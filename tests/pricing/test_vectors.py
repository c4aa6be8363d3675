"""Costs that were computed elsewhere: from a second price map, and by hand from published prices."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from math import floor
from pathlib import Path

import pytest

from proxy.dialects import Usage
from proxy.pricing import RateCards

HERE = Path(__file__).parent
Line = dict[str, str]


def lines(name: str) -> list[Line]:
    """The lines of a table, without its comments."""
    text = (line for line in (HERE / name).read_text().splitlines() if not line.startswith("#"))
    return list(csv.DictReader(text))


def usage(line: Line) -> Usage:
    """The counts that a line names."""
    return Usage(**{name: int(count) for name, count in (each.split("=") for each in line["usage"].split())})  # type: ignore[arg-type]


def cost(cards: RateCards, line: Line) -> int | None:
    """What the proxy says that it costs."""
    at = datetime.fromisoformat(line["at"]).replace(tzinfo=UTC)
    card = cards.card(line["provider"], line["model"], at, regional=bool(line["region"]))
    return None if card is None else card.cost(usage(line), line["tier"] or None)


def wrong(cards: RateCards, table: list[Line]) -> Iterator[tuple[str, int, int | None]]:
    """Lines that cost something else here."""
    for line in table:
        found = cost(cards, line)
        if found != int(line["nanodollars"]):
            yield f"{line['provider']}/{line['model']} {line['tier']} {line['usage']}", int(line["nanodollars"]), found


def worked_out(working: str) -> int:
    """The sum of products that stands in a line, `6006*2500+10000*185/6`, rounded half up."""
    total = Fraction()
    for product in working.split("+"):
        above, _, below = product.partition("/")
        count, rate = above.split("*")
        total += Fraction(int(count) * int(rate), int(below or 1))
    return floor(total + Fraction(1, 2))


def test_second_price_map(cards: RateCards) -> None:
    """Every line costs to the nano-dollar what the second map says."""
    table = lines("vectors.csv")
    assert len(table) > 1000
    assert list(wrong(cards, table))[:5] == []


def test_by_hand(cards: RateCards) -> None:
    """Every line costs to the nano-dollar what its working says; each names the page of its rates."""
    table = lines("by_hand.csv")
    assert len(table) >= 40
    assert [line for line in table if not line["source"].startswith("https://")] == []
    assert [line for line in table if worked_out(line["working"]) != int(line["nanodollars"])] == []
    assert list(wrong(cards, table))[:5] == []


def test_disputed(cards: RateCards) -> None:
    """Where the two price lists are known to differ they still do: one that agrees belongs to the vectors."""
    table = lines("disputed.csv")
    assert table
    assert [line for line in table if not line["why"]] == []
    assert [line for line in table if cost(cards, line) == int(line["nanodollars"])] == []


def test_unpriced(cards: RateCards) -> None:
    """Models that only the second map has are unpriced here, never free."""
    names = [name.partition("/") for name in (HERE / "unpriced.txt").read_text().split()]
    at = datetime(2026, 11, 18, 12, tzinfo=UTC)
    assert [name for provider, _, name in names if cards.card(provider, name, at) is not None] == []


COVERED = (
    "cached_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "cache_write_12h_tokens",
    "input_audio_tokens",
    "cached_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "cached_image_tokens",
    "output_image_tokens",
    "reasoning_tokens",
    "citation_tokens",
    "searches",
    "preview_searches",
    "file_searches",
    "code_sessions",
    "characters",
    "audio_ms",
)


@pytest.mark.parametrize("field", COVERED)
def test_every_field_that_moves_a_price_is_covered(field: str) -> None:
    """Each is in at least one line."""
    assert any(f"{field}=" in line["usage"] for name in ("vectors.csv", "by_hand.csv") for line in lines(name))


def test_every_way_to_be_charged_is_covered() -> None:
    """Each tier, a region, the weekend, the long context: all are in lines."""
    table = lines("vectors.csv") + lines("by_hand.csv")
    assert {line["tier"] for line in table} >= {"", "batch", "flex", "priority", "fast", "standard@us", "fast@us"}
    assert any(line["region"] for line in table)
    assert {datetime.fromisoformat(line["at"]).weekday() for line in table} >= {2, 5, 6}
    assert {line["usage"].split()[0] for line in table} >= {
        f"input_tokens={edge + more}" for edge in (200_000, 272_000) for more in (0, 1)
    }
    fields = {each.partition("=")[0] for line in table for each in line["usage"].split()}
    assert fields - {"input_tokens", "output_tokens"} == set(COVERED)
