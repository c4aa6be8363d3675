"""How many journal records a second the ledger takes in: `python -m bench.ingest --exchanges 200000`.

A journal is written as workers write it: each exchange has a `reserved`, a `settled` and an `ended` record, from teams,
models and tags of a company; `--in-flight` exchanges run at any time, so that many attempts are announced in one
transaction and settled in a later one. Then it is taken into an empty ledger, and verified. Wall time depends on what
else the machine does; CPU time hardly does. Target: 20,000 records a second into SQLite.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from proxy.exchange import Decision
from proxy.journal import Ended, Entry, Estimate, Journal, Reserved, Settled
from proxy.ledger.ingest import Ingest
from proxy.ledger.opening import engine_of, open_ledger
from proxy.ledger.verify import verify

MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-4.1-mini", "o4-mini", "claude-sonnet-4-5")
TEAMS = 40
START_NS = 1_793_491_200 * 10**9  # 2026-11-01
APART_NS = 100_000_000


def exchanges(count: int, in_flight: int, chance: random.Random) -> Iterator[Entry]:
    """Their records, in the order in which a worker writes them."""
    running: deque[tuple[Settled, Ended]] = deque()
    for number in range(count):
        reserved, *rest = life(f"{0xBE7C4:012x}{number:08x}", START_NS + number * APART_NS, chance)
        yield reserved
        running.append(rest)  # type: ignore[arg-type]
        if len(running) > in_flight:
            yield from running.popleft()
    while running:
        yield from running.popleft()


def life(exchange: str, at: int, chance: random.Random) -> list[Entry]:
    """One exchange of one attempt."""
    number, model = chance.randrange(TEAMS), chance.choice(MODELS)
    team, given, made = f"team-{number}", chance.randrange(50, 4_000), chance.randrange(5, 800)
    who = (f"tenant-{number}", f"key-{number}-{chance.randrange(3)}", "acme", team, f"{team}-a")
    tags = {"env": "prod", "app": f"app-{chance.randrange(6)}"}
    usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    tokens, cost, over = {"input_tokens": given, "output_tokens": made}, given * 150 + made * 600, at + 10**9
    chat, deployment, dated, cards = "chat.completions", f"openai/{model}", f"{model}-2026-01-01", "c" * 16
    estimate = Estimate(given, 1_000, cost * 2)
    note = Decision("budget", "policies.yaml:3", "admitted", {"spent": cost})
    return [
        Reserved(at, exchange, 0, 1, chat, "client", *who, tags, model, model, deployment, "openai", estimate),
        Settled(
            over, exchange, 0, 1, "complete", 200, dated, "default", usage, tokens, cost, "observed", cards,
            200_000_000, 10**9, f"req_{number:024x}", None,
        ),
        Ended(
            over + 10**6, exchange, 0, "client", None, 200, "complete", *who, tags, chat, model, 1,
            10**9 + 10**6, cost, 0, "p" * 16, [note], [], None,
        ),
    ]  # fmt: skip


def written(home: Path, count: int, in_flight: int) -> int:
    """Writes the journal; its bytes."""
    journal = Journal(home / "journal", 0)
    for number, record in enumerate(exchanges(count, in_flight, random.Random(7))):
        journal.append(record)
        if not number % 200:
            journal.flush()
    journal.close()
    return sum(path.stat().st_size for path in (home / "journal").glob("*.journal"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exchanges", type=int, default=100_000)
    parser.add_argument("--in-flight", type=int, default=1_000)
    parser.add_argument("--url", default="sqlite:///ledger.db", help="an empty ledger; else SQLite in a new directory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        journal_bytes = written(home, arguments.exchanges, arguments.in_flight)
        engine = open_ledger(arguments.url, home)
        ingest = Ingest(engine, home)
        events, longest_s, began_s, cpu_s = 0, 0.0, time.perf_counter(), time.process_time()
        caught_up = False
        while not caught_up:
            step_s = time.perf_counter()
            done = ingest.step()
            events, caught_up = events + done.events, done.caught_up
            longest_s = max(longest_s, time.perf_counter() - step_s)
        wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        engine.dispose()
        began_s = time.perf_counter()
        found = verify(engine_of(arguments.url, home, reading=True))
        assert not found.problems, found.problems
        database = home / "ledger.db"
        told = {
            "events": events,
            "rows": found.rows,
            "events_per_s": round(events / wall_s),
            "events_per_cpu_s": round(events / cpu_s),
            "cpu_us_per_event": round(cpu_s / events * 1e6, 2),
            "longest_transaction_ms": round(longest_s * 1e3),
            "journal_bytes_per_event": round(journal_bytes / events),
            "ledger_bytes_per_event": round(database.stat().st_size / events) if database.exists() else None,
            "verify_s": round(time.perf_counter() - began_s, 2),
        }
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
