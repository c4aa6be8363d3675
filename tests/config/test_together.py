"""Policy files that include others, and overlays that change them."""

from __future__ import annotations

import pytest

from .conftest import ENV, OPENAI, Directory

WEIR = f"version: 1\nupstreams:\n  {OPENAI}\npolicies: p.yaml\n"
OVERLAID = WEIR + "overlays: ${ENVIRONMENT}.yaml\n"
LIVE = {**ENV, "ENVIRONMENT": "live"}


def test_an_include_stands_in_its_place(directory: Directory) -> None:
    """Entries of an included file come where it is named, know their own file, and inherit the time zone."""
    (directory.path / "parts").mkdir()
    (directory.path / "parts/inner.yaml").write_text("version: 1\npolicies:\n  - use: allow\n")
    (directory.path / "parts/outer.yaml").write_text(
        "version: 1\npolicies:\n  - include: inner.yaml\n  - {use: headers, name: second}\n"
    )
    directory.write(
        weir=WEIR,
        p="version: 1\ntime_zone: Europe/Berlin\npolicies:\n  - {use: headers, name: first}\n"
        "  - include: parts/outer.yaml\n  - {use: headers, name: last}\n",
    )
    found = directory.load()
    assert [entry.name for entry in found.policies] == ["first", "allow", "second", "last"]
    assert found.policies[1].source.endswith("parts/inner.yaml:3")
    assert found.policies[1].time_zone == "Europe/Berlin"
    assert {path.name for path in found.watched} >= {"p.yaml", "outer.yaml", "inner.yaml"}


def test_errors_are_shown_in_the_included_file(directory: Directory) -> None:
    """A wrong option, a missing file and what stands beside an include are told where they are."""
    directory.write(
        weir=WEIR,
        p="version: 1\npolicies:\n  - include: other.yaml\n    mode: off\n  - include: othr.yaml\n",
        other="version: 1\npolicies:\n  - use: allow\n    model: [a]\n",
    )
    problems = "\n".join(directory.problems())
    assert "other.yaml:4:5: error: policies[0].model: unknown key (did you mean" in problems
    assert "p.yaml:4:5: error: policies[0].mode: can't stand beside include" in problems
    assert "p.yaml:5:14: error: policies[1].include: can't read" in problems


def test_files_that_include_themselves(directory: Directory) -> None:
    """A circle is refused where it closes, and shown."""
    directory.write(
        weir=WEIR,
        p="version: 1\npolicies:\n  - include: a.yaml\n",
        a="version: 1\npolicies:\n  - use: allow\n  - include: b.yaml\n",
        b="version: 1\npolicies:\n  - include: a.yaml\n",
    )
    (problem,) = directory.problems()
    assert "b.yaml:3:14: error" in problem
    assert "a.yaml ▸ b.yaml ▸ a.yaml" in problem


def test_an_overlay_changes_what_it_names(directory: Directory) -> None:
    """The environment chooses the overlay; a key is replaced whole, whether of the envelope or the policy's own."""
    directory.write(
        weir=OVERLAID,
        p="version: 1\npolicies:\n  - {use: headers, name: h, match: {team: a, stream: true}, "
        "request: {remove: [x]}}\n",
        live="version: 1\npolicies:\n  h:\n    match: {team: ['${WHO:-b}']}\n    rollout: 5%\n",
        test="version: 1\npolicies: {h: {mode: off}}\n",
    )
    (live,), (test,) = directory.load(LIVE).policies, directory.load({**LIVE, "ENVIRONMENT": "test"}).policies
    assert (live.match.team, live.match.stream, live.rollout, live.mode) == (("b",), None, 0.05, "on")
    assert live.options == {"request": {"remove": ["x"]}}
    assert (test.match.team, test.mode) == (("a",), "off")
    assert directory.load(LIVE).policy_hash != directory.load({**LIVE, "ENVIRONMENT": "test"}).policy_hash
    assert directory.load(LIVE).shown()["policies"][0]["match"]["team"][0] == "${WHO:-b}"


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ("  h:\n    rollout: 5 cats\n", "live.yaml:4:14: error: policies[0].rollout"),
        ("  h:\n    request: {ad: {}}\n", "live.yaml:4:15: error: policies[0].request.ad: unknown key"),
        ("  h: {name: other}\n", "live.yaml:3:7: error: policies.h.name: an overlay can't change it"),
        ("  hh: {mode: off}\n", "live.yaml:3:3: error: policies.hh: there is no policy named 'hh' (did you mean h?)"),
        ("  h: {mode: }\n", "live.yaml:3:7: error: policies[0].mode: has no value"),
    ],
)
def test_errors_of_an_overlay(directory: Directory, overlay: str, expected: str) -> None:
    """What an overlay gets wrong is told in the overlay."""
    directory.write(
        weir=OVERLAID,
        p="version: 1\npolicies:\n  - {use: headers, name: h}\n",
        live=f"version: 1\npolicies:\n{overlay}",
    )
    problems = directory.problems(LIVE)
    assert [problem for problem in problems if expected in problem], problems
