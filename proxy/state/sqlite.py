"""The state file: what the core decided, written down in SQLite, and read back at the next start.

Rules:
1. One process owns a file (`proxy.state.process` holds a lock); the core in its memory is the truth, the file what a
   restart finds. `write` appends all that changed to its tail (`proxy.state.tail`), before anybody is told of it.
2. A killed process loses nothing that was answered; a power cut may lose the last moments before it. Nobody waits for
   the disk: `checkpoint`, in a thread of its own, carries the tail over into the database, waits until that is safe,
   and drops the tail. What is left of a tail is carried over at the next start. Rows are whole and absolute, so that
   carrying them over twice changes nothing.
3. Blobs stand in a file of their own and are read from it: they are large, and their writing must not delay a
   reservation.
4. A file that can't be read isn't replaced: budgets would begin again at zero. Opening fails, saying so.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from proxy.state.blobs import CACHED, check
from proxy.state.core import Core
from proxy.state.protocol import Standing
from proxy.state.tail import Tail

_VERSION: Final = 1
_TABLES: Final = """
create table if not exists counters (key text primary key, kept blob not null) without rowid;
create table if not exists holds (id text primary key, kept blob not null) without rowid;
create table if not exists closed (id text primary key, at_ns integer not null) without rowid;
create table if not exists rates (key text primary key, whole_at_ns integer not null) without rowid;
create table if not exists claims (duty text primary key, owner text not null, until_ns integer not null) without rowid;
create table if not exists feed (position integer primary key, topic text not null, at_ns integer not null,
    message blob not null);
create index if not exists feed_topic on feed (topic, position);
"""
_BLOB_TABLES: Final = """
create table if not exists blobs (number integer primary key, key text not null unique, until_ns integer not null,
    value blob not null);
create index if not exists blobs_until on blobs (until_ns);
create table if not exists tags (tag text not null, number integer not null references blobs on delete cascade,
    primary key (tag, number)) without rowid;
create index if not exists tags_number on tags (number);
"""

# Ranges of keys, so that the index serves: all that begin so come before what begins with the next character.
_CACHED: Final = " or ".join(f"key >= '{name}' and key < '{name[:-1]}{chr(ord(name[-1]) + 1)}'" for name in CACHED)

_encode: Final = msgspec.msgpack.Encoder().encode
_counter: Final = msgspec.msgpack.Decoder(tuple[int, int, int, list[list[int]]]).decode
_standing: Final = msgspec.msgpack.Decoder(Standing).decode

Change = tuple[str, list[tuple[Any, ...]], list[str | int]]
"""Of a table: rows that are so now, and the keys of those that are gone. A row's key stands first in it."""
_changes: Final = msgspec.msgpack.Decoder(list[Change]).decode
_KEYS: Final = {
    "counters": "key",
    "holds": "id",
    "closed": "id",
    "rates": "key",
    "claims": "duty",
    "feed": "position",
}


class _Unfiled:
    """What is in the tail and not yet in the database: by table and key, the row, or None for one that is gone."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str | int, tuple[Any, ...] | None]] = {}

    def add(self, changes: Sequence[Change]) -> None:
        """What came later counts."""
        for table, rows, gone in changes:
            found = self.tables.setdefault(table, {})
            found.update([(row[0], row) for row in rows])
            found.update(dict.fromkeys(gone))

    def before(self, later: _Unfiled) -> None:
        """What came before these, where they say nothing else."""
        for table, found in self.tables.items():
            later.tables[table] = {**found, **later.tables.get(table, {})}

    def file(self, database: sqlite3.Connection) -> None:
        """All of it, in one transaction."""
        database.execute("begin immediate")
        try:
            for table, found in self.tables.items():
                _put(database, table, [row for row in found.values() if row is not None])
                _drop(database, table, _KEYS[table], [key for key, row in found.items() if row is None])
            database.execute("commit")
        except BaseException:
            if database.in_transaction:
                database.execute("rollback")
            raise


def _open(path: Path | str, tables: str) -> sqlite3.Connection:
    # One thread at a time uses a connection, but not always the one that opened it.
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode=wal", "synchronous=normal", "foreign_keys=on", "journal_size_limit=16777216"):
            database.execute(f"pragma {pragma}")
        (version,) = database.execute("pragma user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"{path} is of version {version}; this program writes version {_VERSION}")
        database.executescript(tables)
        database.execute(f"pragma user_version={_VERSION}")
    except BaseException:
        database.close()
        raise
    return database


class StateFile:
    """What of a `Core` is kept. `load` it once, then `write` after each batch of changes."""

    def __init__(self, path: Path | str) -> None:
        self._database = _open(path, _TABLES)
        self._database.execute("pragma wal_autocheckpoint=0")
        self._database.execute("pragma synchronous=full")  # what is in the database may be dropped from the tail
        self._unfiled = _Unfiled()
        self._swapping = threading.Lock()  # of the tail and what is unfiled: held for moments
        self._tail: Tail | None = None
        if str(path) != ":memory:":
            self._tail = Tail(Path(path))
            for record in self._tail.read():
                self._unfiled.add(_changes(record))
            self.checkpoint()

    def load(self, core: Core) -> None:
        """Brings a new core to where the last one was."""
        execute, book = self._database.execute, core.book
        for id, kept in execute("select id, kept from holds"):
            book.restore(id, _standing(kept))
        for key, kept in execute("select key, kept from counters"):
            book.counters.restore(key, *_counter(kept))
        book.closed.update(execute("select id, at_ns from closed order by at_ns"))
        core.rates.whole_at.update(execute("select key, whole_at_ns from rates"))
        for duty, owner, until_ns in execute("select duty, owner, until_ns from claims"):
            core.duties.held[duty] = (owner, until_ns)
        for position, topic, at_ns, message in execute("select position, topic, at_ns, message from feed order by 1"):
            core.topics.restore(position, topic, at_ns, message)
        core.changes.clear()

    def write(self, core: Core) -> None:
        """All that changed, at once. Raises OSError; then nothing is written and nothing cleared."""
        if not core.changes:
            return
        changes = [change for change in (*_of_holds(core), *_of_the_rest(core)) if change[1] or change[2]]
        with self._swapping:
            if self._tail is not None:
                self._tail.append(_encode(changes))
            self._unfiled.add(changes)
        core.changes.clear()
        if self._tail is None:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Carries the tail over into the database, which waits for the disk: to be called in another thread.

        Raises OSError or sqlite3.Error; then the tail stays, and is carried over the next time.
        """
        begun = None if self._tail is None else self._tail.next()
        with self._swapping:
            unfiled, self._unfiled = self._unfiled, _Unfiled()
            done = self._tail.cut(begun) if self._tail is not None and begun is not None else []
        try:
            unfiled.file(self._database)
        except BaseException:
            with self._swapping:
                unfiled.before(self._unfiled)
            raise
        self._database.execute("pragma wal_checkpoint(passive)")
        with self._swapping:
            if self._tail is not None:
                self._tail.drop(done)

    def close(self) -> None:
        """Carries over what is left, and lets go of the file."""
        try:
            self.checkpoint()
            if self._tail is not None:
                self._tail.close()
        finally:
            self._database.close()


