"""What an operator may ask of a policy while it runs: `weir cache evict …` and the like.

A policy module that can be asked declares

    async def operate(operation: str, arguments: Mapping[str, Any], here: Operating) -> Mapping[str, Any]

Rules: it is called in the supervisor, so it works on what the workers share, and tells them through the Store's feed.
What it refuses it refuses by a WeirError; an operation that it doesn't know by `no_such_operation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from proxy.config import Registry, installed
from proxy.config.policies import PolicyEntry
from proxy.errors import WeirError
from proxy.metrics import Snapshot
from proxy.state.protocol import StateLost, Store


class Operating(msgspec.Struct, frozen=True):
    """What an operation may use: what all workers share and counted, and the policies that are in force, which its own
    are among. `store` is None where they share nothing."""

    store: Store | None
    counted: Snapshot
    policies: tuple[PolicyEntry, ...] = ()


async def operate(
    use: str, operation: str, arguments: Mapping[str, Any], here: Operating, registry: Registry | None = None
) -> Mapping[str, Any]:
    """Asks the policy of this name. Raises WeirError: 404 for what isn't there, 503 where the state can't be asked."""
    load = (installed() if registry is None else registry).get(use)
    asked = getattr(load(), "operate", None) if load is not None else None
    if asked is None:
        raise WeirError(404, f"No policy `{use}` that could be asked.", code="policy_not_found")
    try:
        answer: Mapping[str, Any] = await asked(operation, arguments, here)
    except StateLost:
        message = "The state didn't answer in time: whether it was done isn't known. Ask again."
        raise WeirError(503, message, type="server_error", code="state_lost") from None
    return answer


def no_such_operation(use: str, operation: str) -> WeirError:
    """For what a policy doesn't know."""
    return WeirError(404, f"`{use}` has no operation `{operation}`.", code="operation_not_found")
