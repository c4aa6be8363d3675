"""The workers follow the files: reloads, keys, rate cards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from proxy.clients.keys import KeyRecord, KeyStore
from proxy.supervisor import watch
from proxy.supervisor.cards import CardsError
from proxy.supervisor.keyring import merged
from proxy.supervisor.plan import LoadError, Plan
from tests.supervisor.conftest import plan, running, until


class Files:
    """A configuration in a file: its content is what fake workers get, text that isn't JSON is broken."""

    def __init__(self, home: Path, path: Path, **changed: Any) -> None:
        self.home, self.path, self.changed = home, path, changed

    def load(self) -> Plan:
        try:
            configuration = json.loads(self.path.read_text())
        except (OSError, ValueError):
            raise LoadError((f"{self.path.name}:1:1: error: not JSON",), (self.path,)) from None
        return plan(self.home, configuration=configuration, watched=(self.path,), **self.changed)


@pytest.fixture
def files(home: Path, tmp_path: Path) -> Files:
    path = tmp_path / "weir.json"
    path.write_text('{"hash": "h1"}')
    return Files(home, path)


async def test_a_changed_file_is_taken_up(files: Files) -> None:
    """Every worker serves the new configuration without anybody asking, and no worker is replaced."""
    files.changed = {"workers": 2}
    async with running(files.load(), files.load) as here:
        before = [worker.pid for worker in here.supervisor.status().workers]
        files.path.write_text('{"hash": "h2"}')
        await until(lambda: here.supervisor.status().config_hash == "h2")
        after = here.supervisor.status().workers
        assert [(worker.pid, worker.config_hash) for worker in after] == [(pid, "h2") for pid in before]
        assert 'weir_config_info{hash="h2"} 1.0' in (await here.ops("/metrics"))[1]


