"""The layer of one rate limit: joins the gate on the way up, says what is left on the way down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from policies.ratelimit import told
from policies.ratelimit.config import Config
from policies.ratelimit.gate import WRITING, Gate, gate_of, join
from policies.ratelimit.subjects import Accounts
from policies.ratelimit.taking import Taking
from proxy.chain import Services
from proxy.exchange import Attempt, Exchange, Forward, Request
from proxy.response import Response


class RateLimit:
    """One entry of a policy file. `sleep` is how those wait whose turn it isn't."""

    def __init__(
        self, config: Config, services: Services, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self.name, self._source = services.name, services.source
        self.observing = services.observing
        self.accounts = Accounts(self.name, config)
        self.wait_s = config.wait
        self.refuse_lost = config.on_lost_state == "refuse"
        self.clock, self.metrics = services.clock, services.metrics
        self._output = config.output
        self.counts_tokens = bool(config.tokens or any(own.tokens for own in config.overrides.values()))
        workers = services.purse.workers if services.purse is not None else 1
        self._taking = None if services.store is None else Taking(services.store, workers, services.clock)
        self.gate = Gate(self._taking, services.purse, (self,), sleep)  # shared by all exchanges that meet no other

    def __repr__(self) -> str:
        return f"<RateLimit {self.name}>"

    async def __call__(self, request: Request, forward: Forward) -> Response:
        exchange = request.exchange
        join(exchange, self)
        response = await forward(request)
        if self._taking is not None and not self.observing:
            gate = gate_of(exchange, self)
            attempts = exchange.attempts
            accounts = gate.accounts(attempts[-1].request if attempts else request)
            anthropic = request.endpoint.name.startswith("messages")
            fields = told.headers(accounts, self.clock(), time.time(), anthropic)
            response.headers = told.replaced(response.headers, fields)
        return response

    def tokens_of(self, attempt: Attempt) -> int:
        """What an attempt is taken for until its usage is known: its input and as much output as it may have."""
        request = attempt.request
        if not request.endpoint.metered:
            return 0
        cap = attempt.output_cap
        if cap is None:
            cap = self._output if request.endpoint.name in WRITING else 0
        return attempt.estimated_input_tokens + attempt.n * cap

    def note(self, exchange: Exchange, action: str, **numbers: Any) -> None:
        """Records what it did."""
        exchange.note(self.name, action, self._source, **numbers)

    async def aclose(self) -> None:
        """Gives back what this worker has in stock."""
        if self._taking is not None:
            await self._taking.aclose()
