"""Roll-ups: sums of the rows by quarter hour and by day, made by the database itself.

Rules: one SELECT says what a roll-up is; `add` puts it on top for the rows of a transaction, `differences` compares it
with what stands there. So a roll-up can't mean one thing when it is written and another when it is verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Table

from proxy.ledger.tables import ARM, MEASURES, QUARTERS_A_DAY, ROLL_UPS, SAVED

_SIGN: Final = "(CASE WHEN entry = 'reversal' THEN -1 ELSE 1 END)"  # its amounts are negative already

_ATTEMPTS: Final = {
    "attempts": f"SUM({_SIGN})",
    "attempts_failed": f"SUM(CASE WHEN outcome = 'failed' THEN {_SIGN} ELSE 0 END)",
    "unpriced": f"SUM(CASE WHEN nanodollars IS NULL THEN {_SIGN} ELSE 0 END)",
    "input_tokens": "SUM(input_tokens)",
    "output_tokens": "SUM(output_tokens)",
    "cached_tokens": "SUM(cached_tokens)",
    "cache_write_tokens": "SUM(cache_write_tokens)",
    "reasoning_tokens": "SUM(reasoning_tokens)",
    "nanodollars": "COALESCE(SUM(nanodollars), 0)",
    "ttft_ns": f"COALESCE(SUM({_SIGN} * ttft_ns), 0)",
    "ttfts": f"SUM(CASE WHEN ttft_ns IS NULL THEN 0 ELSE {_SIGN} END)",
    "total_ns": f"SUM({_SIGN} * total_ns)",
}
_EXCHANGES: Final = {
    "exchanges": "COUNT(*)",
    "exchanges_failed": "SUM(CASE WHEN status >= 400 OR status = 0 THEN 1 ELSE 0 END)",
    "exchange_ns": "SUM(total_ns)",
}
_SAVINGS: Final = {
    "savings": "COUNT(*)",
    "nanodollars": "SUM(nanodollars)",
    "input_tokens": "SUM(input_tokens)",
    "output_tokens": "SUM(output_tokens)",
}
_ARMS: Final = {
    "exchanges": "COUNT(*)",
    "nanodollars": "COALESCE(SUM(nanodollars), 0)",
    "squares": "COALESCE(SUM((nanodollars / 10000) * (nanodollars / 10000)), 0)",
}
_ARM_ROWS: Final = {
    "sqlite": "exchanges, json_each(exchanges.arms) AS a",
    "postgresql": "exchanges, json_each_text(exchanges.arms::json) AS a(key, value)",
}


class Source(NamedTuple):
    """What a roll-up sums: `keys` as (column of the roll-up, what it is of the rows)."""

    rows: str
    keys: tuple[tuple[str, str], ...]
    sums: dict[str, str]
    measures: tuple[str, ...]
    where: str = ""


def _sources(kind: int, dialect: str) -> tuple[Source, ...]:
    if kind == 0:
        return (
            Source("attempts", (), _ATTEMPTS, MEASURES),
            Source("exchanges", (), _EXCHANGES, MEASURES),
        )
    if kind == 1:
        return (Source("savings", (("policy", "policy"), ("model", "model"), ("known", "known")), _SAVINGS, SAVED),)
    keys = (("policy", "a.key"), ("arm", "a.value"))
    return (Source(_ARM_ROWS[dialect], keys, _ARMS, ARM, " AND exchanges.arms IS NOT NULL"),)


def _select(source: Source, by_day: bool) -> str:
    period = f"quarter / {QUARTERS_A_DAY}" if by_day else "quarter"
    keys = [period, "dimension", *(of for _, of in source.keys)]
    sums = [source.sums.get(measure, "0") for measure in source.measures]
    numbers = ", ".join(str(1 + index) for index in range(len(keys)))
    return f"SELECT {', '.join([*keys, *sums])} FROM {source.rows} WHERE {{}}{source.where} GROUP BY {numbers}"  # noqa: S608  # names of ours


def _columns(table: Table) -> tuple[list[str], list[str]]:
    keys = [column.name for column in table.primary_key]
    return keys, [column.name for column in table.columns if column.name not in keys]


def _upsert(table: Table, source: Source, by_day: bool) -> str:
    keys, measures = _columns(table)
    changed = [measure for measure in measures if measure in source.sums]
    sets = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in changed)
    names = ", ".join([*keys, *measures])
    select = _select(source, by_day)
    return f"INSERT INTO {table.name} ({names}) {select} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets}"


def add(db: Connection, first_seq: int, last_seq: int, kinds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Adds the rows of this range. `kinds` are the roll-ups that they may be in: 0 use, 1 savings, 2 arms."""
    for kind in kinds:
        for source in _sources(kind, db.dialect.name):
            for by_day, table in enumerate(ROLL_UPS[kind]):
                statement = _upsert(table, source, bool(by_day)).format(f"seq BETWEEN {first_seq} AND {last_seq}")
                db.exec_driver_sql(statement)


