"""What a closed month's report needs besides the ledger's sums: the budgets as they were when it was closed.

Rules: written once, right after a month is closed; from then on its report has these budgets, whatever the policy files
say later.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, Engine, select

from proxy.ledger.reporting.budgets import Budget
from proxy.ledger.tables import meta


def keep(engine: Engine, month: str, budgets: tuple[Budget, ...]) -> None:
    """Writes down the budgets of a month that was closed."""
    with engine.begin() as db:
        db.execute(meta.insert().values(name=_name(month), value=msgspec.json.encode(budgets).decode()))


def kept(db: Connection, month: str) -> tuple[Budget, ...]:
    """The budgets of a closed month; none where it was closed without."""
    found = db.scalar(select(meta.c.value).where(meta.c.name == _name(month)))
    return () if found is None else msgspec.json.decode(found, type=tuple[Budget, ...])


def _name(month: str) -> str:
    return f"budgets:{month}"