def _of_holds(core: Core) -> list[Change]:
    changes, book = core.changes, core.book
    counters = [(key, book.counters.get(key)) for key in changes.counters]
    holds = [(id, book.holds.get(id)) for id in changes.holds]
    return [
        (
            "counters",
            [(key, _encode(one.kept())) for key, one in counters if one is not None],
            [key for key, one in counters if one is None],
        ),
        (
            "holds",
            [(id, _encode(one.standing(id))) for id, one in holds if one is not None],
            [id for id, one in holds if one is None],
        ),
        ("closed", list(changes.closed.items()), [*changes.forgotten]),
    ]


def _of_the_rest(core: Core) -> list[Change]:
    changes, whole_at, held = core.changes, core.rates.whole_at, core.duties.held
    return [
        (
            "rates",
            [(key, whole_at[key]) for key in changes.rates if key in whole_at],
            [key for key in changes.rates if key not in whole_at],
        ),
        (
            "claims",
            [(duty, *held[duty]) for duty in changes.claims if duty in held],
            [duty for duty in changes.claims if duty not in held],
        ),
        ("feed", list(changes.told), [*changes.untold]),
    ]


def _put(database: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        database.executemany(f"insert or replace into {table} values ({marks})", rows)  # noqa: S608


def _drop(database: sqlite3.Connection, table: str, column: str, keys: Sequence[str | int]) -> None:
    if keys:
        database.executemany(f"delete from {table} where {column} = ?", [(key,) for key in keys])  # noqa: S608


class SqliteShelf:
    """Blobs in a file (`proxy.state.blobs.Shelf`); at most `most_bytes` of what caches hold, the oldest go first."""

    def __init__(self, path: Path | str, most_bytes: int = 2**30) -> None:
        self._database = _open(path, _BLOB_TABLES)
        self._most_bytes = most_bytes

    def get(self, key: str, now_ns: int) -> bytes | None:
        """The value, unless its time is over."""
        query = "select value from blobs where key = ? and until_ns > ?"
        found: tuple[bytes] | None = self._database.execute(query, (key, now_ns)).fetchone()
        return None if found is None else found[0]

    def put(self, key: str, value: bytes, until_ns: int, tags: Sequence[str]) -> None:
        """Keeps or replaces a value."""
        check(value)
        database = self._database
        with database:
            database.execute("begin immediate")
            database.execute("delete from blobs where key = ?", (key,))
            insert = "insert into blobs (key, until_ns, value) values (?, ?, ?)"
            number = database.execute(insert, (key, until_ns, value)).lastrowid
            if tags:
                database.executemany("insert into tags values (?, ?)", [(tag, number) for tag in set(tags)])

    def delete(self, keys: Sequence[str], now_ns: int) -> int:
        """Forgets values; how many there were."""
        return sum(
            self._database.execute("delete from blobs where key = ? and until_ns > ?", (key, now_ns)).rowcount
            for key in keys
        )

    def delete_tagged(self, tag: str, now_ns: int) -> int:
        """Forgets values by tag; how many there were."""
        query = "delete from blobs where number in (select number from tags where tag = ?) and until_ns > ?"
        return self._database.execute(query, (tag, now_ns)).rowcount

    def keys(self, prefix: str, limit: int, now_ns: int) -> list[str]:
        """Keys that begin so, in order."""
        query = "select key from blobs where key >= ? and substr(key, 1, ?) = ? and until_ns > ? order by key limit ?"
        return [key for (key,) in self._database.execute(query, (prefix, len(prefix), prefix, now_ns, limit))]

    def forget(self, now_ns: int) -> None:
        """Drops what is over, and the oldest of what is too much."""
        execute = self._database.execute
        execute("delete from blobs where until_ns <= ?", (now_ns,))
        (total,) = execute(f"select coalesce(sum(length(value)), 0) from blobs where {_CACHED}").fetchone()  # noqa: S608
        oldest = f"select number, length(value) from blobs where {_CACHED} order by number limit 1"  # noqa: S608
        while total > self._most_bytes:
            number, size = execute(oldest).fetchone()
            execute("delete from blobs where number = ?", (number,))
            total -= size

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()
