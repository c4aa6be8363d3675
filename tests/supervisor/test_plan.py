"""What the supervisor takes from a configuration, and what it says at the start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.clients.keys import digest
from proxy.cold import Settings
from proxy.config import load
from proxy.config.configuration import Configuration
from proxy.supervisor.banner import banner
from proxy.supervisor.plan import LoadError, loader, plan_of

Make = Callable[..., Configuration]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A configuration from files in a temporary directory."""

    def making(**settings: Any) -> Configuration:
        file = {"version": 1, "upstreams": {"openai": {"url": "https://api.openai.com/v1"}}, **settings}
        (tmp_path / "weir.yaml").write_text(json.dumps(file))
        return load(tmp_path / "weir.yaml", {"HOME": str(tmp_path), "THE_KEY": "sk-canary"})

    return making


def test_addresses_and_numbers(make: Make, tmp_path: Path) -> None:
    """`off` is None, a relative home belongs to the file's directory or here, either way it is absolute."""
    plan = plan_of(make(ops="off", workers=3, timeouts={"drain_s": "5s"}, home=str(tmp_path / "h")))
    assert (plan.listen, plan.ops, plan.admin) == (("127.0.0.1:8787",), None, "127.0.0.1:8788")
    assert (plan.workers, plan.drain_s, plan.home) == (3, 5.0, tmp_path / "h")
    assert tmp_path / "weir.yaml" in plan.watched


def test_when_months_are_closed(make: Make, tmp_path: Path) -> None:
    """By hand, unless the file says after how long; zone and budgets go with it, to the process that does it."""
    policies = {
        "version": 1,
        "time_zone": "Europe/Berlin",
        "policies": [{"use": "budget", "per": "team", "limit": "100 USD/month", "limits_from": "limits.csv"}],
    }
    (tmp_path / "policies.yaml").write_text(json.dumps(policies))
    (tmp_path / "limits.csv").write_text("subject,limit,top_up,expires\na,200 USD/month,,\na,,50 USD,2099-01-31\n")
    assert plan_of(make(policies="policies.yaml")).keep.closing is None
    keep = plan_of(make(policies="policies.yaml", closing={"after_s": "5d"})).keep
    assert keep.closing is not None
    assert (keep.closing.after_s, keep.closing.zone) == (432_000, "Europe/Berlin")
    assert [(budget.name, len(budget.special), len(budget.extras)) for budget in keep.closing.budgets] == [
        ("budget", 1, 1)
    ]
    told = json.loads(json.dumps(msgspec.to_builtins(Settings(keep=keep))))
    assert msgspec.convert(told, Settings).keep == keep


def test_the_plan_does_not_show_keys(make: Make) -> None:
    """The workers' text holds the upstream's key; the plan's repr doesn't."""
    plan = plan_of(make(upstreams={"up": {"url": "https://x.example/v1", "key": "${THE_KEY}"}}))
    assert "sk-canary" in plan.text
    assert "sk-canary" not in repr(plan)


def test_declared_keys_inherit(make: Make, tmp_path: Path) -> None:
    """A key of the teams file gets its team's organisation, cost centre and tags, and keeps its own."""
    teams = {
        "version": 1,
        "orgs": {"acme": {"cost_centre": "4711", "tags": {"env": "prod"}}},
        "teams": {"search": {"org": "acme"}},
        "keys": [
            {"id": "bot", "sha256": digest("wk-x"), "team": "search", "tags": {"app": "bot"}, "expires": "2030-12-31"}
        ],
    }
    (tmp_path / "teams.yaml").write_text(json.dumps(teams))
    plan = plan_of(make(teams="teams.yaml"))
    assert plan.keys_required
    (key,) = plan.declared_keys
    assert (key.id, key.org, key.team, key.cost_centre) == ("bot", "acme", "search", "4711")
    assert key.tags == {"env": "prod", "app": "bot"}
    assert key.expires == 1924992000.0


def test_a_reload_collects_the_problems(tmp_path: Path) -> None:
    """Every problem with its place, and the files that were read, so that mending one is noticed."""
    path = tmp_path / "weir.yaml"
    path.write_text("version: 1\nupstreems: {}\nworkers: many\n")
    with pytest.raises(LoadError) as caught:
        loader(lambda: load(path, {}))()
    assert len(caught.value.problems) >= 2
    assert path in caught.value.watched


def test_what_differs_and_needs_a_restart(make: Make) -> None:
    """Addresses and the number of workers; not the models."""
    before = plan_of(make(workers=1))
    after = plan_of(make(workers=2, listen="127.0.0.1:1", models={"*": {"upstream": "openai"}}))
    assert before.needs_restart(after) == ["listen", "workers"]


def test_the_first_line_says_where_requests_go(make: Make) -> None:
    """Loudly, with what to try: the address as bound, a model on offer, the key that will do."""
    text = banner(make(models={"gpt-5": {"upstream": "openai"}}), address="127.0.0.1:9999")
    assert text.splitlines()[0] == "weir forwards to https://api.openai.com/v1 (openai)"
    assert "curl http://127.0.0.1:9999/v1/chat/completions" in text
    assert '"model": "gpt-5"' in text
    assert "$OPENAI_API_KEY" in text


def test_the_banner_of_a_public_proxy(make: Make) -> None:
    """A key of ours is asked for, and an address that works from this machine is shown."""
    text = banner(make(listen="0.0.0.0:80", keys="required"), address="0.0.0.0:80", target="the built-in SIMULATOR")
    assert text.splitlines()[0] == "weir forwards to the built-in SIMULATOR"
    assert "http://127.0.0.1:80/v1" in text
    assert "$WEIR_KEY" in text


def test_the_snippet_is_python(make: Make) -> None:
    """What is shown to be copied compiles, with and without a key in the environment."""
    for settings in ({}, {"upstreams": {"up": {"url": "http://127.0.0.1:1/v1"}}}):
        text = banner(make(**settings))
        start = next(n for n, line in enumerate(text.splitlines()) if "from openai import" in line)
        compile("\n".join(line.strip() for line in text.splitlines()[start:]), "snippet", "exec")
