"""`python -m bench.money.feed HOME RATE SECONDS`: a journal that grows by so many records a second.

It is for the ingest of the Weir that runs over this home. The records are made before the first is written; prints how
many there were.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from bench import ingest
from proxy.journal import Journal, frame

WRITER = 99
A_SECOND = 20  # writes


def main(home: str, rate: str, seconds: str) -> None:
    """Writes at that pace."""
    count, length = int(int(rate) * float(seconds)), int(rate) // A_SECOND
    made = [frame(entry) for entry in ingest.exchanges(count // 3, 1_000, random.Random(5))]
    batches = [b"".join(made[at : at + length]) for at in range(0, len(made), length)]
    journal = Journal(Path(home) / "journal", WRITER, segment_bytes=1 << 40)
    print("made", flush=True)
    sys.stdin.readline()  # until it is to begin
    with next((Path(home) / "journal").glob(f"*-w{WRITER}.journal")).open("ab", buffering=0) as file:
        start = time.monotonic()
        for number, batch in enumerate(batches):
            time.sleep(max(0.0, start + number / A_SECOND - time.monotonic()))
            file.write(batch)
    journal.close()
    print(len(made), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
