"""How long a report over many events takes: `python -m bench.report --events 10000000`.

A ledger is made of its roll-ups alone, with the cardinality of a company: teams, projects and keys by Zipf's law, seven
models, tags, a pattern of hours. Then `weir report` is run as a process, several times, in several zones: the further a
zone is from UTC, the more hours a day are read by the quarter.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from sqlalchemy import insert

from proxy.ledger import tables
from proxy.ledger.opening import open_ledger

FIRST_DAY, DAYS = 20_545, 30  # 2026-04-02
MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-4.1-mini", "o4-mini", "claude-sonnet-4-5", "claude-haiku-4-5")


def dimensions(count: int, chance: random.Random) -> list[dict[str, object]]:
    """Who and what: a team has some projects, a project some keys; a key calls a few models."""
    found = []
    for number in range(count):
        team = min(int(chance.paretovariate(0.9)), 40)
        model = chance.choice(MODELS)
        provider = "anthropic" if model.startswith("claude") else "openai"
        found.append(
            dict.fromkeys(tables.DIMENSIONS)
            | {
                "id": number + 1,
                "tenant": f"t{team}",
                "org": "acme",
                "team": f"team-{team}" if number % 20 else None,
                "project": f"team-{team}-{number % 3}",
                "cost_centre": f"CC{team % 12}",
                "gl_account": f"6{team % 5}00",
                "key": f"key-{number // 4}",
                "tags": json.dumps({"env": chance.choice(("prod", "dev")), "app": f"app{number % 30}"}),
                "asked": model,
                "model": model,
                "served": f"{model}-2026-01-01",
                "deployment": model,
                "upstream": provider,
                "provider": provider,
                "account": f"org-{provider}",
                "provider_project": f"proj_{team % 6}",
                "endpoint": "chat",
                "kind": "client" if number % 25 else "judge",
                "started_by": None if number % 25 else "cascade",
                "tier": "default" if number % 9 else "flex",
                "known": "observed" if number % 12 else "estimated",
            }
        )
    return found


def rows(events: int, ids: int, chance: random.Random) -> Iterator[dict[str, int]]:
    """The quarters: events spread over the day and over dimensions."""
    weights = [1 / (rank + 3) for rank in range(ids)]
    whole = sum(weights)
    shape = [1 + 0.8 * math.sin((quarter % 96) / 96 * 2 * math.pi - 1.6) for quarter in range(DAYS * 96)]
    level = events / sum(shape)
    for n, factor in enumerate(shape):
        for index, weight in enumerate(weights):
            expected = level * factor * weight / whole
            count = int(expected) + (chance.random() < expected % 1)
            if count:
                tokens = count * chance.randrange(300, 2500)
                values = dict.fromkeys(tables.MEASURES, 0) | {
                    "attempts": count,
                    "input_tokens": tokens,
                    "output_tokens": tokens // 5,
                    "cached_tokens": tokens // 3,
                    "nanodollars": tokens * 390 + count,
                }
                yield {"quarter": FIRST_DAY * 96 + n, "dimension": index + 1} | values


def make(home: Path, events: int, ids: int) -> int:
    """A ledger in `home`. Returns how many rows its roll-up by quarter has."""
    chance = random.Random(7)
    engine = open_ledger("sqlite:///ledger.db", home)
    count = 0
    days: dict[tuple[int, int], dict[str, int]] = {}
    with engine.begin() as db:
        db.execute(insert(tables.dimensions), dimensions(ids, chance))
        batch: list[dict[str, int]] = []
        for row in rows(events, ids, chance):
            count += 1
            batch.append(row)
            day = days.setdefault((row["quarter"] // 96, row["dimension"]), dict.fromkeys(tables.MEASURES, 0))
            for name in ("attempts", "input_tokens", "output_tokens", "cached_tokens", "nanodollars"):
                day[name] += row[name]
            if len(batch) == 20_000:
                db.execute(insert(tables.quarters), batch)
                batch.clear()
        db.execute(insert(tables.quarters), batch or [])
        db.execute(insert(tables.days), [{"day": day, "dimension": d} | sums for (day, d), sums in days.items()])
    engine.dispose()
    return count


def timed(home: Path, zone: str, options: list[str]) -> tuple[float, float]:
    """Seconds that the command took, and of CPU."""
    period = ["--from", "2026-04-02", "--to", "2026-05-01", "--time-zone", zone]
    command = [sys.executable, "-m", "proxy.cli", "report", "--home", str(home), *period, *options]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Makes the ledger, runs the command, prints a line a zone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--dimensions", type=int, default=1000, help="sets of team, project, key, model, tags, …")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--home", type=Path, help="keep the ledger there, and use it again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = given.home or Path(temporary)
        if not (home / "ledger.db").exists():
            home.mkdir(parents=True, exist_ok=True)
            count = make(home, given.events, given.dimensions)
            size = (home / "ledger.db").stat().st_size / 2**20
            print(f"{given.events:,} events, {given.dimensions:,} dimensions, {count:,} quarters' rows, {size:.0f} MiB")
        for zone in ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/Los_Angeles"):
            for options in (["--by", "team"], ["--by", "team,model", "--compare", "previous", "--format", "json"]):
                runs = [timed(home, zone, options) for _ in range(given.runs)]
                took, used = median(run[0] for run in runs), median(run[1] for run in runs)
                print(f"{zone:20} {' '.join(options):50} {took:.2f} s, {used:.2f} s of CPU")


if __name__ == "__main__":
    main()
