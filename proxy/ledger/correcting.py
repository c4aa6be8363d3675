"""Corrections by hand: what a provider's invoice knew better.

Rules: nothing is changed. Two rows are added: one takes the attempt's last row back, one says what is so; both name the
reason, and both are counted in the quarter hour of the attempt, or in the first open one if that month is closed.
"""

from __future__ import annotations

from sqlalchemy import Engine, select

from proxy.ledger import chain, rollups, rows
from proxy.ledger.closing import watermark
from proxy.ledger.labels import id_of
from proxy.ledger.opening import LedgerError
from proxy.ledger.tables import DIMENSIONS, attempts, dimensions


def correct(engine: Engine, exchange: str, attempt: int, nanodollars: int | None, reason: str, now_ns: int) -> None:
    """Says what an attempt really cost. Raises LedgerError where there is no such attempt."""
    with engine.begin() as db:
        head = chain.head(db)
        query = select(attempts).where(attempts.c.exchange == exchange, attempts.c.attempt == attempt)
        found = db.execute(query.order_by(attempts.c.version.desc())).first()
        if found is None:
            raise LedgerError(f"attempt {attempt} of exchange {exchange} isn't in the ledger")
        about = db.execute(select(dimensions).where(dimensions.c.id == found.dimension)).one()._asdict()
        about["known"] = "unpriced" if nanodollars is None else "observed"
        about["id"] = id_of(tuple(about[name] for name in DIMENSIONS))
        if db.scalar(select(dimensions.c.id).where(dimensions.c.id == about["id"])) is None:
            db.execute(dimensions.insert().values(**about))
        closed, row, seq = watermark(db).quarter, tuple(found), head.last_seq + 1
        back = rows.reversal(seq, row, closed, reason)
        right = rows.corrected(seq + 1, row, closed, reason, nanodollars, about["id"])
        db.exec_driver_sql(rows.insert(attempts, db.dialect.name), [back, right])
        rollups.add(db, seq, seq + 1, (0,))
        quarters = sorted((back[rows.QUARTER], right[rows.QUARTER]))
        chain.append(db, head, "rows", now_ns, chain.digest_of([back, right], [], []), 2, *quarters)
