"""Policies that step back by themselves, and come back only when they may."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.admin.client import AdminClient, AdminError
from proxy.cli.operate import standing
from proxy.config.guardrail import Guardrail
from proxy.logs import Log
from proxy.rollout.guardrail import Tally
from proxy.state.memory import MemoryStore
from proxy.supervisor.stepping import Guarded, Stepping
from tests.patience import PATIENCE_S
from tests.supervisor.conftest import until
from tests.supervisor.test_real_workers import Serve, Upstream, cards, serve, upstream  # noqa: F401  # fixtures

BANDS = Guardrail.model_validate({"error_rate": "5%", "window": "60s", "then": "observe"})
ONE = Guarded("c", "f1", BANDS)
TEXT = json.dumps(
    {"hash": "h", "policy_hash": "p", "policies": [{"name": "a", "mode": "on"}, {"name": "c", "mode": "on"}]}
)


def stepping(home: Path, guarded: Guarded = ONE) -> Stepping:
    found = Stepping(home, home.name, Log("json", "debug", stream=io.StringIO()))
    found.read()
    found.adopt((guarded,))
    return found


def failing(count: int, fingerprint: str = "f1") -> dict[tuple[str, str, str], Tally]:
    tally = Tally()
    for _ in range(count):
        tally.exchange(1.0, True)
    return {("c", fingerprint, "treated"): tally}


def modes(here: Stepping, guarded: Guarded = ONE) -> list[str]:
    return [entry["mode"] for entry in json.loads(here.applied(TEXT, (guarded,)))["policies"]]


def test_out_until_an_operator_or_another_entry(tmp_path: Path) -> None:
    """It stays out over windows and restarts; another entry of that name is on; an operator brings it back."""
    here = stepping(tmp_path)
    assert not here.look(failing(0), 0.0)
    assert here.applied(TEXT, (ONE,)) == TEXT
    assert here.look(failing(100), 1.0)
    assert modes(here) == ["on", "observe"]
    assert json.loads(here.applied(TEXT, (ONE,)))["policy_hash"] != "p"
    assert not here.look(failing(1000), 500.0)
    again = stepping(tmp_path)
    assert modes(again) == ["on", "observe"]
    other = Guarded("c", "f2", BANDS)
    again.adopt((other,))
    assert modes(again, other) == ["on", "on"]
    again.adopt((ONE,))
    assert modes(again) == ["on", "observe"]
    assert again.resume("c")
    assert modes(again) == ["on", "on"]
    assert not again.resume("c")
    assert modes(stepping(tmp_path)) == ["on", "on"]


def test_only_the_window_counts(tmp_path: Path) -> None:
    """What failed before the window doesn't count, and after an operator's act counting begins anew."""
    here = stepping(tmp_path)
    assert not here.look(failing(40), 0.0)
    assert not here.look(failing(40), 2.0)
    assert not here.look(failing(40), 62.0)
    assert not here.look(failing(89), 62.5)
    assert here.look(failing(90), 63.0)
    assert here.resume("c")
    assert not here.look(failing(200), 64.0)
    assert not here.look(failing(249), 65.0)
    assert here.look(failing(250), 66.0)


async def test_a_fleet_is_judged_as_one(tmp_path: Path) -> None:
    """What is too little on each host to be judged is enough on all together, and each counts once however often it is
    told; brought back, nobody steps back by what others had counted before; a host that is gone counts no longer."""
    now_ns = 1_000_000_000
    store = MemoryStore(lambda: now_ns)
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    one, two, three = (stepping(tmp_path / name) for name in ("one", "two", "three"))
    for host in (one, two):
        assert not host.look(failing(20), 0.0)
        for _ in range(3):
            assert not await host.share(store)
    assert not one.look(failing(20), 1.0)  # it was the first, and has heard of nobody
    assert not two.look(failing(20), 1.0)
    assert not three.look(failing(20), 0.0)
    await three.share(store)
    assert three.look(failing(20), 1.0)  # 60 of all three
    await three.share(store)
    assert await two.share(store) and modes(two) == ["on", "observe"]
    assert two.resume("c")
    assert not two.look(failing(20), 2.0)
    await two.share(store)
    assert not two.look(failing(50), 3.0)  # 30 since then; what the others told is of before
    await one.share(store)
    assert not one.look(failing(40), 4.0)
    assert not one.look(failing(65), 5.0)
    await one.share(store)
    now_ns += 60_000_000_000
    await two.share(store)
    assert not two.look(failing(50), 6.0)  # 30 of its own; one, with 25, hasn't been heard of for a minute


async def test_hosts_tell_each_other(tmp_path: Path) -> None:
    """What steps back on one host does on all; brought back on one, it is on all; a host that was away learns it."""
    store = MemoryStore()
    hosts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        hosts.append(stepping(tmp_path / name))
    one, two = hosts
    one.look(failing(0), 0.0)
    one.look(failing(100), 1.0)
    assert not await one.share(store)
    assert await two.share(store)
    assert modes(two) == ["on", "observe"]
    assert two.standing[0].host == "one"
    assert two.resume("c")
    assert not await two.share(store)
    assert await one.share(store)
    assert modes(one) == modes(two) == ["on", "on"]
    await store.aclose()


async def ask(address: str) -> int:
    def send() -> int:
        connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
        body = json.dumps({"model": "slow", "messages": [{"role": "user", "content": "hello"}]})
        try:
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    return await asyncio.to_thread(send)


async def test_a_worker_is_told(
    serve: Serve,  # noqa: F811
    upstream: tuple[Upstream, str],  # noqa: F811
    tmp_path: Path,
    home: Path,
) -> None:
    """A time limit that fails every request steps back in the worker; log, status and metric say so; it comes back."""
    policy: dict[str, Any] = {"use": "timeout", "total": "30ms", "guardrail": {"error_rate": "10%", "at_least": 20}}
    (tmp_path / "p.yaml").write_text(json.dumps({"version": 1, "policies": [policy]}))
    async with serve(policies=str(tmp_path / "p.yaml"), workers=1) as here:
        assert {*await asyncio.gather(*(ask(here.address) for _ in range(25)))} == {504}
        await until(lambda: bool(here.supervisor.status().stepped_back))
        (out,) = here.supervisor.status().stepped_back
        assert (out.policy, out.mode, out.why["metric"], out.why["share"]) == ("timeout", "off", "error_rate", 1.0)
        assert "timeout stepped back to off" in standing(here.supervisor.status())
        assert here.log("policy stepped back")[0]["policy"] == "timeout"
        assert 'weir_policy_stepped_back{mode="off",policy="timeout"} 1.0' in (await here.ops("/metrics"))[1]
        upstream[0].go.set()

        async def served() -> bool:
            upstream[0].go.clear()
            asking = asyncio.create_task(ask(here.address))
            await asyncio.sleep(0.05)  # longer than the limit that no longer holds
            upstream[0].go.set()
            return await asking == 200

        await until(served)
        admin = AdminClient(home)
        await asyncio.to_thread(admin.resume, "timeout")
        assert not here.supervisor.status().stepped_back
        upstream[0].go.clear()
        assert await ask(here.address) == 504
        with pytest.raises(AdminError):
            await asyncio.to_thread(admin.resume, "timeout")
