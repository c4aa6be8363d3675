"""What the ledger says of each request, and how that compares with the invoice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench.money import prices
from bench.money.world import key_of, number_of
from proxy.ledger.ingest import Ingest, Moved
from proxy.ledger.opening import engine_of, open_ledger
from proxy.ledger.verify import verify

_ROWS = "SELECT d.tenant, d.known, a.entry, a.nanodollars FROM attempts a JOIN dimensions d ON d.id = a.dimension"


@dataclass(slots=True)
class Entry:
    """What stands in the ledger of one request: attempts that count, their cost, and how that is known."""

    attempts: int = 0
    nanodollars: int = 0
    known: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Bill:
    """What stands on the invoice of one request."""

    attempts: int = 0
    nanodollars: int = 0


@dataclass(slots=True)
class Compared:
    """Request by request; `acknowledged` ones were answered in full."""

    acknowledged: int = 0
    lost: list[int] = field(default_factory=list)  # acknowledged, and not in the ledger, or at another cost
    forgotten: list[int] = field(default_factory=list)  # on the invoice, and not in the ledger
    twice: list[int] = field(default_factory=list)  # more attempts in the ledger than there can have been
    problems: list[str] = field(default_factory=list)  # of the ledger itself

    @property
    def clean(self) -> bool:
        return not (self.lost or self.forgotten or self.twice or self.problems)


def finish(home: Path, url: str) -> None:
    """Takes in what is left, as the next start would; what was never settled is settled by its estimate."""
    engine = open_ledger(url, home)
    ingest = Ingest(engine, home, grace_s=0.0)
    for _ in range(3):  # an attempt is open until its process was seen to be gone
        caught_up = False
        while not caught_up:
            try:
                caught_up = ingest.step().caught_up
            except Moved:
                continue
    engine.dispose()


def entries(home: Path, url: str, numbers: Iterable[int]) -> dict[int, Entry]:
    """The ledger by request, for keys with these numbers."""
    tenants = {f"key-{hashlib.sha256(key_of(n).encode()).hexdigest()[:16]}": n for n in numbers}
    engine, found = engine_of(url, home, reading=True), dict[int, Entry]()
    with engine.connect() as db:
        for tenant, known, entry, nanodollars in db.execute(text(_ROWS)):
            own = found.setdefault(tenants[tenant], Entry())
            own.attempts += -1 if entry == "reversal" else 1
            own.nanodollars += nanodollars or 0
            own.known.add(known)
    engine.dispose()
    return found


def bills(rows: Iterable[Mapping[str, Any]]) -> dict[int, Bill]:
    """The invoice by request."""
    found: dict[int, Bill] = {}
    for row in rows:
        own = found.setdefault(number_of(row["key"]), Bill())
        own.attempts += row["requests"]
        own.nanodollars += prices.cost(row)
    return found


def compare(
    home: Path, url: str, rows: Iterable[Mapping[str, Any]], answered: Mapping[int, bool], most_attempts: int = 1
) -> Compared:
    """`answered` says of each request that was made whether its answer came in full."""
    ledger, invoice, found = entries(home, url, answered), bills(rows), Compared()
    for number, whole in answered.items():
        entry, bill = ledger.get(number), invoice.get(number)
        found.acknowledged += whole
        if whole and (entry is None or bill is None or _differs(entry, bill)):
            found.lost.append(number)
        if bill is not None and entry is None:
            found.forgotten.append(number)
        if entry is not None and entry.attempts > max(most_attempts, bill.attempts if bill else 0):
            found.twice.append(number)
    engine = engine_of(url, home, reading=True)
    found.problems = list(verify(engine).problems)
    engine.dispose()
    return found


def _differs(entry: Entry, bill: Bill) -> bool:
    """Whether another amount was recorded than billed; what nobody told (of a hedge's loser, say) is an estimate."""
    return entry.known == {"observed"} and entry.nanodollars != bill.nanodollars


def known(home: Path, url: str, numbers: Iterable[int]) -> Counter[str]:
    """How many requests are observed, estimated, unknown."""
    return Counter(word for entry in entries(home, url, numbers).values() for word in entry.known)
