"""`weir budget status`, of a proxy that runs and of none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.simulator import Simulator
from tests.cli.conftest import Weir
from tests.cli.test_serve import served

FILES = """
version: 1
state: sqlite:///state.db
upstreams:
  sim: {{url: "{url}", provider: openai, key: "${{SIM_KEY}}"}}
models:
  "*": {{upstream: sim}}
policies: policies.yaml
"""
POLICIES = "version: 1\npolicies:\n  - {use: budget, name: all, limit: [100 tokens/rolling 1h, 9 requests/month]}\n"
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "How high?"}], "max_tokens": 5000}


async def test_how_budgets_stand(weir: Weir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All limits of all that is known, from what the workers share; in a table or as JSON."""
    monkeypatch.setenv("SIM_KEY", "sk-sim")
    (tmp_path / "policies.yaml").write_text(POLICIES)

    def run() -> None:
        with served(tmp_path, "--config", "weir.yaml") as proxy:
            home = ("--home", str(proxy.home))
            assert proxy.ask("/v1/chat/completions", ASK)[0] == 429  # 5,000 tokens don't fit
            found = json.loads(weir("budget", "status", "--json", *home).stdout)["budgets"]
            assert {(one["limit"], one["used"], one["amount"]) for one in found} == {
                ("100 tokens/rolling 1h", 0, 100),
                ("9 requests/month", 0, 9),
            }
            told = weir("budget", "status", "all", *home).stdout
            assert "9 requests/month" in told and "everything" in told
            assert weir("budget", "status", "other", *home).stdout == "no budget other that anybody has used\n"

    async with Simulator(seed=1) as simulator:
        (tmp_path / "weir.yaml").write_text(FILES.format(url=simulator.url))
        await asyncio.to_thread(run)


def test_nothing_runs_here(weir: Weir, tmp_path: Path) -> None:
    """It says so in one line."""
    done = weir("budget", "status", "--home", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
