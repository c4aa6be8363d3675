"""`ceiling`: no single call of an upstream may cost more than this.

- use: ceiling
  usd: 0.05
  unpriced: refuse
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from proxy.chain import Services
from proxy.config import Order
from proxy.errors import PERMISSION, WeirError
from proxy.exchange import Attempt, Exchange, Forward, Request, Settle
from proxy.response import Response

ORDER = Order(inside=("cache",), why="an answer from the cache costs nothing, so there is nothing to look at")


class Config(BaseModel):
    """How much one call may cost at most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usd: Decimal = Field(gt=0)
    """The ceiling, in US dollars."""
    unpriced: Literal["refuse", "admit"] = "refuse"
    """What happens to a model whose price isn't known."""


def refusal(config: Config, worst_nanodollars: int | None) -> WeirError | None:
    """The decision, without the world around it: why a call is refused, or None."""
    if worst_nanodollars is None:
        if config.unpriced == "admit":
            return None
        message = "The model's price isn't known, so it can't be told whether this call stays below the ceiling."
        return WeirError(403, message, type=PERMISSION, code="unpriced")
    if worst_nanodollars <= config.usd * 10**9:
        return None
    message = f"This call could cost {worst_nanodollars / 10**9:.6f} USD; the ceiling is {config.usd} USD."
    return WeirError(403, message, type=PERMISSION, code="above_ceiling", param="max_tokens")


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says of a request that meets this layer."""
    return f"refuses a call that could cost more than {config.usd} USD"


class Ceiling:
    """The layer: it asks before each call, whoever causes it, and notes what came of it."""

    def __init__(self, config: Config, services: Services) -> None:
        self._config = config
        self._name, self._source = services.name, services.source

    async def __call__(self, request: Request, forward: Forward) -> Response:
        request.exchange.guard(self._admit)
        return await forward(request)

    async def _admit(self, attempt: Attempt) -> Settle | None:
        error = refusal(self._config, attempt.estimate_nanodollars)
        if error is not None:
            self._note(attempt.exchange, "refused", attempt.estimate_nanodollars)
            raise error
        return self._settled

    def _settled(self, attempt: Attempt) -> None:
        if (attempt.nanodollars or 0) > self._config.usd * 10**9:
            self._note(attempt.exchange, "exceeded", attempt.nanodollars)  # the answer had no cap

    def _note(self, exchange: Exchange, action: str, nanodollars: int | None) -> None:
        exchange.note(self._name, action, self._source, nanodollars=nanodollars, ceiling_usd=str(self._config.usd))


def build(config: Config, services: Services) -> Ceiling:
    """The policy for one entry of a policy file."""
    return Ceiling(config, services)
