"""The page about the wire says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from proxy.config.limits import Limits, Timeouts

PAGE = (Path(__file__).parents[2] / "docs/reference/wire.md").read_text()
UNITS = {"s": 1, "KiB": 1 << 10, "MiB": 1 << 20}


def table(heading: str) -> dict[str, str]:
    """First and second column of the table under a heading."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section, re.M))


def value(text: str) -> float | None:
    if text == "none":
        return None
    number, _, unit = text.partition(" ")
    return float(number) * (UNITS[unit] if unit else 1)


@pytest.mark.parametrize(("heading", "model"), [("Limits", Limits), ("Time", Timeouts)])
def test_every_setting_is_there_with_its_default(heading: str, model: Any) -> None:
    """None is missing, none is made up, and the numbers are right."""
    numbers = {name: value for name, value in model().model_dump().items() if not isinstance(value, tuple)}
    assert {name: value(text) for name, text in table(heading).items()} == numbers


def test_every_code_of_an_error_exists() -> None:
    """Each code in the table stands in the source."""
    root = Path(__file__).parents[2]
    source = "".join(path.read_text() for path in (root / "proxy").rglob("*.py"))
    section = PAGE.split("## Errors\n", 1)[1].split("\n## ", 1)[0]
    codes = {
        code for row in re.findall(r"^\| \d[^|]*\| ([^|]+) \|", section, re.M) for code in re.findall(r"`(\w+)`", row)
    }
    assert len(codes) > 15
    assert [code for code in sorted(codes) if f'code="{code}"' not in source] == []
