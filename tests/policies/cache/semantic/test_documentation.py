"""The page names every option, header, reason, action and status; its examples load; nobody pays who doesn't ask."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

from policies.cache.options import Semantic
from policies.cache.semantic.learner import Status
from proxy.config import load

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs/guide/cache-semantic.md").read_text()
SOURCES = {path.stem: path.read_text() for path in (ROOT / "policies/cache/semantic").glob("*.py")}


def first_cells() -> set[str]:
    return {name for row in re.findall(r"(?m)^\|([^|]+)\|", PAGE) for name in re.findall(r"`([a-z_ -]+)`", row)}


def test_examples_load(tmp_path: Path) -> None:
    """Every policy file on the page is one that the program takes."""
    examples = re.findall(r"(?s)```yaml\n(.*?)```", PAGE)
    assert examples
    for example in examples:
        (tmp_path / "policies.yaml").write_text(example)
        deployment = tmp_path / "weir.yaml"
        deployment.write_text("version: 1\nupstreams: {up: {url: http://127.0.0.1:9/v1}}\npolicies: policies.yaml\n")
        assert load(deployment, {"HOME": str(tmp_path)}).policies


def test_options_are_described() -> None:
    """Each."""
    assert set(Semantic.model_fields) <= first_cells()


def test_reasons_statuses_and_actions_are_described() -> None:
    """Each reason not to compare, each status, each action."""
    reasons = set(re.findall(r'return "([a-z ]+)"', SOURCES["turn"] + SOURCES["tier"]))
    assert {"form", "tools", "long", "no vector"} <= reasons
    assert reasons | set(get_args(Status)) | {"semantic", "audited", "no neighbours"} <= first_cells()


def test_headers_are_described() -> None:
    """Each that a hit by meaning has."""
    named = set(re.findall(r'b"(x-weir[a-z-]*)"', SOURCES["tier"]))
    assert "x-weir-cache-similarity" in named
    assert named <= first_cells()


def test_a_worker_without_it_loads_nothing() -> None:
    """The policy alone imports no numpy, no tokenizer and no index."""
    script = "import sys, policies.cache; print({'numpy', 'tokenizers', 'usearch', 'wordllama'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout.strip() == "set()"


def test_the_package_of_the_table_is_not_imported() -> None:
    """Its files are read; its code never runs."""
    script = (
        "import sys; from policies.cache.semantic.static import Static; Static().tokens('a'); "
        "print('wordllama' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout.strip() == "False"
