"""Opening a ledger: SQLite in the home directory, or PostgreSQL.

Rules: the address is that of the deployment file. Every connection of SQLite waits for the one writer up to `BUSY_S`
and writes ahead, so that reports read while rows come; begun transactions are ours, not the driver's. A PostgreSQL that
is gone fails within about `LOST_S`; it lets go of a host that is gone within a minute, of one that hangs in `STUCK_S`.
Whoever opens it for writing brings a ledger of an earlier version to this one's; whoever only reads, says so instead
(`current`). One of a newer version is left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from proxy.ledger.migrating import STEPS
from proxy.ledger.tables import VERSION, attempts, exchanges, meta, metadata, savings

BUSY_S: Final = 10.0
LOST_S: Final = 10
STUCK_S: Final = 600
_FIXED: Final = (attempts, exchanges, savings)


class LedgerError(Exception):
    """The ledger can't do what was asked; the text says why, for people."""


def address(url: str, home: Path) -> URL:
    """The database's address. A relative SQLite file is in `home`. Raises LedgerError."""
    try:
        found = make_url(url)
    except ArgumentError:
        raise LedgerError("the address of the ledger can't be understood") from None
    if found.drivername == "postgresql":
        return found.set(drivername="postgresql+psycopg")
    if found.drivername != "sqlite":
        raise LedgerError(f"a ledger can't be kept in {found.drivername}: use sqlite:///… or postgresql://…")
    return found.set(database=str(home / (found.database or "ledger.db")))


def engine_of(url: str, home: Path, *, reading: bool = False) -> Engine:
    """An engine for the ledger; nothing is opened yet. `reading`: it can't write."""
    where = address(url, home)
    if where.drivername != "sqlite":
        options = " ".join(f"-c {name}={value}" for name, value in _session(reading).items())
        given: dict[str, Any] = {
            "connect_timeout": LOST_S,
            "tcp_user_timeout": LOST_S * 1000,
            "keepalives_idle": LOST_S,
            "options": options,
        }
        return create_engine(where, pool_pre_ping=True, pool_size=2, connect_args=given)
    engine = create_engine(where, connect_args={"timeout": BUSY_S, "check_same_thread": False})

    def connected(raw: Any, _: Any) -> None:
        raw.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "cache_size=-65536"):
            raw.execute(f"PRAGMA {pragma}")
        if reading:
            raw.execute("PRAGMA query_only=ON")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", lambda db: db.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE"))
    return engine


def _session(reading: bool) -> dict[str, object]:
    """How the server treats a connection: that of a host that was lost ends within a minute, and its lock with it."""
    return {
        "default_transaction_read_only": "on" if reading else "off",
        "statement_timeout": STUCK_S * 1000,
        "idle_in_transaction_session_timeout": 0 if reading else STUCK_S * 1000,
        "tcp_keepalives_idle": LOST_S,
        "tcp_keepalives_interval": LOST_S,
        "tcp_keepalives_count": 3,
        "tcp_user_timeout": 3 * LOST_S * 1000,
    }


def open_ledger(url: str, home: Path) -> Engine:
    """An engine for a ledger that has its tables, in this version. Raises LedgerError where it is a newer one's."""
    engine = engine_of(url, home)
    with engine.begin() as db:
        if db.dialect.name == "postgresql":
            db.execute(text("SELECT pg_advisory_xact_lock(7305)"))  # two hosts that start at once
        metadata.create_all(db)
        found = _version(db)
        if found is None:
            db.execute(meta.insert().values(name="version", value=VERSION))
            _fix(db)
        elif found != VERSION:
            _migrate(db, found)
    return engine


def current(engine: Engine) -> None:
    """Raises LedgerError unless the ledger, opened for reading, is of this version."""
    with engine.connect() as db:
        found = _version(db)
    if found in STEPS:
        raise LedgerError(
            f"the ledger is of version {found}, this program reads version {VERSION}: "
            "`weir serve` brings it there when it starts; keep a copy if you may want to go back"
        )
    if found != VERSION:
        raise LedgerError(_foreign(found))


def _migrate(db: Connection, found: str) -> None:
    version = found
    while version != VERSION:
        if version not in STEPS:
            raise LedgerError(_foreign(found))
        version = STEPS[version](db)
    db.execute(meta.update().where(meta.c.name == "version").values(value=version))


def _version(db: Connection) -> str | None:
    found: str | None = db.scalar(select(meta.c.value).where(meta.c.name == "version"))
    return found


def _foreign(found: str | None) -> str:
    return (
        f"the ledger is of version {found}, this program knows up to {VERSION}: "
        "run the version of Weir that made it, or name another one as `ledger`"
    )


def _fix(db: Connection) -> None:
    """Rows can't be changed, not even by hand without dropping a trigger first."""
    if db.dialect.name == "postgresql":
        db.execute(
            text(
                "CREATE OR REPLACE FUNCTION weir_fixed() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'the rows of the ledger are append-only'; END $$"
            )
        )
    for table in _FIXED:
        if db.dialect.name == "postgresql":
            what = "FOR EACH ROW EXECUTE FUNCTION weir_fixed()"
        else:
            what = "BEGIN SELECT RAISE(ABORT, 'the rows of the ledger are append-only'); END"
        db.execute(text(f"CREATE TRIGGER {table.name}_fixed BEFORE UPDATE ON {table.name} {what}"))
