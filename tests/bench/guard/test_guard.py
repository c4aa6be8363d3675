"""The guard: counts that repeat, limits that judge, a slow-down that is seen."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.guard import __main__ as command
from bench.guard import counts, dataplane, driver, limits, slowdown
from bench.guard.memory import MemoryLoop

LIMITS = limits.Limits(0.1, {"nginx": 3.0}, {"cpython-3.0": {"unary request": {"calls": 100, "retained_blocks": 0}}})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("guard")
    dataplane.prepare(directory)
    return directory


def test_counts_over_the_margin_are_exceeded() -> None:
    """110 of 100 calls is within a tenth, 111 is not."""
    for seen, exceeded in ((110, False), (111, True)):
        (found,) = LIMITS.judge({"unary request": {"calls": seen}}, "cpython-3.0")
        assert found.exceeded is exceeded


def test_a_leak_of_one_block_is_exceeded() -> None:
    """Retained blocks have an absolute slack: a tenth of nothing is nothing."""
    findings = LIMITS.judge({"unary request": {"retained_blocks": 1.0}}, "cpython-3.0")
    assert [one.exceeded for one in findings] == [True]


def test_what_is_not_recorded_is_not_judged() -> None:
    """Another Python, or a new scenario, has no limit yet."""
    for python, scenario in (("cpython-9.9", "unary request"), ("cpython-3.0", "another")):
        (found,) = LIMITS.judge({scenario: {"calls": 1e9}}, python)
        assert found.limit is None
        assert not found.exceeded


def test_update_keeps_counts_that_were_not_made(tmp_path: Path) -> None:
    """A machine without valgrind doesn't erase the limit of instructions; what is saved is what is loaded."""
    known = LIMITS.updated({"unary request": {"instructions": 5}}, "cpython-3.0")
    known = known.updated({"unary request": {"calls": 7}}, "cpython-3.0")
    assert known.recorded["cpython-3.0"]["unary request"] == {"calls": 7, "retained_blocks": 0, "instructions": 5}
    limits.save(known, tmp_path / "limits.json")
    assert limits.load(tmp_path / "limits.json") == known


def test_the_loop_has_no_real_time() -> None:
    """An hour of sleep passes at once, and timers fire in their order."""
    loop, fired = MemoryLoop(lambda request: []), []
    loop.call_later(20, fired.append, "second")
    loop.call_later(10, fired.append, "first")
    before = loop.time()
    loop.run_until_complete(asyncio.sleep(3600))
    loop.close()
    assert fired == ["first", "second"]
    assert loop.time() - before == pytest.approx(3600)


def test_waiting_for_nothing_is_an_error() -> None:
    """Where a socket's loop would hang, the loop in memory says so."""
    loop = MemoryLoop(lambda request: [])
    with pytest.raises(RuntimeError, match="can't happen"):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_a_lost_answer_is_an_error() -> None:
    """A timer that re-arms itself can't keep a lost exchange waiting for ever."""
    loop = MemoryLoop(lambda request: [])

    def tick() -> None:
        loop.call_later(1, tick)

    tick()
    with pytest.raises(RuntimeError, match="lost"):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_counts_of_the_data_plane_repeat(prepared: Path) -> None:
    """The same requests make the same calls, but for what a new second of the wall clock adds."""
    first, second = counts.python_counts(prepared), counts.python_counts(prepared)
    assert set(first) == {scenario.name for scenario in driver.scenarios()}
    for scenario, made in first.items():
        assert second[scenario]["calls"] == pytest.approx(made["calls"], rel=0.01)
        assert made["calls"] > 10


def test_a_slow_down_of_a_fifth_is_caught(prepared: Path) -> None:
    """With a fifth more work in the path, the counts of both scenarios exceed limits made without it."""
    seen = counts.python_counts(prepared)
    known = limits.Limits(0.1, {}, {"here": seen})
    shares = {
        one.name: slowdown.share_of(seen[one.name]["calls"], seen[one.name]["c_calls"], 0, 0.2)
        for one in driver.scenarios()
    }
    slowed = counts.python_counts(prepared, slowdown.Plan(shares))
    exceeded = {one.scenario for one in known.judge(slowed, "here") if one.exceeded and one.count == "calls"}
    assert exceeded == set(seen)
    assert not any(one.exceeded for one in known.judge(seen, "here"))


def test_a_slow_down_is_never_recorded() -> None:
    """--update with --slow-down is a usage error."""
    with pytest.raises(SystemExit) as stopped:
        command.main(["--update", "--slow-down", "20%"])
    assert stopped.value.code == 2


def test_a_plan_of_work_survives_the_command_line() -> None:
    """What the parent calibrated is what runs under valgrind."""
    plan = slowdown.Plan({"unary request": slowdown.Share(5, 6, 7)})
    assert slowdown.Plan.decoded(plan.encoded()) == plan
