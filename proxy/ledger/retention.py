"""What is let go of: segments of the journal that the ledger has, and rows of months long closed.

Rules:
1. A segment is removed once nobody writes to it, every byte of it is in the ledger, every attempt that was announced
   in it is settled there, and it is older than `keep_s`; or sooner, oldest first, where all segments together take more
   than `keep_bytes`. Until then `weir why` and the rest read it. What was torn off stays for people to look at.
2. Rows are dropped by whole blocks, of closed months only, and only if older than asked. Roll-ups, dimensions,
   closings and the blocks themselves stay: reports don't change, and the chain holds across the cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, delete, select

from proxy.ledger import chain, spool
from proxy.ledger.closing import QUARTER_NS, watermark
from proxy.ledger.tables import attempts, blocks, exchanges, feedback, open_attempts, savings, segments

DAY_NS: Final = 24 * 3600 * 10**9
_BLOCKS_AT_ONCE: Final = 200


def sweep(
    engine: Engine, home: Path, host: str, offsets: Mapping[str, int], now_ns: int, keep_s: float, keep_bytes: int
) -> list[str]:
    """Removes the segments that may go; says which."""
    found = spool.listing(home)
    total = sum(segment.size for segment in found)
    wanted = []
    for segment in found:
        age_s = now_ns / 1e9 - segment.path.stat().st_mtime
        if age_s > keep_s or total > keep_bytes:
            wanted.append(segment)
            total -= segment.size
    removed: list[str] = []
    if not any(offsets.get(segment.name, 0) >= segment.size for segment in wanted):
        return removed
    with engine.connect() as db:
        waiting = select(open_attempts.c.segment).where(open_attempts.c.host == host).distinct()
        open_in = {name for (name,) in db.execute(waiting)}
    for segment in wanted:
        if segment.name in open_in or spool.in_use(segment, now_ns):
            continue
        if offsets.get(segment.name, 0) >= segment.path.stat().st_size:
            segment.path.unlink()
            removed.append(segment.name)
    if removed:
        with engine.begin() as db:
            gone = segments.c.name.in_(removed)
            db.execute(segments.update().where(segments.c.host == host, gone).values(removed_ns=now_ns))
    return removed


def drop_rows(engine: Engine, days: int, now_ns: int) -> int:
    """Drops rows older than so many days, of closed months; how many. Called again, it goes on."""
    with engine.begin() as db:
        chain.lock(db)
        before = min(watermark(db).quarter, (now_ns - days * DAY_NS) // QUARTER_NS)
        query = (
            select(blocks.c.number, blocks.c.first_seq, blocks.c.last_seq)
            .where(blocks.c.kind == "rows", blocks.c.dropped_ns.is_(None), blocks.c.last_quarter < before)
            .order_by(blocks.c.number)
            .limit(_BLOCKS_AT_ONCE)
        )
        dropped = 0
        for number, first, last in db.execute(query).fetchall():
            for table in (attempts, exchanges, savings):
                dropped += db.execute(delete(table).where(table.c.seq.between(first, last))).rowcount
            db.execute(blocks.update().where(blocks.c.number == number).values(dropped_ns=now_ns))
        db.execute(delete(feedback).where(feedback.c.at_ns < now_ns - days * DAY_NS))
    return dropped
