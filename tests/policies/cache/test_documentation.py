"""The page of the cache's exact tier names every option, header, reason, action and error; its examples load."""

from __future__ import annotations

import re
from pathlib import Path

from policies.cache.options import Config, Exact
from proxy.config import load

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/guide/cache.md").read_text()
SOURCES = {path.stem: path.read_text() for path in (ROOT / "policies/cache").glob("*.py")}


def section(title: str) -> str:
    """The text under a heading."""
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def first_cells(text: str) -> set[str]:
    return {name for row in re.findall(r"(?m)^\|([^|]+)\|", text) for name in re.findall(r"`([a-z_-]+)`", row)}


def test_examples_load(tmp_path: Path) -> None:
    """The policy file on the page, and the deployment file of `Try it`, are files that the program takes."""
    (policies,) = re.findall(r"(?s)```yaml\n(.*?)```", PAGE)
    deployment = section("Try it").partition("\n\n")[2].partition("\n\n")[2].partition("\n\n")[0]
    lines = re.findall(r"(?m)^    (.*)$", section("Try it").partition("weir simulate")[0])
    (tmp_path / "policies.yaml").write_text(policies)
    (tmp_path / "weir.yaml").write_text("\n".join(lines))
    assert deployment
    configuration = load(tmp_path / "weir.yaml", {"HOME": str(tmp_path)})
    assert [one.use for one in configuration.policies] == ["cache"]


def test_options_are_described() -> None:
    """Those of the policy, and those of its exact tier."""
    assert (set(Config.model_fields) - {"semantic"}) | set(Exact.model_fields) <= first_cells(
        PAGE.partition("## Try it")[0]
    )


def test_reasons_to_pass_are_described() -> None:
    """Each that `uncacheable` gives, and no other."""
    given = set(re.findall(r'return "([a-z]+)"', SOURCES["key"]))
    assert given == first_cells(section("What is the same request"))


def test_headers_and_errors_are_described() -> None:
    """Each header that a hit has of the cache, and the code of its error."""
    named = set(re.findall(r'b"((?:x-weir|x-request|request|cache|age)[a-z-]*)"', SOURCES["exact"])) - {"cache-control"}
    table = section("What clients see")
    assert named <= set(re.findall(r"`([a-z-]+)`", table))
    assert set(re.findall(r'code="([a-z_]+)"', SOURCES["exact"])) <= first_cells(table)


def test_actions_are_described() -> None:
    """Each that is noted or counted."""
    noted = re.findall(r"note\((.*?)\bsource", SOURCES["__init__"]) + re.findall(r"decision\((.*)\)", SOURCES["tiers"])
    actions = {action for text in noted for action in re.findall(r'"([a-z_]+)"', text)} - {"fresh", "semantic"}
    assert {"hit", "stale", "miss", "passed", "would_hit", "would_miss", "dropped"} == actions
    assert actions <= first_cells(section("What it says"))


def test_directives_are_described() -> None:
    """Each directive of a request that is read."""
    read = set(re.findall(r'"((?:no|only|max|min)-[a-z-]+)"', SOURCES["freshness"]))
    assert read | {"cache-control"} == {
        name.partition("=")[0] for name in re.findall(r"(?m)^\| `([a-z=0-9-]+)` \|", section("What a request may say"))
    }
