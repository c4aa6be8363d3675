"""The example of a third party's policy: found by its entry point, decided purely, seen on the wire."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from proxy.config import ConfigurationError, load
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.running import entry, key

PACKAGE = Path(__file__).parents[2] / "docs/examples/weir_policy_ceiling"
GUIDE = PACKAGE.parents[1] / "guide/writing-a-policy.md"


@pytest.fixture(scope="module")
def ceiling() -> ModuleType:
    """The module that the package's entry point names."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    name = project["entry-points"]["weir.policies"]["ceiling"]
    spec = importlib.util.spec_from_file_location(name, PACKAGE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    loaded: ModuleType = EntryPoint("ceiling", name, "weir.policies").load()
    return loaded


@pytest.mark.parametrize(
    ("worst", "unpriced", "code"),
    [
        (0, "refuse", None),
        (10**7, "refuse", None),
        (10**7 + 1, "refuse", "above_ceiling"),
        (None, "refuse", "unpriced"),
        (None, "admit", None),
    ],
)
def test_decision(ceiling: Any, worst: int | None, unpriced: str, code: str | None) -> None:
    """The decision is a plain function of numbers."""
    error = ceiling.refusal(ceiling.Config(usd="0.01", unpriced=unpriced), worst)
    assert (error and error.code) == code


async def test_on_the_wire(serve: Serve, simulator: Simulator, ceiling: Any) -> None:
    """It refuses by the worst case before anything is sent, says why, and lets the rest pass."""
    policies = [entry("ceiling", 3, name="interns-ceiling", match={"team": "interns"}, usd="0.01")]
    keys = [key("wk-intern", "key-i", team="interns"), key("wk-staff", "key-s", team="staff")]
    async with serve(policies=policies, registry={"ceiling": ceiling}, keys=keys) as plane:
        intern, staff = "authorization: Bearer wk-intern", "authorization: Bearer wk-staff"
        assert (await plane.chat(intern, max_tokens=100)).status == 200
        assert (await plane.chat(staff, model="gpt-4o", max_tokens=5000)).status == 200
        refused = await plane.chat(intern, model="gpt-4o", max_tokens=5000)
        assert (refused.status, refused.error["code"]) == (403, "above_ceiling")
        assert refused.header(b"x-weir-policies") == b"interns-ceiling=refused"
        unknown = await plane.chat(intern, model="house-model")
        assert unknown.error["code"] == "unpriced"
        (decision,) = plane.journal("ended")[-2]["decisions"]
    assert decision["source"] == "policies.yaml:3"
    assert decision["numbers"]["nanodollars"] > 10**7
    assert len(simulator.requests) == 2


def test_its_file_is_checked(ceiling: Any, tmp_path: Path) -> None:
    """Its policy file loads; a mistake in it is found at its place, like any other."""
    deployment = tmp_path / "weir.yaml"
    deployment.write_text("version: 1\nupstreams: {up: {url: http://127.0.0.1:9/v1}}\npolicies: policies.yaml\n")
    told = (PACKAGE / "policies.yaml").read_text()
    (tmp_path / "policies.yaml").write_text(told)
    registry = {"ceiling": lambda: ceiling}
    (found,) = load(deployment, {}, registry=registry).policies
    assert (found.name, found.use) == ("interns-ceiling", "ceiling")
    assert ceiling.Config.model_validate(found.options).usd * 100 == 1
    (tmp_path / "policies.yaml").write_text(told.replace("usd:", "uds:"))
    with pytest.raises(ConfigurationError) as error:
        load(deployment, {}, registry=registry)
    places = {(problem.line, problem.path) for problem in error.value.problems}
    assert places == {(3, "policies[0].usd"), (6, "policies[0].uds")}


def test_the_guide_shows_it() -> None:
    """The guide's listings are the package's files, byte for byte."""
    guide = GUIDE.read_text()
    for file in ("weir_policy_ceiling.py", "pyproject.toml", "policies.yaml"):
        assert f"\n{(PACKAGE / file).read_text()}```" in guide, file


def test_it_keeps_its_promises(ceiling: Any) -> None:
    """Everything that the guide's table of module names lists is there, but for what is optional."""
    assert {"Config", "build", "ORDER", "foretell"} <= set(vars(ceiling))
    assert "0.01 USD" in ceiling.foretell(ceiling.Config(usd="0.01"), None)
