"""Exchanges as the journal told of them, from the ledger's rows: for `weir why` once their segments are gone.

Rules: reads only. What comes out are records in the journal's form, in the order in which they happened; `decisions`
and `usage` are as they were written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
from sqlalchemy import Connection, Engine, Table, inspect, select

from proxy import journal
from proxy.ledger.opening import address, engine_of
from proxy.ledger.records import Estimate, Reserved
from proxy.ledger.tables import attempts, dimensions, exchanges, feedback, open_attempts, savings

Record = dict[str, Any]
_IDENTITY: Final = ("tenant", "key", "org", "team", "project")


def records_of(engine: Engine, exchange: str) -> list[Record]:
    """The records of an exchange; none where it isn't known."""
    with engine.connect() as db:
        found = _reserved_and_settled(db, exchange)
        for (record,) in db.execute(select(open_attempts.c.record).where(open_attempts.c.exchange == exchange)):
            found.append({**orjson.loads(record), "event": "reserved"})
        if (ended := _one(db, exchanges, exchanges.c.exchange == exchange)) is not None:
            found.append(_ended(ended, _savings(db, exchange)))
        order = ("reserved", "settled", "ended")
        found.sort(key=lambda record: (record["at"], order.index(record["event"])))
        return found + _rated(db, exchange) if found else found


def complete(records: list[Record]) -> bool:
    """Whether these are all of an exchange's records up to now: its first segments may be gone already."""
    if not records:
        return False
    announced = {record.get("attempt") for record in records if record.get("event") == "reserved"}
    settled = {record.get("attempt") for record in records if record.get("event") == "settled"}
    ended = next((record for record in records if record.get("event") == "ended"), None)
    return settled <= announced and (ended is None or len(announced) >= (ended.get("attempts") or 0) - 1)


def told(home: Path, url: str, exchange: str) -> list[Record]:
    """The records of an exchange: from the journal, or from the ledger where its segments are gone.

    Raises SQLAlchemyError where the ledger must be asked and can't be.
    """
    records = journal.find(home, exchange)
    if complete(records) or not url:
        return records
    where = address(url, home)
    if where.drivername == "sqlite" and not Path(where.database or "").exists():
        return records
    engine = engine_of(url, home, reading=True)
    try:
        found = records_of(engine, exchange)
    finally:
        engine.dispose()
    return found if len(found) > len(records) else records


def last(engine: Engine, count: int) -> list[Record]:
    """The records of the exchanges that ended last."""
    with engine.connect() as db:
        query = select(exchanges.c.exchange).order_by(exchanges.c.seq.desc()).limit(count)
        ids = [exchange for (exchange,) in db.execute(query)]
    return [record for exchange in reversed(ids) for record in records_of(engine, exchange)]


def reserved_of(db: Connection, exchange: str, attempt: int, version: int) -> tuple[Reserved, tuple[Any, ...]]:
    """What announced an attempt whose row is in the ledger, and that row."""
    query = select(attempts).where(
        attempts.c.exchange == exchange, attempts.c.attempt == attempt, attempts.c.version == version
    )
    row = db.execute(query).one()
    about = db.execute(select(dimensions).where(dimensions.c.id == row.dimension)).one()._mapping
    reserved = Reserved(
        at=row.reserved_ns or 0,
        exchange=exchange,
        attempt=attempt,
        worker=row.worker,
        tags=msgspec.Raw(about["tags"].encode()),
        estimate=Estimate(row.estimate_input_tokens, row.estimate_output_cap, row.estimate_nanodollars),
        parent=row.parent,
        **{name: about[name] for name in (*_IDENTITY, "asked", "model", "deployment", "upstream", "endpoint", "kind")},
        started_by=about["started_by"],
        policies_hash=row.policies_hash or "",
    )
    return reserved, tuple(row)


def _reserved_and_settled(db: Connection, exchange: str) -> list[Record]:
    query = (
        select(attempts, *(c.label(f"of_{c.name}") for c in dimensions.columns))
        .join_from(attempts, dimensions, attempts.c.dimension == dimensions.c.id)
        .where(attempts.c.exchange == exchange, attempts.c.entry != "reversal")
        .order_by(attempts.c.attempt, attempts.c.version)
    )
    newest = {row.attempt: row._asdict() for row in db.execute(query)}
    return [record for row in newest.values() for record in (_reserved(row), _settled(row))]


def _identity(row: Mapping[str, Any]) -> Record:
    return {**{name: row[f"of_{name}"] for name in _IDENTITY}, "tags": orjson.loads(row["of_tags"] or "{}")}


def _reserved(row: Mapping[str, Any]) -> Record:
    return {
        "event": "reserved",
        "at": row["reserved_ns"] or row["at_ns"],
        "exchange": row["exchange"],
        "worker": row["worker"],
        "attempt": row["attempt"],
        **_identity(row),
        **{name: row[f"of_{name}"] for name in ("endpoint", "kind", "asked", "model", "deployment", "upstream")},
        "estimate": {
            "input_tokens": row["estimate_input_tokens"],
            "output_cap": row["estimate_output_cap"],
            "nanodollars": row["estimate_nanodollars"],
        },
        "parent": row["parent"],
        "started_by": row["of_started_by"],
        "policies_hash": row["policies_hash"] or "",
    }


def _settled(row: Mapping[str, Any]) -> Record:
    plain = ("exchange", "worker", "attempt", "outcome", "status", "nanodollars", "cards", "ttft_ns", "total_ns")
    return {
        "event": "settled",
        "at": row["at_ns"],
        **{name: row[name] for name in (*plain, "upstream_request_id", "error")},
        **{name: row[f"of_{name}"] for name in ("served", "tier", "known")},
        "usage": orjson.loads(row["usage"]) if row["usage"] else None,
        "tokens": orjson.loads(row["tokens"]),
    }


def _ended(row: Mapping[str, Any], saved: list[Record]) -> Record:
    plain = ("exchange", "worker", "parent", "status", "outcome", "attempts", "total_ns", "nanodollars")
    return {
        "event": "ended",
        "at": row["at_ns"],
        **{name: row[name] for name in (*plain, "saved_nanodollars", "policies_hash")},
        **_identity(row),
        **{name: row[f"of_{name}"] for name in ("endpoint", "kind", "asked", "started_by")},
        "decisions": orjson.loads(row["decisions"]),
        "savings": saved,
    }


def _rated(db: Connection, exchange: str) -> list[Record]:
    if not inspect(db).has_table(feedback.name):  # a ledger that no newer program has written to
        return []
    query = select(feedback).where(feedback.c.exchange == exchange).order_by(feedback.c.at_ns)
    return [
        {"event": "feedback", "at": row.at_ns, "exchange": exchange, "key": row.rater or None}
        | {name: getattr(row, name) for name in ("tenant", "rating", "comment")}
        for row in db.execute(query)
    ]


def _savings(db: Connection, exchange: str) -> list[Record]:
    query = select(savings).where(savings.c.exchange == exchange).order_by(savings.c.number)
    found = []
    for row in db.execute(query):
        told = {name: getattr(row, name) for name in ("policy", "nanodollars", "model", "known")}
        found.append({**told, "tokens": orjson.loads(row.tokens)})
    return found


def _one(db: Connection, table: Table, where: Any) -> Mapping[str, Any] | None:
    query = select(table, *(c.label(f"of_{c.name}") for c in dimensions.columns)).join_from(
        table, dimensions, table.c.dimension == dimensions.c.id
    )
    found = db.execute(query.where(where)).first()
    return None if found is None else found._asdict()
