"""`budget`: how much may be used, by whom, in which time; and what happens on the way there.

- use: budget
  per: team
  limit: 500 USD/month
  overrides: {search: 4000 USD/month}
  ladder: {80%: warn, 90%: {use_model: gpt-4o-mini}}

A hard budget can't be overspent: before each attempt its worst case is reserved, over all budgets in one atomic step,
and settled by what it came to. What can't be priced or bounded is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policies.budget import table
from policies.budget.config import Config
from policies.budget.layer import Budget
from policies.budget.standing import operate
from proxy.chain import Services
from proxy.config import Order
from proxy.exchange import Request

if TYPE_CHECKING:  # the supervisor's; workers read no files
    from proxy.config.entries import Files

__all__ = ["ESSENTIAL", "ORDER", "Budget", "Config", "build", "foretell", "operate", "resolve"]

ESSENTIAL = True  # money isn't something that the kill switch may let go
ORDER = Order(
    outside=("cache", "coalesce", "cascade", "retry", "hedge", "fallback"),
    why="its ladder chooses the model for all that follows; what is answered from a cache costs it nothing anyhow",
)


def resolve(options: dict[str, Any], files: Files) -> dict[str, Any]:
    """The options with what the file of `limits_from` says. In the supervisor, at each load."""
    name = options.get("limits_from")
    if not isinstance(name, str):
        return options
    text = files.text(name, ("limits_from",))
    rows = [] if text is None else table.read(text, lambda line, message, hint: files.report(name, line, message, hint))
    return {**options, "rows": [*options.get("rows", ()), *rows]}


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    whose = f" per {', '.join(config.per)}" if config.per else ""
    limits = " and ".join(str(limit) for limit in config.limit)
    return f"{'reserves its worst case of' if config.hard else 'counts it for'} {limits}{whose}"


def build(config: Config, services: Services) -> Budget:
    """The policy for one entry of a policy file."""
    return Budget(config, services)
