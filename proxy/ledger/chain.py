"""The chain of hashes over the ledger's rows: one block for each transaction that adds some.

Rules: a block's digest is over the rows as JSON, in order; its hash is over its own fields and the hash before it. So
a changed, added or missing row changes a digest, and a changed block breaks the chain after it. A block whose rows were
dropped keeps its digest: the chain holds across the cut. One writer at a time: `head` takes the lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import Connection, text

from proxy.ledger.tables import blocks

GENESIS: Final = "0" * 64
_LOCK: Final = 7306


class Head(NamedTuple):
    """The end of the chain."""

    number: int
    last_seq: int
    hash: str


class Block(NamedTuple):
    """What a block says, in the order in which it is hashed."""

    number: int
    kind: str
    at_ns: int
    first_seq: int
    last_seq: int
    first_quarter: int | None
    last_quarter: int | None
    previous: str
    digest: str

    @property
    def hash(self) -> str:
        return sha256(orjson.dumps(list(self))).hexdigest()


def lock(db: Connection) -> None:
    """Waits until no other writes; held until the transaction ends. (SQLite's transactions begin so.)"""
    if db.dialect.name == "postgresql":
        db.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))


def head(db: Connection) -> Head:
    """The end of the chain, for whoever adds to it."""
    lock(db)
    query = "SELECT number, last_seq, hash FROM blocks ORDER BY number DESC LIMIT 1"
    found = db.exec_driver_sql(query).fetchone()
    return Head(0, 0, GENESIS) if found is None else Head(*found)


def digest(rows: Iterable[Sequence[Any]]) -> str:
    """The digest of rows."""
    return sha256(orjson.dumps([tuple(row) for row in rows])).hexdigest()


def digest_of(*tables: list[tuple[Any, ...]]) -> str:
    """The digest of the rows of several tables, each in its order."""
    whole = sha256()
    for rows in tables:
        whole.update(orjson.dumps(rows))
        whole.update(b"\n")
    return whole.hexdigest()


def append(
    db: Connection,
    after: Head,
    kind: str,
    at_ns: int,
    digest: str,
    rows: int = 0,
    first_quarter: int | None = None,
    last_quarter: int | None = None,
) -> Head:
    """Adds a block over the next `rows` rows."""
    first, last = after.last_seq + 1, after.last_seq + rows
    block = Block(after.number + 1, kind, at_ns, first, last, first_quarter, last_quarter, after.hash, digest)
    db.execute(blocks.insert().values(**block._asdict(), hash=block.hash))
    return Head(block.number, block.last_seq, block.hash)
