"""The pages about policies name every option, condition and error, and no other; their examples load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from policies import (
    allow,
    cascade,
    coalesce,
    defer_to_batch,
    fallback,
    headers,
    hedge,
    microbatch,
    ratelimit,
    retry,
    timeout,
    trace,
)
from proxy.config import Conditions, load
from proxy.config.policies import Envelope, Honour
from proxy.failures import KINDS

GUIDE = Path(__file__).parents[2] / "docs/guide"
PAGES = (
    "cascade",
    "policies",
    "headers",
    "allow",
    "timeout",
    "traces",
    "hedge",
    "fallback",
    "retry",
    "ratelimit",
    "coalesce",
    "microbatch",
    "defer_to_batch",
    "route",
)


def page(name: str) -> str:
    return (GUIDE / f"{name}.md").read_text()


def first_cells(text: str) -> set[str]:
    """The names in the first column of every table."""
    rows = re.findall(r"(?m)^\|([^|]+)\|", text)
    return {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}


@pytest.mark.parametrize("name", PAGES)
def test_examples_load(name: str, tmp_path: Path) -> None:
    """Every policy file on a page is one that the program takes, without a warning."""
    examples = re.findall(r"(?s)```yaml\n(.*?)```", page(name))
    assert examples
    for number, example in enumerate(examples):
        deployment = tmp_path / f"weir-{number}.yaml"
        (tmp_path / f"policies-{number}.yaml").write_text(example)
        teams = "version: 1\nteams: {interns: {}, data: {}, support: {}, docs: {}}\n"
        (tmp_path / "teams.yaml").write_text(teams)
        deployment.write_text(
            f"version: 1\nupstreams: {{up: {{url: http://127.0.0.1:9/v1}}}}\npolicies: policies-{number}.yaml\n"
        )
        configuration = load(deployment, {"HOME": str(tmp_path)})
        assert configuration.policies


def test_the_envelope_is_described() -> None:
    """The page of all policies names what every policy has, each condition, and what `honour` says."""
    text = page("policies")
    assert set(Envelope.model_fields) <= first_cells(text)
    assert set(Conditions.model_fields) <= first_cells(text)
    assert all(f"`{name}" in text for name in Honour.model_fields)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("allow", allow.Config),
        ("cascade", cascade.Config),
        ("cascade", cascade.Judge),
        ("headers", headers.Config),
        ("timeout", timeout.Config),
        ("traces", trace.Config),
        ("hedge", hedge.Config),
        ("fallback", fallback.Config),
        ("fallback", fallback.Target),
        ("retry", retry.Config),
        ("ratelimit", ratelimit.Config),
        ("coalesce", coalesce.Config),
        ("microbatch", microbatch.Config),
        ("defer_to_batch", defer_to_batch.Config),
    ],
)
def test_options_are_described(name: str, fields: type) -> None:
    """Each policy's page names each of its options."""
    assert set(fields.model_fields) <= first_cells(page(name))  # type: ignore[attr-defined]


def test_errors_are_described() -> None:
    """Each code that `allow` refuses with is on its page."""
    source = Path(allow.__file__).read_text()
    codes = set(re.findall(r'"([a-z]+(?:_[a-z]+)+)"', source)) & set(re.findall(r"`([a-z_]+)`", page("allow")))
    assert {"model_not_allowed", "endpoint_not_allowed", "path_not_allowed", "invalid_form"} <= codes


def test_kinds_of_failures_are_described() -> None:
    """Each kind that `on` may name is in the table that says what it is."""
    table = page("retry").partition("## Kinds of failures")[2].partition("\n## ")[0]
    assert set(KINDS) == first_cells(table) - {"kind"}


@pytest.mark.parametrize("name", ["timeout", "hedge", "fallback", "retry"])
def test_noted_actions_are_described(name: str) -> None:
    """What these policies note, and why they gave up, is on their pages."""
    source = (GUIDE.parents[1] / f"policies/{name}.py").read_text()
    noted = set(re.findall(r'note\((?:self\._name, )?"([a-z_]+)"', source.replace("\n", "").replace("  ", "")))
    assert noted
    assert all(f"`{action}`" in page(name) for action in noted)


def test_reasons_to_give_up_are_described() -> None:
    """Each reason of `retry` to stop is on its page, but those that aren't noted."""
    assert all(f"`{why}`" in page("retry") for why in set(get_args(retry.Why)) - {"again", "kind"})


def test_observed_actions_are_described() -> None:
    """Each action that observing notes is in the table."""
    source = (GUIDE.parents[1] / "proxy/rollout/observe.py").read_text()
    noted = set(re.findall(r'"((?:would|observe)_[a-z_]+)"', source))
    assert noted == {name for name in first_cells(page("policies")) if name.startswith(("would_", "observe_"))}


def test_pages_are_linked() -> None:
    """Every page about policies is in the index."""
    index = (GUIDE.parent / "index.md").read_text()
    for name in (*PAGES, "writing-a-policy"):
        assert f"(guide/{name}.md)" in index
