# a table reads best with a case a line
"""The schemas that editors use, the reference, the presets and the examples: one must not contradict the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from proxy.config import load, schema

from .conftest import ENV, OPENAI, REGISTRY, Directory

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "policies/presets").glob("*.yaml"))
USABLE = {name: load for name, load in REGISTRY.items() if name != "broken"}


def accepts(kind: Any, data: object) -> bool:
    validator = jsonschema.Draft202012Validator(schema(kind, USABLE))
    return bool(validator.is_valid(data))


@pytest.mark.parametrize("kind", ["deployment", "policies", "teams"])
def test_schemas_are_schemas(kind: Any) -> None:
    """Each schema is valid by its own dialect, and all its references lead somewhere."""
    found = schema(kind, USABLE)
    jsonschema.Draft202012Validator.check_schema(found)
    references = [node["$ref"] for node in _nodes(found) if isinstance(node.get("$ref"), str)]
    assert all(reference.removeprefix("#/$defs/") in found.get("$defs", {}) for reference in references)


@pytest.mark.parametrize("kind", ["deployment", "policies", "teams"])
def test_everything_is_documented(kind: Any) -> None:
    """Every setting of ours has a description."""
    for node in _nodes(schema(kind, {})):
        for name, value in node.get("properties", {}).items():
            assert isinstance(value, dict) is False or value.get("description") or name in ("file",), name


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ({"url": "https://h/v1"}, True),
        ({"url": "https://h/v1", "key": "${NAME}"}, True),
        ({"url": "https://h/v1", "key": {"file": "x"}}, True),
        ({"url": "https://h/v1", "key": "sk-literal"}, False),
        ({"url": "https://h/v1", "kee": "${NAME}"}, False),
        ({"url": "https://h/v1", "timeouts": {"total_s": "10m"}}, True),
        ({"url": "https://h/v1", "timeouts": {"total_s": "10min"}}, False),
        ({"url": "https://h/v1", "auth": "baerer"}, False),
        ({}, False),
    ],
)
def test_the_deployment_schema(upstream: dict[str, object], expected: bool) -> None:
    """Editors see the same mistakes as loading does."""
    assert accepts("deployment", {"version": 1, "upstreams": {"a": upstream}}) is expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [({"upstream": "a"}, True), ({"deployments": [{"upstream": "a"}]}, True), ({"model": "x"}, False), ({}, False)],
)
def test_models_in_the_schema(model: dict[str, object], expected: bool) -> None:
    """A model is written short or long."""
    data = {"version": 1, "upstreams": {"a": {"url": "https://h/v1"}}, "models": {"m": model}}
    assert accepts("deployment", data) is expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"use": "allow"}, True),
        ({"use": "allow", "models": ["a"], "match": {"team": ["x"], "size": "> 1 KiB"}, "rollout": "5%"}, True),
        ({"use": "headers", "request": {"add": {"a": "b"}}}, True),
        ({"use": "headers", "models": ["a"]}, False),
        ({"use": "alow"}, False),
        ({"use": "allow", "rollout": 5}, False),
        ({"use": "allow", "match": {"teem": "x"}}, False),
        ({"use": "allow", "match": {"team": []}}, False),
        ({"models": ["a"]}, False),
    ],
)
def test_the_policy_schema(entry: dict[str, object], expected: bool) -> None:
    """Each policy is a form of `use`, with its own options beside the envelope."""
    assert accepts("policies", {"version": 1, "policies": [entry]}) is expected


def test_installed_policies_are_documented() -> None:
    """Every option of the policies that come with the program has a description in the schema."""
    for variant in schema("policies")["properties"]["policies"]["items"]["oneOf"]:
        assert variant["description"]
        assert [name for name, value in variant["properties"].items() if not value.get("description")] == []


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets(directory: Directory, preset: Path) -> None:
    """Every preset loads with the policies that come with the program, without a warning, and editors agree."""
    directory.write(weir=f"version: 1\nupstreams:\n  {OPENAI}\npolicies: {preset}\n")
    assert load(directory.path / "weir.yaml", ENV).warnings == ()
    assert jsonschema.Draft202012Validator(schema("policies")).is_valid(yaml.safe_load(preset.read_text()))


def test_the_examples() -> None:
    """The example files load without a warning, and editors agree."""
    examples = ROOT / "docs/examples"
    found = load(examples / "weir.yaml", ENV)
    assert found.warnings == ()
    assert [entry.name for entry in found.policies] == ["no-previews", "night", "stay-anonymous"]
    assert accepts("deployment", yaml.safe_load((examples / "weir.yaml").read_text()))
    assert accepts("policies", yaml.safe_load((examples / "policies.yaml").read_text()))


def _nodes(node: Any) -> Any:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)
