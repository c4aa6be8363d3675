"""An ingest that is killed anywhere loses nothing and counts nothing twice."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from sqlalchemy import Engine

from proxy.ledger.tables import exchanges, open_attempts
from tests.ledger.steps import rows, sound, spent, taken

KILLS = int(os.environ.get("WEIR_LEDGER_KILLS", "25"))
ROOT = Path(__file__).parent.parent.parent


def test_killed_at_random_points(engine: Engine, url: str, home: Path) -> None:
    """However often it is killed, in the end each event is there once, to the nano-dollar, and the chain holds."""
    seed = random.randrange(2**32)
    print("seed", seed)
    command = [sys.executable, "-m", "tests.ledger.killed", str(home), url, str(KILLS), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    costs = said["costs"]
    assert said["hit"], "none was killed in the middle"
    print("killed in the middle", said["hit"], "of", KILLS, "with", len(costs), "exchanges")
    taken(engine, home)
    assert len(rows(engine)) == len(rows(engine, exchanges)) == len(costs)
    assert sorted(row.nanodollars for row in rows(engine)) == sorted(costs)
    assert spent(engine) == sum(costs)
    assert rows(engine, open_attempts) == []
    sound(engine)
