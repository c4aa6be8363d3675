"""What an operator may ask of budgets while they run: how they stand (`weir budget status`).

A budget's subjects are found where they are named (overrides, the CSV) and where workers have met them lately (the
metric of shares; tags, models and tenants aren't in it, since no label may be of a client's choosing).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from policies.budget.accounts import Account, Accounts, Line, Subject, resets, share
from policies.budget.config import Config
from policies.budget.limits import begins_ns
from proxy.config.policies import PolicyEntry
from proxy.errors import WeirError
from proxy.operating import Operating, no_such_operation
from proxy.state.protocol import Level

USE: Final = "budget"
_UNITS: Final = {"usd": "nanodollars", "tok": "tokens", "req": "requests"}


async def operate(
    operation: str, arguments: Mapping[str, Any], here: Operating, now_ns: Callable[[], int] = time.time_ns
) -> dict[str, Any]:
    """`status`: every limit of every subject that is known, the fullest first; of one budget, if it is named."""
    if operation != "status":
        raise no_such_operation(USE, operation)
    if here.store is None:
        raise WeirError(503, "The workers share no state: nothing is reserved.", code="state_unavailable")
    only, moment_ns, found = arguments.get("budget"), now_ns(), []
    for entry in here.policies:
        if entry.use != USE or (only and entry.name != only):
            continue
        accounts = Accounts(entry.name, Config.model_validate(entry.options), entry.zone)
        met = [subject for policy, subject, _, _ in here.counted.shares if policy == entry.name]
        lines = [
            (account, line)
            for subject in _subjects(Config.model_validate(entry.options), met)
            for account in (accounts.of(subject, moment_ns),)
            for line in account.lines
        ]
        levels = await here.store.levels([line.scope for _, line in lines])
        found += [_told(entry, *pair, level, moment_ns) for pair, level in zip(lines, levels, strict=True)]
    return {"budgets": sorted(found, key=lambda told: -told["percent"])}


def _subjects(config: Config, met: Sequence[str]) -> list[Subject]:
    if not config.per:
        return [()]
    named = [*config.overrides, *(row.subject for row in config.rows)]
    found = [subject for name in named for subject in _split(name, len(config.per))]
    form = ", ".join(f"{re.escape(dimension)} (.+)" for dimension in config.per)
    found += [match.groups() for shown in met if (match := re.fullmatch(form, shown))]
    return list(dict.fromkeys(found))


def _split(name: str, count: int) -> Iterator[Subject]:
    """`search/gpt-4o` of a combination; a name with more slashes than that could be read in several ways."""
    parts = tuple(name.split("/")) if count > 1 else (name,)
    if len(parts) == count:
        yield parts


def _told(entry: PolicyEntry, account: Account, line: Line, level: Level, now_ns: int) -> dict[str, Any]:
    return {
        "budget": entry.name,
        "subject": account.shown,
        "limit": str(line.limit),
        "unit": _UNITS[line.unit],
        "amount": line.limit.amount,
        "used": level.spent,
        "reserved": level.held,
        "percent": round(share(line, level.spent) * 100, 2),
        "forecast": forecast(line, level.spent, now_ns, begins_ns(line.limit, now_ns, entry.zone)),
        "resets": resets(line, entry.zone) or None,
        "hard": line.scope.hard,
        "waiting": level.waiting,
    }


def forecast(line: Line, used: int, now_ns: int, began_ns: int) -> int | None:
    """What will be used when the window ends, if it goes on as it did so far; None of one that rolls."""
    if not line.scope.ends_ns:
        return None
    return used * (line.scope.ends_ns - began_ns) // max(1, now_ns - began_ns)
