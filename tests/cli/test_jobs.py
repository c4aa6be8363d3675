"""`weir jobs`, as people use it: a proxy with two workers, its state process, a provider's batches, a restart."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.simulator import Simulator
from tests.cli.conftest import Weir
from tests.cli.test_serve import Served, served, until
from tests.patience import PATIENCE_S

FILES = """
version: 1
workers: 2
state: sqlite:///state.db
upstreams:
  sim: {{url: "{url}", provider: openai, key: "${{SIM_KEY}}"}}
models:
  "*": {{upstream: sim}}
policies: policies.yaml
"""
POLICIES = """
version: 1
policies:
  - use: defer_to_batch
    gather: {gather}
    poll: 200ms
"""
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "How high is the river?"}]}


def deferred(proxy: Served) -> str:
    status, _, body = proxy.ask("/v1/chat/completions", ASK, **{"x-weir-deadline": "24h"})
    assert status == 202
    id: str = (body if isinstance(body, dict) else json.loads(body))["id"]
    return id


def shown(weir: Weir, home: tuple[str, ...], id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(weir("jobs", "show", id, "--json", *home).stdout)
    return found


async def test_jobs_outlive_a_restart(
    simulator: Simulator, weir: Weir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, shown, cancelled; those that wait when the proxy ends are answered by the next one, once."""
    monkeypatch.setenv("SIM_KEY", "sk-sim")
    (tmp_path / "weir.yaml").write_text(FILES.format(url=simulator.url))
    policies = tmp_path / "policies.yaml"
    policies.write_text(POLICIES.format(gather="1h"))

    def run() -> None:
        with served(tmp_path, "--config", "weir.yaml") as proxy:
            home = ("--home", str(proxy.home))
            assert weir("jobs", "list", *home).stdout == "no jobs\n"
            kept, dropped = deferred(proxy), deferred(proxy)
            listed = json.loads(weir("jobs", "list", "--json", "--open", *home).stdout)["jobs"]
            assert {job["id"] for job in listed} == {kept, dropped}
            assert shown(weir, home, kept)["status"] == "waiting"
            assert weir("jobs", "show", kept, "--answer", *home).returncode == 1
            assert weir("jobs", "cancel", dropped, *home).stdout == "1 job is being cancelled\n"
            until(lambda: shown(weir, home, dropped)["status"] == "cancelled")
            proxy.process.terminate()
            proxy.process.wait(PATIENCE_S)
        policies.write_text(POLICIES.format(gather="100ms"))
        with served(tmp_path, "--config", "weir.yaml") as proxy:
            until(lambda: shown(weir, home, kept)["status"] == "completed")
            assert json.loads(weir("jobs", "show", kept, "--answer", *home).stdout)["object"] == "chat.completion"
            told = weir("jobs", "show", kept, *home).stdout
            assert "completed, by batch" in told and "saved $" in told
            assert "completed" in weir("jobs", "list", *home).stdout
            gone = weir("jobs", "show", "job_unknown", *home)
            assert (gone.returncode, "no such job" in gone.stderr) == (1, True)
        assert simulator.invoice().total.requests == 1

    await asyncio.to_thread(run)


def test_nothing_runs_here(weir: Weir, tmp_path: Path) -> None:
    """Each command says so in one line."""
    for command in (["list"], ["show", "x"], ["cancel", "x"]):
        done = weir("jobs", *command, "--home", str(tmp_path))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "no proxy runs" in done.stderr