async def test_a_change_is_taken_up_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever comes first, of those who ask and the watching: the others see that it is done."""
    looks = 0

    def look(paths: Iterable[Path], before: watch.Looks) -> watch.Looks:
        nonlocal looks
        looks += files.path in (*paths,)
        return seen(paths, before)

    seen = watch.look
    monkeypatch.setattr(watch, "look", look)
    monkeypatch.setattr(watch, "POLL_S", 0.01)
    async with running(files.load(), files.load) as here:
        files.path.write_text('{"hash": "h2"}')
        outcomes = await asyncio.gather(*(here.supervisor.reload(f"asked {number}") for number in (1, 2)))
        assert [(one.ok, one.hash) for one in outcomes] == [(True, "h2"), (True, "h2")]
        after = looks
        await until(lambda: looks >= after + 5)  # so the watching has looked, and looked again, and would have acted
        assert len(here.log("reloaded")) == here.supervisor.upkeep.reloads == 1
        assert len(here.log("nothing to reload")) >= 1
        assert "weir_config_reloads_total 1.0" in (await here.ops("/metrics"))[1]


async def test_what_was_refused_is_tried_again_for_whoever_asks(files: Files) -> None:
    """The watching tells a mistake once, `weir reload` each time."""
    async with running(files.load(), files.load) as here:
        files.path.write_text("{")
        for _ in range(2):
            assert not (await here.supervisor.reload("asked")).ok
        refused = here.log("reload refused; the last good configuration stays in force")
        assert [one["why"] for one in refused].count("asked") == 2


async def test_a_swapped_link_is_a_change(files: Files, tmp_path: Path) -> None:
    """Kubernetes swaps `..data`, a link to a directory, under links to its files."""
    for name, content in (("v1", '{"hash": "h1"}'), ("v2", '{"hash": "h2"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weir.json").write_text(content)
    (tmp_path / "..data").symlink_to("v1")
    files.path = tmp_path / "linked.json"
    files.path.symlink_to("..data/weir.json")
    async with running(files.load(), files.load) as here:
        (tmp_path / "..tmp").symlink_to("v2")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        await until(lambda: here.supervisor.status().config_hash == "h2")
        assert (await here.ask())["hash"] == "h2"


async def test_a_broken_file_keeps_the_old_configuration(files: Files) -> None:
    """It is logged by its place, seen in status and metrics, and over once the file is right again."""
    async with running(files.load(), files.load) as here:
        files.path.write_text("{")
        await until(lambda: not here.supervisor.status().config_valid)
        assert (await here.ask())["hash"] == "h1"
        assert here.supervisor.status().problems == ("weir.json:1:1: error: not JSON",)
        assert here.log("configuration")[0]["problem"] == "weir.json:1:1: error: not JSON"
        text = (await here.ops("/metrics"))[1]
        assert "weir_config_valid 0.0" in text
        assert "weir_config_reload_failures_total 1.0" in text
        files.path.write_text('{"hash": "h3"}')
        await until(lambda: here.supervisor.status().config_hash == "h3")
        assert here.supervisor.status().config_valid


async def test_a_configuration_that_a_worker_refuses_is_taken_back(files: Files) -> None:
    """All workers stay with, or go back to, the old one, and a new worker gets the old one too."""
    async with running(files.load(), files.load) as here:
        files.path.write_text('{"hash": "h2", "reject": "policy x fails"}')
        outcome = await here.supervisor.reload("test")
        assert (outcome.ok, outcome.hash, outcome.problems) == (False, "h1", ("policy x fails",))
        answer = await here.ask()
        assert answer["hash"] == "h1"
        assert "weir_config_valid 0.0" in (await here.ops("/metrics"))[1]


async def test_a_checker_that_crashes_refuses_the_reload(home: Path) -> None:
    """An unforeseen exception while loading is a refused reload, not the end of the proxy."""

    def load() -> Plan:
        raise ZeroDivisionError("oops")

    async with running(plan(home), load) as here:
        outcome = await here.supervisor.reload("test")
        assert not outcome.ok
        assert "oops" in outcome.problems[0]
        assert (await here.ask())["hash"] == "h1"


async def test_what_needs_a_restart_is_said(home: Path) -> None:
    """A new address or number of workers stays as it was until the next start; the rest is taken up."""
    second = plan(home, configuration={"hash": "h2"}, workers=3, log_level="warning")
    async with running(plan(home), lambda: second) as here:
        outcome = await here.supervisor.reload("test")
        assert outcome.ok
        assert outcome.warnings == ("workers: takes effect at the next start",)
        assert here.supervisor.status().workers_wanted == 1
        assert here.supervisor.log.level == "warning"


async def test_made_and_revoked_keys_reach_all_workers(home: Path) -> None:
    """`keys.json` is followed without a reload: a new key opens, a revoked one closes, in every worker."""
    async with running(plan(home, workers=2)) as here:
        store = KeyStore(home)
        _, record = await asyncio.to_thread(store.create, team="search")

        async def everywhere(expected: list[str]) -> bool:
            answers = await asyncio.gather(*(here.ask() for _ in range(12)))
            return all(answer["keys"] == expected for answer in answers)

        await until(lambda: everywhere([record.id]))
        await asyncio.to_thread(store.revoke, record.id)
        await until(lambda: everywhere([]))
        assert here.supervisor.status().config_hash == "h1"
        assert here.supervisor.upkeep.reloads == 0


async def test_damaged_keys_keep_the_last_good_ones(home: Path) -> None:
    """Nobody is let in or shut out by a damaged file; a metric says so until it is right again."""
    _, record = KeyStore(home).create()
    good = KeyStore(home).path.read_bytes()
    async with running(plan(home)) as here:
        KeyStore(home).path.write_text("{")
        await until(lambda: bool(here.log("keys are damaged; the last good ones stay in force")))
        assert (await here.ask())["keys"] == [record.id]
        assert "weir_keys_valid 0.0" in (await here.ops("/metrics"))[1]
        KeyStore(home).path.write_bytes(good)
        await until(lambda: bool(here.log("keys changed")))
        assert "weir_keys_valid 1.0" in (await here.ops("/metrics"))[1]


def test_a_revoked_hash_stays_closed_where_the_teams_file_declares_it() -> None:
    """Of one hash the made key wins over the declared one, and a revocation over both."""
    declared = KeyRecord("declared", "aa", team="a", source="teams")
    made = KeyRecord("made", "aa", team="b")
    assert merged([declared], [made]) == (made,)
    assert merged([declared], [KeyRecord("made", "aa", revoked=1.0)]) == ()
    assert merged([declared, KeyRecord("other", "bb")], []) == (declared, KeyRecord("other", "bb"))


async def test_rate_cards_are_compiled_again_when_prices_change(home: Path) -> None:
    """Once at the start, then only when the overrides differ; workers get the new file."""
    compiled: list[str] = []

    async def compile(home: Path, prices: str) -> Path:
        compiled.append(prices)
        return home / f"cards-{len(compiled)}.bin"

    plans = iter([plan(home, prices="a"), plan(home, prices="b")])
    async with running(plan(home, prices="a"), lambda: next(plans), compile=compile) as here:
        assert (await here.supervisor.reload("test")).ok
        assert compiled == ["a"]
        assert (await here.supervisor.reload("test")).ok
        assert compiled == ["a", "b"]
        assert (await here.ask())["cards"] == str(home / "cards-2.bin")


async def test_without_rate_cards_it_serves_and_says_so(home: Path) -> None:
    """Prices that can't be compiled leave costs unpriced; requests are served all the same."""

    async def compile(home: Path, prices: str) -> Path:
        raise CardsError("no prices")

    async with running(plan(home), compile=compile) as here:
        assert (await here.ask())["cards"] is None
        assert here.log("rate cards")[0]["effect"] == "costs are unpriced"
        assert 'weir_rate_cards_info{file=""} 1.0' in (await here.ops("/metrics"))[1]
