"""How a ledger stands, for `weir ledger status`. Reads only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select

from proxy.ledger import spool
from proxy.ledger.chain import GENESIS
from proxy.ledger.tables import blocks, closings, open_attempts, segments


@dataclass(frozen=True, slots=True)
class Standing:
    """Numbers of one moment. `newest` is when the last row was added; `closed` the last closed month."""

    kept_in: str
    rows: int
    blocks: int
    dropped: int
    newest: str | None
    open_attempts: int
    closed: str | None
    zone: str | None
    behind_bytes: int
    segments: int
    segment_bytes: int
    head: str

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def standing(engine: Engine, home: Path) -> Standing:
    """Looks at the ledger, and at the journal in `home`."""
    found = spool.listing(home)
    with engine.connect() as db:
        last = db.execute(select(blocks).order_by(blocks.c.number.desc()).limit(1)).first()
        gone = blocks.c.dropped_ns.is_not(None)
        dropped = db.scalar(select(func.coalesce(func.sum(blocks.c.last_seq - blocks.c.first_seq + 1), 0)).where(gone))
        closing = db.execute(select(closings).order_by(closings.c.end_quarter.desc()).limit(1)).first()
        waiting = db.scalar(select(func.count()).select_from(open_attempts)) or 0
        host = spool.host_id(home) if found else ""
        query = select(segments.c.name, segments.c.offset).where(segments.c.host == host)
        offsets = {row.name: row.offset for row in db.execute(query)}
    return Standing(
        kept_in=engine.url.render_as_string(hide_password=True),
        rows=(last.last_seq if last else 0) - int(dropped or 0),
        blocks=last.number if last else 0,
        dropped=int(dropped or 0),
        newest=_time(last.at_ns) if last else None,
        open_attempts=waiting,
        closed=closing.month if closing else None,
        zone=closing.zone if closing else None,
        behind_bytes=sum(max(0, one.size - offsets.get(one.name, 0)) for one in found),
        segments=len(found),
        segment_bytes=sum(one.size for one in found),
        head=last.hash if last else GENESIS,
    )


def _time(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
