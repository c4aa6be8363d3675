"""The guard of all rate limits of an exchange: one step for each attempt, over every rate of every policy.

Rules:
1. All rates are taken from or none; then a place among those that run at once. Whoever is refused has taken nothing.
2. Far from the limits nothing is awaited. With `wait`, whoever finds too little waits until there is enough, in the
   order of coming within a worker, never past the exchange's deadline.
3. Each attempt is settled once: tokens by what was used, and nothing at all for what was never sent.
4. A gate never changes: a policy that joins makes another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from policies.ratelimit import told
from policies.ratelimit.stock import Stock
from policies.ratelimit.subjects import Account
from policies.ratelimit.taking import Shortage, Taking
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Request, Settle
from proxy.state.lease import Ticket
from proxy.state.protocol import Part, Refused, StateLost
from proxy.state.purse import Purse

if TYPE_CHECKING:
    from policies.ratelimit.layer import RateLimit

WRITING: Final = frozenset(("chat.completions", "completions", "responses", "messages"))
"""Endpoints whose answers are text of unknown length."""
_EARLY_S: Final = 0.05  # before the deadline, so that the client learns why
_LEAST_S: Final = 0.001


class Gate:
    """Asked before each attempt of an exchange."""

    __slots__ = ("_purse", "_sleep", "_taking", "limits")

    def __init__(
        self,
        taking: Taking | None,
        purse: Purse | None,
        limits: tuple[RateLimit, ...],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._taking = taking
        self._purse = purse
        self.limits = limits
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"<Gate {', '.join(limit.name for limit in self.limits)}>"

    async def __call__(self, attempt: Attempt) -> Settle | None:
        """Takes, or raises what the client is told."""
        taking = self._taking
        if taking is None:
            self._lost(attempt)
            return None
        asked = self._asked(attempt)
        stocks = asked.stocks
        if stocks and (stocks[0].turn.locked() or not taking.try_take(stocks, asked.costs)):
            await self._turn(taking, attempt, asked)
        settling = _Settling(taking, asked)
        for limit, account in zip(self.limits, asked.accounts, strict=True):
            if account.concurrency is not None:
                try:
                    await self._place(attempt, limit, account, account.concurrency, settling)
                except BaseException:
                    settling.undo()
                    raise
        return settling

    def _asked(self, attempt: Attempt) -> _Asked:
        asked = _Asked()
        for limit in self.limits:
            account = limit.accounts.of(attempt.request)
            tokens = limit.tokens_of(attempt) if len(account.stocks) > account.requests else 0
            asked.add(account, tokens)
        return asked

    def joined(self, limit: RateLimit) -> Gate:
        """A gate of these limits and one more."""
        return Gate(self._taking, self._purse, (*self.limits, limit), self._sleep)

    def accounts(self, request: Request) -> list[Account]:
        """Whom a request counts for, limit by limit."""
        return [limit.accounts.of(request) for limit in self.limits]

    # --- rates

    async def _turn(self, taking: Taking, attempt: Attempt, asked: _Asked) -> None:
        ends_s = self._ends_s(attempt)
        try:
            if ends_s > 0:
                short = await self._queue(taking, asked, ends_s)
            else:
                short = await taking.take(asked.stocks, asked.costs)
        except StateLost:
            self._lost(attempt)
            taking.owe(asked.stocks, asked.costs)
            return
        if short is not None:
            raise self._exceeded(attempt, asked, short)

    async def _queue(self, taking: Taking, asked: _Asked, ends_s: float) -> Shortage | None:
        """Waits for its turn: those before it first."""
        clock, turn = self.limits[0].clock, asked.stocks[0].turn
        if not await self._in_turn(turn, ends_s - clock()):
            return await taking.take(asked.stocks, asked.costs)
        try:
            while True:
                short = await taking.take(asked.stocks, asked.costs)
                if short is None or not short.retry_s or clock() + short.retry_s > ends_s:
                    return short
                await self._sleep(max(short.retry_s, _LEAST_S))
        finally:
            turn.release()

    async def _in_turn(self, turn: asyncio.Lock, wait_s: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                await turn.acquire()
        except TimeoutError:
            return False
        return True

    def _ends_s(self, attempt: Attempt) -> float:
        """Until when it may wait, by the limits' clock; 0 for not at all."""
        wait_s = min([limit.wait_s for limit in self.limits])
        if not wait_s:
            return 0.0
        return min(self.limits[0].clock() + wait_s, attempt.exchange.deadline - _EARLY_S)

    # --- at once

    async def _place(
        self, attempt: Attempt, limit: RateLimit, account: Account, parts: tuple[Part], settling: _Settling
    ) -> None:
        purse = self._purse
        if purse is None:
            self._lost(attempt)
            return
        found: Ticket | Refused | None = purse.try_reserve(parts)
        if found is None:
            wait_s = max(0.0, self._ends_s(attempt) - limit.clock()) if limit.wait_s else 0.0
            try:
                found = await purse.reserve(parts, wait_s)
            except StateLost:
                self._lost(attempt)
                return
        if isinstance(found, Refused):
            limit.note(attempt.exchange, "refused", subject=account.shown, kind="concurrency")
            most = parts[0].scope.limit
            raise told.too_many(limit.name, account.shown, most, limit.wait_s, self._words(attempt))
        settling.tickets += (found,)

    # --- refusing

    def _exceeded(self, attempt: Attempt, asked: _Asked, short: Shortage) -> WeirError:
        stock, kind, cost = asked.stocks[short.at], asked.kinds[short.at], asked.costs[short.at]
        pairs = zip(self.limits, asked.accounts, strict=True)
        limit, account = next(pair for pair in pairs if stock in pair[1].stocks)
        limit.note(attempt.exchange, "refused", subject=account.shown, kind=kind, retry_s=round(short.retry_s, 3))
        spoken, left = told.spoken(account.rates[account.stocks.index(stock)], kind), stock.remaining(limit.clock())
        return told.exceeded(limit.name, account.shown, spoken, kind, cost, left, short.retry_s, self._words(attempt))

    def _words(self, attempt: Attempt) -> told.Words:
        """What every refusal says besides."""
        typed = attempt.request.endpoint.name.startswith("messages")
        accounts = self.accounts(attempt.request)
        return told.Words(typed, told.headers(accounts, self.limits[0].clock(), time.time(), typed))

    def _lost(self, attempt: Attempt) -> None:
        for limit in self.limits:
            limit.metrics.count("ratelimit_state_lost")
            if limit.refuse_lost:
                limit.note(attempt.exchange, "refused", kind="state_lost")
                raise told.unavailable(limit.name)


