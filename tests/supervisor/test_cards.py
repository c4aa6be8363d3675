"""The compiled rate cards."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.pricing import RateCards
from proxy.supervisor.cards import CardsError, compiled, file_of, prune

NONE = '{"prices": {}}'


async def test_they_are_compiled_once(tmp_path: Path) -> None:
    """The file prices a known model; the second time it is taken as it is."""
    path = await compiled(tmp_path, NONE)
    cards = RateCards.from_bytes(path.read_bytes())
    assert cards.card("openai", "gpt-4o-mini", datetime(2026, 1, 1, tzinfo=UTC)) is not None
    before = path.stat()
    assert await compiled(tmp_path, NONE) == path
    assert path.stat() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


async def test_overrides_are_in_them(tmp_path: Path) -> None:
    """A price of the deployment file makes another file, in which that model has a price."""
    prices = '{"prices": {"my-own-model": [{"input": "1.5", "output": "2"}]}}'
    path = await compiled(tmp_path, prices)
    assert path != file_of(tmp_path, NONE)
    cards = RateCards.from_bytes(path.read_bytes())
    assert cards.card(None, "my-own-model", datetime(2026, 1, 1, tzinfo=UTC)) is not None


async def test_what_cannot_be_compiled_is_one_error(tmp_path: Path) -> None:
    """The last line of the complaint, and no half-written file."""
    with pytest.raises(CardsError, match="can't be compiled"):
        await compiled(tmp_path, "nonsense")
    assert list(tmp_path.iterdir()) == []


async def test_files_of_other_prices_are_removed(tmp_path: Path) -> None:
    """Those in use stay, and so does everything else."""
    used, other = tmp_path / "cards-1.bin", tmp_path / "cards-2.bin"
    for path in (used, other, tmp_path / "keys.json"):
        path.write_text("")
    prune(tmp_path, used)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cards-1.bin", "keys.json"]
