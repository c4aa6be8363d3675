"""From the journal into the ledger: each record once, in transactions that also say how far they came.

Rules:
1. The offsets of the segments move in the same transaction as the rows, the roll-ups and the block of the chain. So a
   process that is killed anywhere loses nothing and counts nothing twice, and two that ingest at once can't both
   succeed with the same records.
2. An event is known by (exchange, attempt, event): one that is told again, in a copied segment or in a worker's stead,
   changes nothing. One exception: what the worker itself told beats what was estimated in its stead; then the estimate
   is reversed and corrected.
3. An attempt that was sent and not settled is *open*. Once its process has gone, all it wrote was read, and `grace_s`
   passed in which the state process might have settled it, it is settled here by its estimate.
4. A record that happened in a closed month becomes an adjustment in the first open quarter hour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine

from proxy.ledger import chain, reading, rollups, rows, spool
from proxy.ledger.closing import Watermark, watermark
from proxy.ledger.labels import Accounts, Labels
from proxy.ledger.lookup import reserved_of
from proxy.ledger.reading import Batch, Key
from proxy.ledger.records import Reserved, Settled, decode_reserved, decode_savings, encode, whole
from proxy.ledger.rows import Row, ToldBy
from proxy.ledger.tables import attempts, dimensions, exchanges, open_attempts, savings

GRACE_S: Final = 60.0
_QUIET_NS: Final = 30 * 60 * 10**9  # a segment without records for so long isn't that of a process that has attempts


class Moved(Exception):  # noqa: N818
    """Somebody else has ingested some of the same records: nothing was written, look again."""


@dataclass(slots=True)
class Done:
    """What a step did."""

    events: int = 0
    rows: int = 0
    duplicates: int = 0
    corrections: int = 0
    resolved: int = 0
    rejected: list[bytes] = field(default_factory=list)
    torn: list[Path] = field(default_factory=list)
    caught_up: bool = False


class Ingest:
    """Takes in the journal of one home directory. Blocking: for one thread. A step that raises has changed nothing."""

    def __init__(
        self,
        engine: Engine,
        home: Path,
        accounts: Accounts | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
        batch_bytes: int = reading.BATCH_BYTES,
        grace_s: float = GRACE_S,
    ) -> None:
        self.host = spool.host_id(home)
        self.offsets: dict[str, int] = {}
        self._engine = engine
        self._home = home
        self._labels = Labels(accounts or Accounts())
        self._clock = clock
        self._batch_bytes = batch_bytes
        self._grace_ns = int(grace_s * 1e9)
        self._prefixes: dict[str, str] = {}
        self._gone: dict[str, int] = {}  # prefix -> when its process was first seen to have gone
        self._begun = False
        self._sql = _Statements(engine.dialect.name)

    def adopt(self, accounts: Accounts) -> None:
        """What the files say now holds for what comes next."""
        self._labels.reload(accounts)

    def step(self) -> Done:
        """Takes in the next batch. Raises what the database raises, or Moved."""
        try:
            return self._step()
        except BaseException:
            self._begun = False  # offsets and labels are what the database says
            self._labels.forget()
            raise

    def _step(self) -> Done:
        if not self._begun:
            self._begin()
        found = reading.look(self._home, self.offsets, self._clock(), self._batch_bytes)
        done = Done(caught_up=found.caught_up, torn=found.torn)
        if found.pieces:
            self._take(found.pieces, done)
        if found.caught_up:
            self._resolve(done)
        return done

    def _begin(self) -> None:
        query = self._sql.mark('SELECT name, "offset", prefix FROM segments WHERE host = ?')
        with self._engine.connect() as db:
            known = db.exec_driver_sql(query, (self.host,)).fetchall()
        self.offsets = {name: offset for name, offset, _ in known}
        self._prefixes = {name: prefix for name, _, prefix in known if prefix}
        self._begun = True

    def _take(self, pieces: list[spool.Piece], done: Done) -> None:
        batch = Batch()
        told = [(piece, *batch.add(piece)) for piece in pieces]
        with self._engine.begin() as db:
            head = chain.head(db)
            for piece, last_ns, prefix in told:
                self._move(db, piece, last_ns, prefix)
            self._booking(db, head).book(batch, done)
        self._labels.new.clear()
        for piece, _, prefix in told:
            self.offsets[piece.segment.name] = piece.end
            if prefix:
                self._prefixes[piece.segment.name] = prefix
        done.events += batch.events
        done.rejected += batch.rejected

    def _booking(self, db: Connection, head: chain.Head) -> _Booking:
        return _Booking(db, self._sql, self._labels, self.host, watermark(db), head, self._clock())

    def _move(self, db: Connection, piece: spool.Piece, last_ns: int | None, prefix: str | None) -> None:
        where = (self.host, piece.segment.name)
        if piece.start == 0:
            db.exec_driver_sql(self._sql.begin_segment, where)
        moved = db.exec_driver_sql(self._sql.move_segment, (piece.end, last_ns, prefix, *where, piece.start))
        if moved.rowcount != 1:
            raise Moved(piece.segment.name)

    # --- attempts of processes that have gone

    def _resolve(self, done: Done) -> None:
        query = self._sql.mark("SELECT segment, record FROM open_attempts WHERE host = ?")
        with self._engine.connect() as db:
            waiting = db.exec_driver_sql(query, (self.host,)).fetchall()
        standing = [(segment, decode_reserved(record)) for segment, record in waiting]
        gone = self._gone_long({(segment, one.exchange[: reading.PREFIX]) for segment, one in standing})
        batch = Batch()
        batch.settled = [(_estimated(one), "ledger") for _, one in standing if one.exchange[: reading.PREFIX] in gone]
        if not batch.settled:
            return
        with self._engine.begin() as db:
            self._booking(db, chain.head(db)).book(batch, done)
        self._labels.new.clear()
        done.resolved += len(batch.settled)

    def _gone_long(self, open_in: Iterable[tuple[str, str]]) -> set[str]:
        """The prefixes of processes that have been gone for the time of grace."""
        now_ns, segments = self._clock(), spool.listing(self._home)
        used = [segment for segment in segments if spool.in_use(segment, now_ns)]
        gone = set()
        for name, prefix in open_in:
            writer = name.removesuffix(".journal").partition("-")[2]
            if any(segment.writer == writer and self._may_be(segment, prefix, now_ns) for segment in used):
                self._gone.pop(prefix, None)
            elif now_ns - self._gone.setdefault(prefix, now_ns) >= self._grace_ns:
                gone.add(prefix)
        return gone

    def _may_be(self, segment: spool.Segment, prefix: str, now_ns: int) -> bool:
        """Whether a segment in use may be of the process with this prefix."""
        own = self._prefixes.get(segment.name)
        return own == prefix if own else now_ns - segment.started_ns < _QUIET_NS


def _estimated(reserved: Reserved) -> Settled:
    """What stands for the word of a worker that died: the whole of what was estimated, when it was sent."""
    estimate = reserved.estimate
    return Settled(
        at=reserved.at,
        exchange=reserved.exchange,
        attempt=reserved.attempt,
        worker=reserved.worker,
        outcome="lost",
        tokens={"input_tokens": estimate.input_tokens or 0, "output_tokens": estimate.n * (estimate.output_cap or 0)},
        nanodollars=estimate.nanodollars,
        known="estimated" if estimate.nanodollars is not None else "unpriced",
        error="worker_died",
    )


_RATE: Final = (
    "INSERT INTO feedback (exchange, rater, at_ns, tenant, org, team, project, endpoint, asked, served, rating,"
    " comment, decisions) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (exchange, rater) DO UPDATE SET"
    " at_ns = excluded.at_ns, rating = excluded.rating, comment = excluded.comment"
    " WHERE excluded.at_ns >= feedback.at_ns"
)


class _Statements:
    """The statements that go straight to the driver."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.attempt = rows.insert(attempts, dialect)
        self.exchange = rows.insert(exchanges, dialect)
        self.saving = rows.insert(savings, dialect)
        self.dimension = rows.insert(dimensions, dialect, ignore=True)
        self.open = rows.insert(open_attempts, dialect, ignore=True)
        self.settle = self.mark("DELETE FROM open_attempts WHERE exchange = ? AND attempt = ?")
        self.rate = self.mark(_RATE)
        self.begin_segment = self.mark(
            'INSERT INTO segments (host, name, "offset") VALUES (?, ?, 0) ON CONFLICT DO NOTHING'
        )
        self.move_segment = self.mark(
            'UPDATE segments SET "offset" = ?, last_ns = COALESCE(?, last_ns), prefix = COALESCE(?, prefix)'
            ' WHERE host = ? AND name = ? AND "offset" = ?'
        )
        among = "= ANY(%s)" if dialect == "postgresql" else "IN (SELECT value FROM json_each(?))"
        self.known = f"SELECT exchange, attempt, version, told_by FROM attempts WHERE exchange {among}"  # noqa: S608
        self.ended = f"SELECT exchange FROM exchanges WHERE exchange {among}"  # noqa: S608
        self.waiting = f"SELECT exchange, attempt, record FROM open_attempts WHERE exchange {among}"  # noqa: S608

    def mark(self, statement: str) -> str:
        """With the driver's own marks."""
        return statement.replace("?", "%s") if self.dialect == "postgresql" else statement

    def among(self, ids: Iterable[str]) -> tuple[Any]:
        """The argument of a statement that asks for many."""
        return ([*ids],) if self.dialect == "postgresql" else (encode([*ids]).decode(),)


