"""Ledgers for tests of reports: uses of models at given times, rolled up, without a journal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import Engine

from proxy.ledger import tables
from proxy.ledger.labels import id_of

DOLLAR = 10**9
USED = dict.fromkeys(tables.DIMENSIONS) | {
    "tenant": "t1",
    "org": "acme",
    "team": "search",
    "tags": {},
    "asked": "gpt-4o",
    "model": "gpt-4o",
    "served": "gpt-4o-2024-08-06",
    "deployment": "openai/gpt-4o",
    "upstream": "openai",
    "provider": "openai",
    "account": "org-1",
    "provider_project": "proj_a",
    "endpoint": "chat.completions",
    "kind": "client",
    "tier": "default",
    "known": "observed",
}
CLIENT = {name: USED[name] for name in ("tenant", "org", "team", "asked", "endpoint", "kind")}


def at(text: str) -> int:
    """A moment in UTC, as Unix nanoseconds: `2026-11-05 13:20`."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


class Filled:
    """Collects sums, and writes them by `close`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._dimensions: dict[int, dict[str, Any]] = {}
        self._sums: dict[tuple[Any, Any], dict[tuple[Any, ...], dict[str, int]]] = {}
        self._attempts: list[dict[str, Any]] = []

    def use(self, when: str, nanodollars: int | None = 0, count: int = 1, **changes: Any) -> None:
        """Attempts of one kind; what isn't a dimension is a measure."""
        measures = {"attempts": count, "input_tokens": 100 * count, "output_tokens": 20 * count}
        measures |= {name: changes.pop(name) for name in tables.MEASURES if name in changes}
        if nanodollars is None:
            changes["known"], measures["unpriced"] = "unpriced", count
        self._add(
            tables.ROLL_UPS[0], when, (self._id({**USED, **changes}),), measures | {"nanodollars": nanodollars or 0}
        )

    def exchange(self, when: str, count: int = 1, **changes: Any) -> None:
        """Client's exchanges."""
        self._add(tables.ROLL_UPS[0], when, (self._id({**CLIENT, **changes}),), {"exchanges": count})

    def saving(
        self, when: str, nanodollars: int, policy: str = "cache", known: str = "modelled", **changes: Any
    ) -> None:
        """What a policy claims."""
        key = (self._id({**CLIENT, **changes}), policy, "gpt-4o", known)
        self._add(tables.ROLL_UPS[1], when, key, {"savings": 1, "nanodollars": nanodollars})

    def arm(self, when: str, arm: str, costs: list[int], policy: str = "cache", **changes: Any) -> None:
        """What the exchanges of an arm cost, each."""
        key = (self._id({**CLIENT, **changes}), policy, arm)
        squares = sum((cost // 10_000) ** 2 for cost in costs)
        sums = {"exchanges": len(costs), "nanodollars": sum(costs), "squares": squares}
        self._add(tables.ROLL_UPS[2], when, key, sums)

    def attempt(self, sent: str, settled: str, nanodollars: int, request: str = "", **changes: Any) -> None:
        """One attempt with its row, and rolled up."""
        number = len(self._attempts) + 1
        at_ns = at(settled)
        self._attempts.append(
            {
                "seq": number,
                "exchange": f"x{number}",
                "attempt": 1,
                "version": 0,
                "entry": "use",
                "dimension": self._id({**USED, **changes}),
                "quarter": at_ns // 10**9 // 900,
                "at_ns": at_ns,
                "reserved_ns": at(sent),
                "tokens": "{}",
                "nanodollars": nanodollars,
                "cards": "c",
                "total_ns": at_ns - at(sent),
                "outcome": "complete",
                "worker": 0,
                "told_by": "worker",
                "upstream_request_id": request or f"req_{number}",
                **dict.fromkeys(
                    ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"), 0
                ),
            }
        )
        self.use(settled, nanodollars, **changes)

    def write(self) -> None:
        """Puts everything into the tables."""
        with self.engine.begin() as db:
            db.execute(tables.dimensions.insert(), [*self._dimensions.values()])
            for (quarters, days), sums in self._sums.items():
                for table, period in ((quarters, "quarter"), (days, "day")):
                    names = [column.name for column in table.primary_key if column.name != period]
                    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
                    for (quarter, *key), values in sums.items():
                        number = quarter if period == "quarter" else quarter // 96
                        row = rows.setdefault(
                            (number, *key), {period: number, **dict(zip(names, key, strict=True)), **_zeros(table)}
                        )
                        for name, value in values.items():
                            row[name] += value
                    db.execute(table.insert(), [*rows.values()])
            if self._attempts:
                db.execute(tables.attempts.insert(), self._attempts)

    def _id(self, fields: dict[str, Any]) -> int:
        tags = orjson.dumps(fields.get("tags") or {}, option=orjson.OPT_SORT_KEYS).decode()
        values = {name: fields.get(name) for name in tables.DIMENSIONS} | {"tags": tags}
        number = id_of(tuple(values.values()))
        self._dimensions[number] = {"id": number, **values}
        return number

    def _add(self, tables_: tuple[Any, Any], when: str, key: tuple[Any, ...], measures: dict[str, int]) -> None:
        sums = self._sums.setdefault(tables_, {})
        own = sums.setdefault((at(when) // 10**9 // 900, *key), {})
        for name, value in measures.items():
            own[name] = own.get(name, 0) + value


def _zeros(table: Any) -> dict[str, int]:
    return {column.name: 0 for column in table.columns if not column.primary_key}
