"""Treated exchanges against the control group, from the rows of the ledger."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import orjson
from sqlalchemy import Engine

from proxy.ledger import tables
from proxy.ledger.labels import id_of
from proxy.ledger.opening import open_ledger
from proxy.ledger.reporting.treated import compared
from proxy.ledger.rows import arms
from tests.cli.conftest import Weir, weir  # noqa: F401  # a fixture
from tests.ledger.filled import at

NOW = at("2026-11-20 12:00")
DAY = 86400 * 10**9
CENT = 10**7


def fill(engine: Engine, rows: list[tuple[str, str, int, int, int, str]], started: int = 0, at_ns: int = NOW) -> None:
    """Exchanges as (key, action, nanodollars, milliseconds, status, hash), and what the policy spent itself."""
    dimensions, found = {}, []

    def dimension(**fields: str) -> int:
        values = dict.fromkeys(tables.DIMENSIONS) | {"tenant": "t", "tags": "{}", **fields}
        number = id_of(tuple(values.values()))
        dimensions[number] = {"id": number, **values}
        return number

    for number, (key, action, nanodollars, ms, status, version) in enumerate(rows, 1):
        decisions = orjson.dumps([{"policy": "p", "source": "", "action": action, "numbers": {}}] if action else [])
        found.append(
            {
                "seq": number, "exchange": f"x{number}", "dimension": dimension(key=key, kind="client"),
                "quarter": at_ns // 10**9 // 900, "at_ns": at_ns, "worker": 0, "status": status, "outcome": "complete",
                "attempts": 1, "total_ns": ms * 10**6, "nanodollars": nanodollars, "saved_nanodollars": 0,
                "policies_hash": version, "decisions": decisions.decode(), "arms": arms(decisions),
            }
        )  # fmt: skip
    spent = {
        "seq": len(rows) + 1, "exchange": "judge", "attempt": 1, "version": 0, "entry": "use",
        "dimension": dimension(kind="judge", started_by="p"), "quarter": at_ns // 10**9 // 900, "at_ns": at_ns,
        "tokens": "{}", "nanodollars": started, "cards": "", "total_ns": 0, "outcome": "complete", "worker": 0,
        "told_by": "worker", **dict.fromkeys(
            ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"), 0
        ),
    }  # fmt: skip
    with engine.begin() as db:
        db.execute(tables.dimensions.insert(), [*dimensions.values()])
        db.execute(tables.exchanges.insert(), found)
        db.execute(tables.attempts.insert(), [spent])


def test_the_true_difference_is_enclosed(engine: Engine) -> None:
    """Half the cost, a second less, more errors: each interval holds the truth, and overhead counts as cost."""
    draw = random.Random(11)
    rows = []
    for index in range(2000):
        treated = index % 2
        cost = round(draw.gauss(1, 0.2) * CENT) * (1 if treated else 2)
        failed = draw.random() < (0.10 if treated else 0.02)
        ms = round(draw.gauss(2000 if treated else 3000, 200))
        action = "treated" if treated else ("holdout" if index % 4 else "not_rolled_out")
        rows.append((f"k{index % 50}", action, cost, ms, 500 if failed else 200, "h1"))
    rows.append(("k1", "", CENT, 10, 200, "h1"))  # the policy had no say
    fill(engine, rows, started=1000 * CENT // 10)
    with engine.connect() as db:
        found = compared(db, "p", NOW - DAY, NOW + DAY)
    assert (found.exchanges, found.by_key, found.overhead) == (2000, True, 100 * CENT)
    assert [(arm.arm, arm.exchanges, arm.keys) for arm in found.arms] == [("treated", 1000, 25), ("control", 1000, 25)]
    by_name = {one.measure: one for one in found.differences}
    for name, truth in (("cost", -0.9 * CENT), ("latency", -1e9), ("errors", 0.08)):
        low, high = by_name[name].low, by_name[name].high
        assert low is not None and high is not None and low < truth < high, name
        assert low * high > 0, name
    assert found.arms[0].p99_low_ns <= found.arms[0].p99_ns <= found.arms[0].p99_high_ns


def test_by_exchange_where_keys_are_in_both(engine: Engine) -> None:
    """Conversations of one key are in both arms: exchanges are compared, and equal ones can't be told apart."""
    rows = [("k", "treated" if index % 2 else "holdout", CENT + index // 2 % 7, 100, 200, "h1") for index in range(200)]
    fill(engine, rows)
    with engine.connect() as db:
        found = compared(db, "p", NOW - DAY, NOW + DAY)
    assert not found.by_key
    cost = found.differences[0]
    assert cost.low is not None and cost.high is not None and cost.low <= 0 <= cost.high


def test_the_command(weir: Weir, tmp_path: Path) -> None:  # noqa: F811
    """It names arms, differences and versions; a hash narrows it; what isn't there is an error."""
    engine = open_ledger("sqlite:///ledger.db", tmp_path)
    rows = [
        (f"k{i}", "treated" if i % 2 else "holdout", CENT * (1 + i % 2), 100, 200, f"h{i % 4 // 2}") for i in range(40)
    ]
    fill(engine, rows, at_ns=time.time_ns() - 10**9)
    engine.dispose()
    done = weir("policy", "report", "p", "--home", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "p: 40 exchanges" in done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith(("treated ", "control"))][-2:] == [
        ["control", "20"],
        ["treated", "less"],
    ]
    assert "h0 (20), h1 (20)" in done.stdout
    found = json.loads(weir("policy", "report", "p", "--home", str(tmp_path), "--hash", "h1", "--json").stdout)
    assert (found["exchanges"], [*found["versions"]]) == (20, ["h1"])
    assert weir("policy", "report", "q", "--home", str(tmp_path)).returncode == 1
