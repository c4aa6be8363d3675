"""What one tenant used, from the ledger's sums and from what the journal holds beyond them: each record counted once.

Rules: one view of the database says the sums and how far each segment was read; the rest is read from the segments. So
a record is in the sums or in the rest, never in both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import Engine, case, func, select

from proxy.ledger import spool
from proxy.ledger.records import Ended, Reserved, Settled, decode, decode_reserved, whole
from proxy.ledger.rows import QUARTER_NS
from proxy.ledger.tables import dimensions, open_attempts, quarters, segments

MOST_BYTES: Final = 64 * 2**20
_SUMS: Final = ("exchanges", "input_tokens", "output_tokens", "nanodollars", "unpriced")


class Behind(Exception):  # noqa: N818
    """The journal holds so much more than the ledger that it isn't worth reading it each time."""


class Used(NamedTuple):
    """Sums. `unpriced` calls have no known price and are in no amount."""

    exchanges: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    nanodollars: int = 0
    unpriced: int = 0

    def plus(self, other: Used) -> Used:
        """Both together."""
        return Used(*(a + b for a, b in zip(self, other, strict=True)))


def used(engine: Engine, home: Path, host: str, tenant: str, since: int, today: int) -> tuple[Used, Used]:
    """(today, since the first): quarters are numbers as in the ledger. Raises SQLAlchemyError, or Behind."""
    with engine.connect() as db:
        query = select(segments.c.name, segments.c.offset).where(segments.c.host == host)
        offsets = {row.name: int(row.offset) for row in db.execute(query)}
        waiting = select(open_attempts.c.record).where(open_attempts.c.host == host)
        tenants = {one.exchange: one.tenant for (record,) in db.execute(waiting) if (one := decode_reserved(record))}
        is_today = case((quarters.c.quarter >= today, 1), else_=0)
        sums = [func.coalesce(func.sum(quarters.c[name]), 0) for name in _SUMS]
        found = {0: Used(), 1: Used()}
        for now, *values in db.execute(
            select(is_today, *sums)
            .join(dimensions, dimensions.c.id == quarters.c.dimension)
            .where(dimensions.c.tenant == tenant, quarters.c.quarter >= since)
            .group_by(is_today)
        ):
            found[now] = Used(*map(int, values))
    for quarter, more in _rest(home, offsets, tenants, tenant):
        if quarter >= since:
            found[quarter >= today] = found[quarter >= today].plus(more)
    return found[1], found[0].plus(found[1])


def _rest(home: Path, offsets: dict[str, int], tenants: dict[str, str | None], tenant: str) -> list[tuple[int, Used]]:
    """What the segments hold beyond these offsets: (quarter, what was used)."""
    found = spool.listing(home)
    if sum(max(0, one.size - offsets.get(one.name, 0)) for one in found) > MOST_BYTES:
        raise Behind
    rest: list[tuple[int, Used]] = []
    for segment in found:
        start = offsets.get(segment.name, 0)
        if start >= segment.size:
            continue
        for payload in spool.read(segment, start, MOST_BYTES).payloads:
            try:
                record = decode(payload)
            except msgspec.DecodeError:
                continue
            if (more := _of(record, tenants, tenant)) is not None:
                rest.append((record.at // QUARTER_NS, more))
    return rest


def _of(record: Reserved | Settled | Ended, tenants: dict[str, str | None], tenant: str) -> Used | None:
    if isinstance(record, Reserved):
        tenants[record.exchange] = record.tenant
    elif isinstance(record, Settled):
        if tenants.get(record.exchange) == tenant:
            given, made = (whole(record.used.get(name)) for name in ("input_tokens", "output_tokens"))
            return Used(0, given, made, record.nanodollars or 0, int(record.nanodollars is None))
    elif record.tenant == tenant:
        return Used(1)
    return None
