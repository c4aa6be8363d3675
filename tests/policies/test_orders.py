"""timeout ▸ hedge ▸ fallback ▸ retry: `weir check` warns where layers that call again stand the other way round."""

from __future__ import annotations

from itertools import combinations, permutations
from pathlib import Path

import pytest

from proxy.config import load

OUTERMOST_FIRST = ("timeout", "hedge", "fallback", "retry")


def warnings(directory: Path, *uses: str) -> list[str]:
    """What loading a chain of these policies warns of."""
    (directory / "policies.yaml").write_text(
        f"version: 1\npolicies: [{', '.join(f'{{use: {use}}}' for use in uses)}]\n"
    )
    deployment = directory / "weir.yaml"
    deployment.write_text("version: 1\nupstreams: {up: {url: http://127.0.0.1:9/v1}}\npolicies: policies.yaml\n")
    return [str(problem) for problem in load(deployment, {"HOME": str(directory)}).warnings]


def test_the_right_order(tmp_path: Path) -> None:
    """The order that the guide gives is silent, as a whole and in all its parts."""
    for count in range(1, 5):
        for chain in combinations(OUTERMOST_FIRST, count):
            assert warnings(tmp_path, *chain) == []


@pytest.mark.parametrize(("outer", "inner"), list(combinations(OUTERMOST_FIRST, 2)))
def test_pairs_the_wrong_way(tmp_path: Path, outer: str, inner: str) -> None:
    """Any two the other way round are warned of, with the reason."""
    found = warnings(tmp_path, inner, outer)
    assert found
    assert any(f"{outer} belongs before {inner}" in text or f"{inner} belongs after {outer}" in text for text in found)
    assert all("the first is the outermost" in text for text in found)


def test_every_other_order(tmp_path: Path) -> None:
    """Of all orders of the four, one is silent."""
    silent = [chain for chain in permutations(OUTERMOST_FIRST) if not warnings(tmp_path, *chain)]
    assert silent == [OUTERMOST_FIRST]


@pytest.mark.parametrize("inner", ["hedge", "fallback", "retry"])
def test_allow_is_outside(tmp_path: Path, inner: str) -> None:
    """Access is decided before anything is called again."""
    assert warnings(tmp_path, "allow", inner) == []
