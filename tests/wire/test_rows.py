"""The tables of faults and of abuse are whole: each of their rows is named by a test."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
_NAMED = re.compile(r"\b[Rr]ows? ((?:\d+(?: to \d+)?(?:, | and )?)+)|_rows?_(\d+(?:_(?:to|and)_\d+)*)")


def named(*paths: Path) -> set[int]:
    """The rows that test files name: `Rows 5 to 7, 9`, `test_rows_4_to_16_and_38_…`."""
    rows: set[int] = set()
    for path in paths:
        for in_words, in_name in _NAMED.findall(path.read_text()):
            for first, last in re.findall(r"(\d+)(?: to (\d+))?", in_words or in_name.replace("_", " ")):
                rows.update(range(int(first), int(last or first) + 1))
    return rows


def test_every_fault_of_an_upstream() -> None:
    """Rows of upstreams' faults, on the wire and through the whole plane."""
    wire = [TESTS / "wire" / f"test_{name}.py" for name in ("upstreams", "leaving")]
    assert set(range(1, 36)) - named(*wire, *(TESTS / "plane").glob("test_*.py")) == set()


def test_every_abuse_by_a_client() -> None:
    """Rows of what clients do."""
    assert set(range(1, 39)) - named(TESTS / "wire/test_abuse.py") == set()
