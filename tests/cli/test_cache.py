"""`weir cache`, as people use it: a proxy with two workers, its state process, and a simulated provider."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from proxy.simulator import Simulator
from tests.cli.conftest import Weir
from tests.cli.test_serve import Served, served, until
from tests.patience import PATIENCE_S

FILES = """
version: 1
workers: 2
state: sqlite:///state.db
upstreams:
  sim: {{url: "{url}", provider: openai}}
models:
  "*": {{upstream: sim}}
policies: policies.yaml
"""
POLICIES = """
version: 1
policies:
  - use: cache
    exact: {sampled: true, tags: [feature]}
    store_timeout: 60s
"""
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "How high is the river?"}]}


def ask(proxy: Served, **headers: str) -> tuple[str, str]:
    """What the cache says of the request, and the entry."""
    status, told, _ = proxy.ask("/v1/chat/completions", ASK, authorization="Bearer sk-test", **headers)
    assert status == 200
    return told["x-weir-cache"], told.get("x-weir-cache-entry", "")


def hit(proxy: Served, **headers: str) -> str:
    """Asks until it is a hit; the entry."""
    told = ("", "")

    def is_hit() -> bool:
        nonlocal told
        told = ask(proxy, **headers)
        return told[0] == "hit"

    until(is_hit)
    return told[1]


def look(proxy: Served, weir: Weir, simulator: Simulator) -> None:
    home = ("--home", str(proxy.home))
    found = hit(proxy)
    for _ in range(20):
        hit(proxy)
    told = json.loads(weir("cache", "stats", "--json", *home).stdout)
    assert told["stored"] == {"entries": 1, "exact": True}
    assert told["policies"]["cache"]["hit"] >= 20
    shown = weir("cache", "stats", *home).stdout
    assert "hits (" in shown and "shared by all: 1 entry" in shown

    shown = weir("cache", "get", found, *home).stdout
    assert "gpt-4o-mini, served gpt-4o-mini-2024-07-18" in shown and "a hit" in shown
    answer = json.loads(weir("cache", "get", found, "--answer", *home).stdout)
    assert answer["choices"][0]["message"]["content"]
    assert json.loads(weir("cache", "get", found, "--json", *home).stdout)["key"] == found

    calls = simulator.state.requests
    assert weir("cache", "evict", found, *home).stdout == "1 entry evicted\n"
    gone = weir("cache", "get", found, *home)
    assert (gone.returncode, "no such entry" in gone.stderr) == (1, True)
    until(lambda: ask(proxy)[0] != "hit")  # the worker that answers has heard of it
    assert simulator.state.requests > calls
    assert hit(proxy) == found

    assert weir("cache", "evict", "--model", "gpt-4o", *home).stdout == "0 entries evicted\n"
    hit(proxy, **{"x-weir-tags": "feature=help"})
    for wrong in ([], [found, "--model", "x"], ["--model", "x", "--tenant", "y"]):
        assert weir("cache", "evict", *wrong, *home).returncode == 2
    until(lambda: weir("cache", "get", found, *home).returncode == 0)  # no answer waits for its keeping


async def test_a_running_cache(simulator: Simulator, weir: Weir, tmp_path: Path) -> None:
    """Stats, an entry, and evictions that both workers hear of; what a restart finds is what was kept."""
    (tmp_path / "weir.yaml").write_text(FILES.format(url=simulator.url))
    (tmp_path / "policies.yaml").write_text(POLICIES)

    def run() -> None:
        with served(tmp_path, "--config", "weir.yaml") as proxy:
            look(proxy, weir, simulator)
            proxy.process.terminate()
            proxy.process.wait(PATIENCE_S)
        calls = simulator.state.requests
        with served(tmp_path, "--config", "weir.yaml") as proxy:
            assert ask(proxy)[0] == "hit"
            assert simulator.state.requests == calls

    await asyncio.to_thread(run)


def test_nothing_runs_here(weir: Weir, tmp_path: Path) -> None:
    """Each command says so in one line."""
    for command in (["stats"], ["get", "x"], ["evict", "x"]):
        done = weir("cache", *command, "--home", str(tmp_path))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "no proxy runs" in done.stderr
