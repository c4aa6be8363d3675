"""What an answer would have cost at another model. Pure but for the look-up of prices, which are remembered."""

from __future__ import annotations

from proxy.dialects import Usage
from proxy.dispatch import Dispatch
from proxy.errors import WeirError


def nanodollars_at(dispatch: Dispatch, model: str, usage: Usage) -> int | None:
    """What the same use would have cost at this model's first deployment; None where no price is known."""
    try:
        deployment = dispatch.routes.route(model).deployments[0]
    except (WeirError, IndexError):
        return None
    card = dispatch.card(deployment, model)
    return None if card is None else card.cost(usage, None)
