"""Ingests a home directory until all of `events` records are in: what the kill tests start and kill.

Arguments: home, the ledger's address, how many events there are in all, bytes a batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sqlalchemy import select

from proxy.ledger.ingest import Ingest
from proxy.ledger.opening import open_ledger
from proxy.ledger.tables import blocks


def main(home: str, url: str, batch_bytes: str) -> None:
    """Steps until nothing is left, saying so on each step."""
    engine = open_ledger(url, Path(home))
    ingest = Ingest(engine, Path(home), batch_bytes=int(batch_bytes))
    with engine.connect() as db:
        db.execute(select(blocks.c.number).limit(1))
    print("ready", flush=True)
    while not ingest.step().caught_up:
        pass
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
