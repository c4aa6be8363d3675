"""An ingest that is killed anywhere loses nothing and counts nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import Engine

from proxy.journal import Entry
from proxy.ledger.tables import exchanges, savings
from tests.ledger.steps import rows, sound, spent, taken
from tests.ledger.told import NOON, SECOND, exchange_id, journal, whole

KILLS = int(os.environ.get("WEIR_LEDGER_KILLS", "12"))
EXCHANGES = 4_000
ROOT = Path(__file__).parent.parent.parent


def test_killed_at_random_points(engine: Engine, url: str, home: Path) -> None:
    """However often it is killed, in the end each event is there once, to the nano-dollar, and the chain holds."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    costs = [chance.randrange(1, 10_000) for _ in range(EXCHANGES)]
    for worker in range(4):
        records: list[Entry] = []
        for number in range(worker, EXCHANGES, 4):
            at = NOON + number * SECOND
            records += whole(exchange_id(number, f"{worker}" * 12), at, costs[number], worker=worker)
        journal(home, *records, writer=f"w{worker}")
    killed = 0
    for _ in range(KILLS):
        killed += _killed_once(home, url, chance.random())
    assert killed, "none was killed in the middle"
    taken(engine, home)
    assert len(rows(engine)) == len(rows(engine, exchanges)) == EXCHANGES
    assert sorted(row.nanodollars for row in rows(engine)) == sorted(costs)
    assert spent(engine) == sum(costs)
    assert rows(engine, savings) == []
    sound(engine)


def _killed_once(home: Path, url: str, when: float) -> bool:
    """Starts one, kills it after a part of its time; whether it wasn't done by then."""
    command = [sys.executable, "-m", "tests.ledger.killed", str(home), url, "40000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(when * 0.05)  # a random point in its work
        process.send_signal(signal.SIGKILL)
        return "done" not in process.stdout.read()