class _Asked:
    """What an attempt asks of which stocks."""

    __slots__ = ("accounts", "costs", "kinds", "stocks")

    def __init__(self) -> None:
        self.accounts: list[Account] = []
        self.stocks: list[Stock] = []
        self.costs: list[int] = []
        self.kinds: list[str] = []

    def add(self, account: Account, tokens: int) -> None:
        """One account's stocks; what costs nothing isn't asked."""
        requests = account.requests
        self.accounts.append(account)
        if tokens or requests == len(account.stocks):
            rest = len(account.stocks) - requests
            self.stocks += account.stocks
            self.costs += (1,) * requests + (tokens,) * rest
            self.kinds += ("requests",) * requests + ("tokens",) * rest
        else:
            self.stocks += account.stocks[:requests]
            self.costs += (1,) * requests
            self.kinds += ("requests",) * requests


class _Settling:
    """What is called when the attempt is settled."""

    __slots__ = ("_asked", "_taking", "tickets")

    def __init__(self, taking: Taking, asked: _Asked) -> None:
        self._taking, self._asked = taking, asked
        self.tickets: tuple[Ticket, ...] = ()

    def __call__(self, attempt: Attempt) -> None:
        for ticket in self.tickets:
            ticket.release()
        asked, usage = self._asked, attempt.usage
        if attempt.outcome == "failed" and attempt.nanodollars == 0:  # nothing was billed; if it wasn't even answered,
            requests = 0 if attempt.status is None else 1  # it was no request either
            used = 0
        elif usage is not None:
            requests, used = 1, usage.input_tokens + usage.output_tokens
        else:
            return
        self._taking.correct(
            asked.stocks, asked.costs, [used if kind == "tokens" else requests for kind in asked.kinds]
        )

    async def keep(self, id: str, owner: str, until_ns: int) -> tuple[()]:
        """Called for what is done later: it was asked for now, and takes no place among those that run at once."""
        for ticket in self.tickets:
            ticket.release()
        return ()

    def undo(self) -> None:
        """It was refused elsewhere."""
        for ticket in self.tickets:
            ticket.release()
        self._taking.correct(self._asked.stocks, self._asked.costs, [0] * len(self._asked.costs))


def gate_of(exchange: Exchange, limit: RateLimit) -> Gate:
    """The gate that this limit has joined."""
    return next(guard for guard in exchange.guards if type(guard) is Gate and limit in guard.limits)


def join(exchange: Exchange, limit: RateLimit) -> None:
    """Has the limit asked before each attempt that follows, together with those that have joined."""
    if not limit.observing:
        for index, guard in enumerate(exchange.guards):
            if type(guard) is Gate:
                if limit not in guard.limits:
                    exchange.guards[index] = guard.joined(limit)
                return
    exchange.guard(limit.gate)
