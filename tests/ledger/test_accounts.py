"""What the files say of who pays, as it travels to the process that keeps the books."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import msgspec

from proxy.config import load
from proxy.ledger.accounts import Said, said_by
from proxy.ledger.labels import Billing

TEAMS = {
    "version": 1,
    "orgs": {"acme": {"cost_centre": "1", "gl_account": "6000"}},
    "teams": {"search": {"org": "acme", "cost_centre": "2"}, "ads": {"org": "acme"}, "free": {}},
    "projects": {"ranking": {"team": "search", "gl_account": "6001"}, "loose": {"team": "free", "cost_centre": "3"}},
}
UPSTREAMS = {
    "openai": {"url": "https://api.openai.com/v1", "account": "org-1", "project": "proj_a"},
    "own": {"url": "http://127.0.0.1:1/v1"},
}


def test_told_it_says_what_the_files_say(tmp_path: Path) -> None:
    """Every team with every project, known or not, belongs to whom the teams file says, also beyond a channel."""
    (tmp_path / "teams.yaml").write_text(json.dumps(TEAMS))
    weir = {"version": 1, "upstreams": UPSTREAMS, "teams": "teams.yaml", "models": {"*": {"upstream": "own"}}}
    (tmp_path / "weir.yaml").write_text(json.dumps(weir))
    configuration = load(tmp_path / "weir.yaml", {"HOME": str(tmp_path)})
    teams = configuration.teams
    assert teams is not None
    said = msgspec.json.decode(msgspec.json.encode(said_by(configuration)), type=Said)
    for team, project in product((None, "search", "ads", "free", "x"), (None, "ranking", "loose", "x")):
        account = teams.account(team, project)
        assert said.owner("key", team, project) == (account.cost_centre, account.gl_account)
    assert said.owner(None, None, "ranking") == ("2", "6001")
    assert said.upstream("openai") == Billing("openai", "org-1", "proj_a")
    assert said.upstream("x") == said.upstream(None) == Billing()
