"""`weir prices`: what a model costs here, and what the deployment file changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.pricing import RateCards
from tests.cli.conftest import Weir

DEPLOYMENT = """\
version: 1
upstreams:
  openai: {url: https://api.openai.com/v1}
  europe: {url: https://eu.api.openai.com/v1}
  local: {url: http://127.0.0.1:9/v1}
models:
  gpt-5.4: {deployments: [{upstream: openai}, {upstream: europe}]}
  llama: {upstream: local, model: llama-3.1-8b}
  unknown: {upstream: local}
prices:
  openai/gpt-5.4: {input: 2.00}
  europe/gpt-5.4: {multiplier: 0.9}
  llama-3.1-8b: {gpu_hour: 2.40, tokens_per_gpu_hour: 8000000}
"""


@pytest.fixture
def deployed(tmp_path: Path) -> None:
    """A deployment file with prices of its own."""
    (tmp_path / "weir.yaml").write_text(DEPLOYMENT)


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of the lines."""
    return [json.loads(line) for line in text.splitlines()]


def test_show_without_a_file(weir: Weir) -> None:
    """The published price: rates, thresholds, tiers, fees, and the hash of the cards."""
    done = weir("prices", "show", "gpt-5.4")
    assert done.returncode == 0
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["standard", "input", "2.5", "million", "272,000:", "5", "published"] in words
    assert ["flex", "cached_input", "0.13", "million", "272,000:", "0.25", "published"] in words
    assert ["standard", "code_interpreter", "0.03", "one", "-", "price", "page"] in words
    assert f"cards {RateCards.compile().hash}" in done.stdout.replace("\n", "")


def test_show_for_each_deployment(weir: Weir, deployed: None) -> None:
    """A model at two upstreams is told for both: one has a contract, one is in a region and has a discount."""
    openai, europe = objects(weir("prices", "show", "gpt-5.4", "--json").stdout)
    assert (openai["upstream"], openai["override"]) == ("openai", "openai/gpt-5.4")
    assert (europe["upstream"], europe["override"]) == ("europe", "europe/gpt-5.4")
    assert [line["usd"] for line in openai["lines"][:2]] == ["2", "15"]
    assert [line["usd"] for line in europe["lines"][:2]] == ["2.475", "14.85"]
    assert europe["lines"][0]["origin"] == "published × 0.9 × 1.1 for its region"


def test_show_at_another_time(weir: Weir) -> None:
    """A date means that day's prices, a time that hour's."""
    night, noon = (
        objects(weir("prices", "show", "deepseek-v4-pro", "--provider", "deepseek", "--at", at, "--json").stdout)[0]
        for at in ("2026-11-18T02:00", "2026-11-18")
    )
    assert (night["lines"][0]["usd"], noon["lines"][0]["usd"]) == ("1.32", "0.66")
    assert night["hours"] == "01:00-04:00 UTC Monday to Friday"


def test_show_one_tier(weir: Weir) -> None:
    """One tier, all of it."""
    (found,) = objects(weir("prices", "show", "gpt-5", "--tier", "priority", "--json").stdout)
    assert {line["tier"] for line in found["lines"]} == {"priority"}
    assert {"input", "output", "search"} <= {line["unit"] for line in found["lines"]}
    done = weir("prices", "show", "o1", "--tier", "priority")
    assert "priority: unpriced" in done.stdout


def test_unknown_model(weir: Weir, deployed: None) -> None:
    """A model without a price is said to be unpriced, with the names that may have been meant; it fails."""
    done = weir("prices", "show", "gpt-4o-mni", "--provider", "openai")
    assert (done.returncode, done.stdout) == (1, "gpt-4o-mni at openai: unpriced\n")
    assert "gpt-4o-mini" in done.stderr
    (found,) = objects(weir("prices", "show", "unknown", "--json").stdout)
    assert (found["unpriced"], found["model"]) == (True, "unknown")
    assert weir("prices", "diff", "unknown").returncode == 1


def test_diff_from_the_published(weir: Weir, deployed: None) -> None:
    """What the deployment file changes, and nothing else."""
    (openai, _) = objects(weir("prices", "diff", "gpt-5.4", "--json").stdout)
    standard = [change for change in openai["changes"] if not change["tier"]]
    assert standard == [
        {
            "tier": "",
            "unit": "input",
            "before": "2.5 (above 272,000: 5)",
            "after": "2 (above 272,000: 4)",
            "per": 1_000_000,
            "ratio": 0.8,
        }
    ]
    done = weir("prices", "diff", "llama")
    assert "unpriced before" in done.stdout
    assert ["standard", "input", "-", "0.3", "million", "-"] in [line.split() for line in done.stdout.splitlines()]


def test_diff_since(weir: Weir) -> None:
    """Two days' prices: o3 came down to a fifth in June 2025."""
    done = weir("prices", "diff", "o3", "--since", "2025-06-01", "--at", "2025-07-01")
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["standard", "input", "10", "2", "million", "0.2"] in words
    assert weir("prices", "diff", "gpt-4.1").stdout == "gpt-4.1 at its maker: no difference\n"


def test_diff_from_other_cards(weir: Weir, tmp_path: Path) -> None:
    """Cards that were compiled before, as the home keeps them; another file is refused in one line."""
    from proxy.config.upstreams import Price

    (tmp_path / "cards.bin").write_bytes(RateCards.compile({"gpt-5": (Price(input="5"),)}).to_bytes())
    (found,) = objects(weir("prices", "diff", "gpt-5", "--cards", "cards.bin", "--json").stdout)
    assert (found["changes"][0]["before"], found["changes"][0]["after"]) == ("5", "1.25")
    (tmp_path / "other").write_text("no cards")
    done = weir("prices", "diff", "gpt-5", "--cards", "other")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not compiled rate cards" in done.stderr


def test_a_date_that_is_none(weir: Weir) -> None:
    """A date that can't be read is an error of the command line."""
    done = weir("prices", "show", "gpt-5", "--at", "soon")
    assert done.returncode == 2
    assert "--at soon" in done.stderr
