"""What a closed month's report needs besides the ledger's sums: the budgets as they were when it was closed.

Rules: written once, in the transaction that closes the month; from then on its report has these budgets, whatever the
policy files say later.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from proxy.ledger.reporting.budgets import Budget
from proxy.ledger.tables import meta


def keep(db: Connection, month: str, budgets: tuple[Budget, ...]) -> None:
    """Writes down the budgets of a month that is being closed."""
    db.execute(meta.insert().values(name=_name(month), value=msgspec.json.encode(budgets).decode()))


def kept(db: Connection, month: str) -> tuple[Budget, ...]:
    """The budgets of a closed month; none where it was closed without."""
    found = db.scalar(select(meta.c.value).where(meta.c.name == _name(month)))
    return () if found is None else msgspec.json.decode(found, type=tuple[Budget, ...])


def _name(month: str) -> str:
    return f"budgets:{month}"