class Difference(NamedTuple):
    """A roll-up that isn't the sum of its rows. None: it isn't there."""

    table: str
    key: tuple[Any, ...]
    stands: tuple[int, ...] | None
    summed: tuple[int, ...] | None


def differences(db: Connection, since_quarter: int = 0, most: int = 20) -> Iterator[Difference]:
    """Where roll-ups differ from the rows counted from a quarter hour on (of days: from the next whole day on)."""
    for kind, pair in enumerate(ROLL_UPS):
        for by_day, table in enumerate(pair):
            since = -(-since_quarter // QUARTERS_A_DAY) if by_day else since_quarter
            yield from _compared(db, kind, table, bool(by_day), since, most)


def _compared(db: Connection, kind: int, table: Table, by_day: bool, since: int, most: int) -> Iterator[Difference]:
    """The database compares, so that it takes no memory here."""
    keys, measures = _columns(table)
    names = ", ".join([*keys, *measures])
    since_quarter = since * (QUARTERS_A_DAY if by_day else 1)
    parts = [_select(one, by_day).format(f"quarter >= {since_quarter}") for one in _sources(kind, db.dialect.name)]
    named = ", ".join([*keys, *(f"SUM({name}) AS {name}" for name in measures)])
    aliases = ", ".join([*keys, *measures])
    union = " UNION ALL ".join(f"SELECT * FROM ({part}) AS p{index}" for index, part in enumerate(parts))  # noqa: S608
    summed = f"WITH rows_of({aliases}) AS ({union}) SELECT {named} FROM rows_of GROUP BY {', '.join(keys)}"  # noqa: S608
    stands = f"SELECT {names} FROM {table.name} WHERE {keys[0]} >= {since}"  # noqa: S608
    ordered = f"ORDER BY {', '.join(keys)} LIMIT {most}"
    right = _by_key(db, f"SELECT * FROM ({summed}) AS a EXCEPT {stands} {ordered}", len(keys))  # noqa: S608
    wrong = _by_key(db, f"{stands} EXCEPT SELECT * FROM ({summed}) AS a {ordered}", len(keys))  # noqa: S608
    for key in sorted({**right, **wrong}):
        yield Difference(table.name, key, wrong.get(key), right.get(key))


def _by_key(db: Connection, query: str, keys: int) -> dict[tuple[Any, ...], tuple[int, ...]]:
    return {row[:keys]: tuple(int(value) for value in row[keys:]) for row in _rows(db, query)}


def rows_between(db: Connection, first_quarter: int, end_quarter: int) -> Iterator[tuple[Any, ...]]:
    """The roll-ups by quarter hour of a span, in order: what the hash of a closed month is over."""
    for table, _ in ROLL_UPS:
        keys, measures = _columns(table)
        names = ", ".join([*keys, *measures])
        query = (
            f"SELECT {names} FROM {table.name} "  # noqa: S608
            f"WHERE quarter >= {first_quarter} AND quarter < {end_quarter}"
        )
        for row in sorted(_rows(db, query)):  # here, since databases disagree about the order of text
            yield (table.name, *row)


def _rows(db: Connection, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in db.exec_driver_sql(query)]
