"""Records become rows: tuples in the order of the tables' columns, and the statements that insert them.

Rules: pure. What was settled for a worker that died is `estimated`, whoever says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Connection, Table

from proxy.ledger.records import (
    ARMS,
    Ended,
    Rated,
    Reserved,
    Saving,
    Settled,
    clean,
    decode_decisions,
    encode,
    whole,
)
from proxy.ledger.tables import QUARTER_S, attempts, exchanges

ToldBy = Literal["worker", "state", "ledger"]
Row = tuple[Any, ...]
QUARTER_NS: Final = QUARTER_S * 10**9
_COLUMN: Final = {column.name: index for index, column in enumerate(attempts.columns)}
QUARTER: Final = _COLUMN["quarter"]
_TOKENS: Final = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
_POLICIES_HASH: Final = [column.name for column in exchanges.columns].index("policies_hash")
_ARMS: Final = tuple(f'"{arm}"'.encode() for arm in ARMS)
_NEGATED: Final = tuple(_COLUMN[name] for name in (*_TOKENS, "nanodollars"))


def insert(table: Table, dialect: str, *, ignore: bool = False) -> str:
    """The statement that inserts whole rows, for the driver's own executemany."""
    mark = "%s" if dialect == "postgresql" else "?"
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    marks = ", ".join([mark] * len(table.columns))
    return f"INSERT INTO {table.name} ({names}) VALUES ({marks})" + (" ON CONFLICT DO NOTHING" if ignore else "")  # noqa: S608


def write(db: Connection, table: Table, rows: Sequence[Row], statement: str) -> None:
    """Inserts whole rows: by COPY where there is such a thing, else by `statement`."""
    if not rows:
        return
    if db.dialect.name != "postgresql":
        db.exec_driver_sql(statement, [*rows])
        return
    driver: Any = db.connection.driver_connection
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def attempt(
    seq: int,
    reserved: Reserved,
    settled: Settled,
    dimension: int,
    told_by: ToldBy,
    closed: int,
    reference: str | None,
    version: int = 0,
    entry: str = "use",
) -> Row:
    """The row of an attempt. `closed` is the first open quarter; `reference` tells which month it was late for."""
    quarter = settled.at // QUARTER_NS
    if quarter < closed:
        quarter, entry = closed, "adjustment" if entry == "use" else entry
    elif entry == "use":
        reference = None
    tokens = settled.used  # what is counted; as JSON stands what was told
    usage = bytes(settled.usage)
    estimate = reserved.estimate
    return (
        seq,
        settled.exchange,
        settled.attempt,
        version,
        entry,
        reference,
        dimension,
        quarter,
        settled.at,
        reserved.at or None,
        reserved.parent,
        None if usage == b"null" else usage.decode("utf-8", "replace"),
        encode(settled.tokens).decode(),
        whole(tokens.get("input_tokens")),
        whole(tokens.get("output_tokens")),
        whole(tokens.get("cached_tokens")),
        whole(tokens.get("cache_write_tokens")),
        whole(tokens.get("reasoning_tokens")),
        _amount(settled.nanodollars),
        settled.cards or "",
        settled.ttft_ns,
        settled.total_ns,
        settled.outcome,
        settled.status,
        settled.error,
        clean(settled.upstream_request_id),
        settled.worker,
        told_by,
        estimate.input_tokens,
        estimate.output_cap,
        estimate.nanodollars,
        clean(reserved.policies_hash) or None,
    )


def _amount(nanodollars: int | None) -> int | None:
    """An amount that no database can hold isn't known."""
    return nanodollars if nanodollars is None or -(2**62) < nanodollars < 2**62 else None


def reversal(seq: int, row: Row, closed: int, reference: str) -> Row:
    """The row that takes another back: amounts and tokens negated, in the same quarter unless that is closed."""
    values = list(row)
    for index in _NEGATED:
        if values[index] is not None:
            values[index] = -values[index]
    values[_COLUMN["seq"]] = seq
    values[_COLUMN["version"]] += 1
    values[_COLUMN["entry"]] = "reversal"
    values[_COLUMN["reference"]] = reference
    values[_COLUMN["quarter"]] = max(values[_COLUMN["quarter"]], closed)
    return tuple(values)


def corrected(seq: int, row: Row, closed: int, reference: str, nanodollars: int | None, dimension: int) -> Row:
    """The row that says what is so after `row` was reversed, where only its amount was wrong."""
    values = list(row)
    values[_COLUMN["seq"]] = seq
    values[_COLUMN["version"]] += 2
    values[_COLUMN["entry"]] = "correction"
    values[_COLUMN["reference"]] = reference
    values[_COLUMN["quarter"]] = max(values[_COLUMN["quarter"]], closed)
    values[_COLUMN["nanodollars"]] = nanodollars
    values[_COLUMN["dimension"]] = dimension
    return tuple(values)


def exchange(seq: int, ended: Ended, dimension: int, closed: int, reference: str | None) -> Row:
    """The row of an exchange."""
    quarter = ended.at // QUARTER_NS
    late = quarter < closed
    decisions = bytes(ended.decisions)
    return (
        seq,
        ended.exchange,
        reference if late else None,
        dimension,
        closed if late else quarter,
        ended.at,
        ended.parent,
        ended.worker,
        ended.status,
        ended.outcome,
        ended.attempts,
        ended.total_ns,
        _amount(ended.nanodollars),
        ended.saved_nanodollars,
        ended.policies_hash,
        decisions.decode("utf-8", "replace"),
        arms(decisions),
    )


def arms(decisions: bytes) -> str | None:
    """Policy -> group, of the policies that keep a control group; JSON."""
    if not any(arm in decisions for arm in _ARMS):
        return None
    found = {one.policy: one.action for one in decode_decisions(decisions) if one.action in ARMS}
    return msgspec.json.encode(found, order="sorted").decode() if found else None


def rated(one: Rated) -> tuple[Any, ...]:
    """The row of a rating."""
    about = (one.tenant, one.org, one.team, one.project, one.endpoint, one.asked, one.served)
    said = (one.rating, clean(one.comment), bytes(one.decisions).decode())
    return clean(one.exchange), one.key or "", whole(one.at), *map(clean, about), *said


def savings(first_seq: int, found: Iterable[Saving], of: Row) -> list[Row]:
    """The rows of an exchange's savings; `of` is its row."""
    _, exchange_id, reference, dimension, quarter, at_ns, *_, groups = of
    group: dict[str, str] = msgspec.json.decode(groups) if groups else {}
    return [
        (
            first_seq + number,
            exchange_id,
            number,
            reference,
            dimension,
            quarter,
            at_ns,
            clean(one.policy),
            whole(one.nanodollars),
            clean(one.model),
            encode(one.tokens).decode(),
            whole(one.tokens.get("input_tokens")),
            whole(one.tokens.get("output_tokens")),
            one.known,
            group.get(one.policy),
            of[_POLICIES_HASH],
        )
        for number, one in enumerate(found)
    ]