class _Booking:
    """One transaction's rows."""

    def __init__(
        self,
        db: Connection,
        sql: _Statements,
        labels: Labels,
        host: str,
        closed: Watermark,
        head: chain.Head,
        now_ns: int,
    ) -> None:
        self._db, self._sql, self._labels, self._host = db, sql, labels, host
        self._closed, self._head, self._now_ns = closed, head, now_ns
        self._attempts: list[Row] = []
        self._known: dict[Key, tuple[int, str]] = {}
        self._open: dict[Key, Reserved] = {}
        self._over: list[Key] = []

    def book(self, batch: Batch, done: Done) -> None:
        """Writes everything that a batch tells."""
        self._ask(batch)
        for settled, told_by in batch.settled:
            self._settle(batch, settled, told_by, done)
        ended = self._ended(batch, done)
        saved = self._saved(batch, ended)
        exchange_rows = [row for row, _ in ended]
        self._write(exchange_rows, saved)
        done.rows += len(self._attempts) + len(exchange_rows) + len(saved)
        self._keep_open(batch)
        if batch.rated:
            self._db.exec_driver_sql(self._sql.rate, [rows.rated(one) for one in batch.rated])

    def _ask(self, batch: Batch) -> None:
        """What the ledger knows of these attempts already."""
        mentioned = {exchange for exchange, _ in batch.reserved}
        settled = {one.exchange for one, _ in batch.settled}
        if not mentioned and not settled:
            return
        asked = self._sql.among(mentioned | settled)
        for exchange, attempt, version, told_by in self._db.exec_driver_sql(self._sql.known, asked):
            have = self._known.get((exchange, attempt))
            if have is None or have[0] < version:
                self._known[exchange, attempt] = version, told_by
        elsewhere = {one.exchange for one, _ in batch.settled if (one.exchange, one.attempt) not in batch.reserved}
        if elsewhere:
            for exchange, attempt, record in self._db.exec_driver_sql(self._sql.waiting, self._sql.among(elsewhere)):
                self._open[exchange, attempt] = decode_reserved(record)

    def _settle(self, batch: Batch, settled: Settled, told_by: ToldBy, done: Done) -> None:
        key = settled.exchange, settled.attempt
        known = self._known.get(key)
        if known is not None:
            if told_by == "worker" and known[1] != "worker":
                self._correct(settled, known[0], done)
            else:
                done.duplicates += 1
            return
        if (here := batch.reserved.get(key)) is not None:
            reserved = here[0]
        elif (reserved_before := self._open.get(key)) is not None:
            reserved = reserved_before
            self._over.append(key)
        else:  # what announced it is lost; what it cost isn't
            reserved = Reserved(at=0, exchange=settled.exchange, attempt=settled.attempt, worker=settled.worker)
        dimension = self._labels.of_attempt(reserved, settled)
        self._add(reserved, settled, dimension, told_by)
        self._known[key] = 0, told_by

    def _add(self, reserved: Reserved, settled: Settled, dimension: int, told_by: ToldBy) -> None:
        closed = self._closed
        row = rows.attempt(
            self._next(), reserved, settled, dimension, told_by, closed.quarter, closed.month_of(settled.at)
        )
        self._attempts.append(row)

    def _correct(self, settled: Settled, version: int, done: Done) -> None:
        """The worker's own word, after an estimate was booked in its stead."""
        key = settled.exchange, settled.attempt
        row = next((r for r in self._attempts if (r[1], r[2]) == key and r[3] == version), None)
        reserved, stored = reserved_of(self._db, *key, version)
        why, closed = "told by the worker later", self._closed.quarter
        self._attempts.append(rows.reversal(self._next(), row or stored, closed, why))
        dimension = self._labels.of_attempt(reserved, settled)
        self._attempts.append(
            rows.attempt(
                self._next(), reserved, settled, dimension, "worker", closed, why, version + 2, entry="correction"
            )
        )
        self._known[key] = version + 2, "worker"
        done.corrections += 1

    def _next(self) -> int:
        return self._head.last_seq + len(self._attempts) + 1

    def _ended(self, batch: Batch, done: Done) -> list[tuple[Row, bytes]]:
        if not batch.ended:
            return []
        asked = self._sql.among({one.exchange for one in batch.ended})
        known = {exchange for (exchange,) in self._db.exec_driver_sql(self._sql.ended, asked)}
        found: list[tuple[Row, bytes]] = []
        seq = self._next()
        closed = self._closed
        for one in batch.ended:
            if one.exchange in known:
                done.duplicates += 1
                continue
            known.add(one.exchange)
            dimension = self._labels.of_exchange(one)
            row = rows.exchange(seq + len(found), one, dimension, closed.quarter, closed.month_of(one.at))
            found.append((row, bytes(one.savings)))
        return found

    def _saved(self, batch: Batch, ended: list[tuple[Row, bytes]]) -> list[Row]:
        found: list[Row] = []
        for row, raw in ended:
            if raw != b"[]":
                found += rows.savings(self._next() + len(ended) + len(found), decode_savings(raw), row)
        return found

    def _write(self, exchange_rows: list[Row], saved: list[Row]) -> None:
        db, sql = self._db, self._sql
        count = len(self._attempts) + len(exchange_rows) + len(saved)
        if self._labels.new:
            db.exec_driver_sql(sql.dimension, [(id, *values) for id, values in self._labels.new.items()])
        if not count:
            return
        rows.write(db, attempts, self._attempts, sql.attempt)
        rows.write(db, exchanges, exchange_rows, sql.exchange)
        rows.write(db, savings, saved, sql.saving)
        kinds = [0, *([1] if saved else []), *([2] if any(row[-1] for row in exchange_rows) else [])]
        rollups.add(db, self._head.last_seq + 1, self._head.last_seq + count, tuple(kinds))
        quarters = [row[7] for row in self._attempts] + [row[4] for row in exchange_rows]
        digest = chain.digest_of(self._attempts, exchange_rows, saved)
        chain.append(db, self._head, "rows", self._now_ns, digest, count, min(quarters), max(quarters))

    def _keep_open(self, batch: Batch) -> None:
        db = self._db
        if self._over:
            db.exec_driver_sql(self._sql.settle, self._over)
        still = [
            (*key, self._host, segment, whole(record.at), payload.decode())
            for key, (record, segment, payload) in batch.reserved.items()
            if key not in self._known
        ]
        if still:
            db.exec_driver_sql(self._sql.open, still)
