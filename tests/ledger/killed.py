"""Kills an ingest at random points, again and again, while the journal grows: what the kill test runs.

Arguments: home, the ledger's address, how many kills, a seed. Prints the costs it wrote and how many kills hit work.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from proxy.ledger.ingest import Ingest
from proxy.ledger.opening import open_ledger
from tests.ledger.told import NOON, SECOND, Segment, exchange_id, whole

WORKERS = 3
A_ROUND = 150  # exchanges


def main(home: str, url: str, kills: str, seed: str) -> None:
    """The whole of it."""
    chance = random.Random(int(seed))
    open_ledger(url, Path(home)).dispose()
    segments = [Segment(Path(home), f"w{worker}") for worker in range(WORKERS)]
    costs: list[int] = []
    hit = 0
    for _ in range(int(kills)):
        for _ in range(A_ROUND):
            number, cost = len(costs), chance.randrange(1, 10_000)
            records = whole(exchange_id(number, f"{number % WORKERS}" * 12), NOON + number * SECOND // 10, cost)
            segments[number % WORKERS].write(*records)
            costs.append(cost)
        hit += _killed_in_the_middle(Path(home), url, chance)
    print(json.dumps({"costs": costs, "hit": hit}))


def _killed_in_the_middle(home: Path, url: str, chance: random.Random) -> bool:
    """Starts an ingest in a process of its own, kills it; whether it had work left."""
    ready, begun = os.pipe()
    child = os.fork()
    if not child:
        engine = open_ledger(url, home)
        ingest = Ingest(engine, home, batch_bytes=chance.choice((20_000, 200_000)))
        ingest._begin()
        os.write(begun, b"r")
        while not ingest.step().caught_up:
            pass
        os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(begun)
    time.sleep(chance.random() * 0.08)  # a random point in its work, which takes about as long
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
