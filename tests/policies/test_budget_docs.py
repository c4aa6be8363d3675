"""The page about budgets names every option, step and error, and no other; its examples load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.budget import Config, ladder, refusals, table
from policies.budget.config import DIMENSIONS
from proxy.config import load

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guide/budgets.md").read_text()
CELLS = set(re.findall(r"(?m)^\| `([a-z_]+)`", PAGE))


def test_options_steps_and_errors() -> None:
    """First cells of its tables are exactly these."""
    source = Path(refusals.__file__).read_text()
    codes = set(re.findall(r'code="([a-z_]+)"', source)) | {refusals.QUOTA}
    assert set(Config.model_fields) | set(ladder._ACTIONS) | codes == CELLS


def test_words() -> None:
    """What a budget can be per, and the columns of the file, are there."""
    assert all(f"`{dimension}`" in PAGE for dimension in DIMENSIONS)
    assert ",".join(table.COLUMNS) in PAGE


def test_the_file_on_the_page() -> None:
    """The CSV of the page is read without a mistake."""
    text = "\n".join(line.strip() for line in PAGE.splitlines() if re.match(r"    (subject|search|ads),", line))
    mistakes: list[object] = []
    assert len(table.read(text, lambda *mistake: mistakes.append(mistake))) == 4
    assert mistakes == []


@pytest.mark.parametrize("number", [0, 1])
def test_examples_load(number: int, tmp_path: Path) -> None:
    """Every policy file on the page is one that the program takes, without a warning."""
    example = re.findall(r"(?s)```yaml\n(.*?)```", PAGE)[number]
    (tmp_path / "policies.yaml").write_text(example)
    deployment = tmp_path / "weir.yaml"
    deployment.write_text("version: 1\nupstreams: {up: {url: http://127.0.0.1:9/v1}}\npolicies: policies.yaml\n")
    configuration = load(deployment, {})
    assert configuration.policies
    assert not configuration.warnings


def test_it_is_linked() -> None:
    """From the index and from the page of all policies."""
    assert "(guide/budgets.md)" in (ROOT / "docs/index.md").read_text()
    assert "(budgets.md)" in (ROOT / "docs/guide/policies.md").read_text()
