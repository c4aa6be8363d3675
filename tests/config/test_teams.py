# ruff: noqa: E501  # a table reads best with a case a line
"""Organisations, teams, projects and keys."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.config import TeamsFile

from .conftest import OPENAI, Directory

HEAD = f"version: 1\nupstreams:\n  {OPENAI}\nteams: t.yaml\n"
A, B = "a" * 64, "b" * 64
TEAMS = TeamsFile.model_validate(
    {
        "version": 1,
        "orgs": {"acme": {"cost_centre": 4711, "gl_account": "6000", "tags": {"org": "acme", "tier": "basic"}}},
        "teams": {"search": {"org": "acme", "cost_centre": "0815", "tags": {"tier": "gold"}}, "free": {}},
        "projects": {"ranking": {"team": "search", "gl_account": "6001"}},
    }
)


@pytest.mark.parametrize(
    ("team", "project", "expected"),
    [
        ("search", None, ("acme", "0815", "6000", {"org": "acme", "tier": "gold"})),
        ("search", "ranking", ("acme", "0815", "6001", {"org": "acme", "tier": "gold"})),
        (None, "ranking", ("acme", "0815", "6001", {"org": "acme", "tier": "gold"})),
        ("free", None, (None, None, None, {})),
        (None, None, (None, None, None, {})),
        ("unknown", "unknown", (None, None, None, {})),
    ],
)
def test_accounts(team: str | None, project: str | None, expected: tuple[object, ...]) -> None:
    """What a project doesn't say its team says, and what that doesn't say its organisation says."""
    assert TEAMS.account(team, project) == expected


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2027-12-31", datetime(2028, 1, 1, tzinfo=UTC)),
        ("2027-12-31T18:00:00Z", datetime(2027, 12, 31, 18, tzinfo=UTC)),
        ("2027-12-31T18:00", datetime(2027, 12, 31, 18, tzinfo=UTC)),
    ],
)
def test_expiry(directory: Directory, written: str, moment: datetime) -> None:
    """A day stays valid until it ends."""
    directory.write(weir=HEAD, t=f"version: 1\nkeys: [{{id: k, sha256: {A}, expires: {written}}}]\n")
    assert directory.load().teams.keys[0].expires == moment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"keys: [{{id: k, sha256: {A}, team: serch}}]", ["2:96: error: keys[0].team: there is no team 'serch' (did you mean search?)"]),
        (f"keys: [{{id: k, sha256: {A}, project: x}}]", ["2:99: error: keys[0].project: there is no project 'x' (known: ranking)"]),
        (f"keys: [{{id: k, sha256: {A}, project: ranking, team: free}}]",
         ["2:99: error: keys[0].project: the project ranking belongs to search, not to free (leave out the team)"]),
        (f"keys: [{{id: k, sha256: {A}}}, {{id: k, sha256: {B}}}]",
         ["2:13: error: keys[0].id: is there more than once (give each key its own)",
          "2:96: error: keys[1].id: is there more than once (give each key its own)"]),
        (f"keys: [{{id: k, sha256: {A}, expires: soon}}]",
         ["2:99: error: keys[0].expires: expected a day such as 2027-12-31 or a time such as 2027-12-31T18:00:00Z"]),
        ("keys: [{id: k, key: canary}]", ["2:8: error: keys[0].sha256: is missing (The SHA-256 of the key, hexadecimal)",
                                          "2:16: error: keys[0].key: unknown key (known: expires, id, models, previous, previous_expires, project, role, sha256, tags, team)"]),
        ("keys: {k: x}", ["2:7: error: keys: expected a list, found a mapping (each entry on a line that begins with -)"]),
    ],
)  # fmt: skip
def test_mistakes(directory: Directory, text: str, expected: list[str]) -> None:
    """Names that don't exist, and what a key can't be."""
    rest = "teams: {search: {}, free: {}}\nprojects: {ranking: {team: search}}\n"
    directory.write(weir=HEAD, t=f"version: 1\n{text}\n{rest}")
    assert [problem.replace("t.yaml:", "") for problem in directory.problems()] == expected


def test_unknown_parents(directory: Directory) -> None:
    """A team of an organisation, and a project of a team, that isn't there."""
    directory.write(weir=HEAD, t="version: 1\norgs: {acme: {}}\nteams: {a: {org: acne}}\nprojects: {p: {team: b}}\n")
    assert directory.problems() == [
        "t.yaml:3:18: error: teams.a.org: there is no org 'acne' (did you mean acme?)",
        "t.yaml:4:22: error: projects.p.team: there is no team 'b' (known: a)",
    ]
