"""The guard of all budgets of an exchange: one atomic step for each attempt, over every scope of every budget.

Rules:
1. All parts are reserved or none; each attempt is settled once, by what it came to.
2. Far from the limits nothing is awaited. Else it waits in turn, never past the exchange's deadline.
3. A gate never changes: a budget that joins makes another one, so that exchanges can share it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from policies.budget import refusals
from policies.budget.accounts import Account, Line
from policies.budget.cost import Worst, came_to, fitting_cap, likely, worst
from proxy.body import Body
from proxy.exchange import Attempt, Exchange, Settle
from proxy.jobs import Kept
from proxy.state.lease import Ticket
from proxy.state.protocol import Hold, Part, Refused, StateLost
from proxy.state.purse import Purse

if TYPE_CHECKING:
    from policies.budget.layer import Budget

CAPPED: Final = frozenset(("chat.completions", "completions", "responses", "messages"))
_FREE: Final = frozenset(
    (
        "files",
        "uploads",
        "models",
        "models.tuned",
        "moderations",
        "messages.count_tokens",
        "responses.input_tokens",
        "responses.stored",
        "chat.completions.stored",
        "conversations",
        "organization",
        "organizations",
        "projects",
        "webhook_endpoints",
        "skills",
        "assistants",
        "vaults",
        "safety",
    )
)
_TRIES: Final = 8
_JOINED: Final = 64
_MARGIN: Final = 8  # beyond an exact count: what is asked for may still be framed in another way
_EARLY_S: Final = 0.05  # before the deadline, so that the client learns why


class Claim(NamedTuple):
    """One limit that an attempt must fit."""

    budget: Budget
    account: Account
    line: Line


def claims_of(budget: Budget, account: Account) -> tuple[Claim, ...]:
    """What must fit of one budget."""
    found = account.claims
    if not found:
        found = account.claims = tuple([Claim(budget, account, line) for line in account.lines])
    return found


class Gate:
    """Asked before each attempt of an exchange."""

    __slots__ = ("_joined", "_otherwise_cap", "_purse", "_sends_cap", "budgets", "estimates")

    def __init__(self, purse: Purse | None, budgets: tuple[Budget, ...]) -> None:
        self._purse = purse
        self.budgets = budgets
        self._otherwise_cap = min((b.max_output for b in budgets if b.max_output is not None), default=None)
        self._sends_cap = any(budget.send_cap for budget in budgets)
        self._joined: dict[Budget, Gate] = {}
        self.estimates = any(not budget.hard or budget.observing for budget in budgets)  # what is proven needs none

    def joined(self, budget: Budget) -> Gate:
        """The gate of these budgets and one more; made once."""
        found = self._joined.get(budget)
        if found is None:
            if len(self._joined) >= _JOINED:
                self._joined.clear()  # of chains that are gone
            budgets = self.budgets if budget in self.budgets else (*self.budgets, budget)
            found = self._joined[budget] = Gate(self._purse, budgets)
        return found

    def __repr__(self) -> str:
        return f"<Gate {', '.join(budget.name for budget in self.budgets)}>"

    async def __call__(self, attempt: Attempt) -> Settle | None:
        """Reserves, or raises what the client is told."""
        request = attempt.request
        if not request.endpoint.metered:
            self._unmetered(attempt)
            return None
        budgets = self.budgets
        account = budgets[0].account(request)
        claims, scopes = claims_of(budgets[0], account), account.scopes
        if len(budgets) > 1:
            for budget in budgets[1:]:
                account = budget.account(request)
                claims += claims_of(budget, account)
                scopes += account.scopes
        most = self._worst(attempt)
        amounts = self._amounts(attempt, claims, most)
        purse = self._purse
        if purse is None:
            self._without_store(claims)
            return None
        ticket = purse.take(scopes, amounts)
        if ticket is None:
            ticket = await self._turn(purse, attempt, claims, amounts, most)
        attempt.holds = (*attempt.holds, ticket.hold)
        return _Settling(purse, ticket, claims)

    # --- amounts

    def _worst(self, attempt: Attempt) -> Worst:
        most = worst(attempt, self._otherwise_cap)
        if self._sends_cap and attempt.output_cap is None and attempt.request.endpoint.name in CAPPED:
            attempt.output_cap = most.cap
        return most

    def _amounts(self, attempt: Attempt, claims: Sequence[Claim], most: Worst) -> list[int]:
        amounts: list[int] = []
        for budget, _, line in claims:
            unit = line.unit
            if not line.scope.hard:
                amounts.append(likely(attempt, unit))
                continue
            amount = most.nanodollars if unit == "usd" else most.amount(unit)
            if amount is None:
                budget.note(attempt.exchange, "refused", code=most.why)
                if most.why == "unpriced_model":
                    raise refusals.unpriced(budget.name, attempt.model)
                raise refusals.unbounded(budget.name, attempt.model)
            if unit == "usd":
                attempt.estimate_nanodollars = amount
            elif unit == "tok":
                attempt.reserved_tokens = amount
            amounts.append(amount)
        return amounts

    def _unmetered(self, attempt: Attempt) -> None:
        """What costs money without telling how much can't pass a hard budget."""
        request = attempt.request
        if request.method != "POST" or request.endpoint.name in _FREE:
            return
        for budget in self.budgets:
            if budget.hard and any(line.unit != "req" for line in budget.account(request).lines):
                budget.note(attempt.exchange, "refused", code="unpriced_endpoint")
                raise refusals.unpriced_endpoint(budget.name, request.endpoint.name)

    # --- waiting

    def _without_store(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            if claim.line.scope.hard:
                raise refusals.unavailable(claim.budget.name)

    async def _turn(
        self, purse: Purse, attempt: Attempt, claims: Sequence[Claim], amounts: Sequence[int], most: Worst
    ) -> Ticket:
        loop = asyncio.get_running_loop()
        wait_s = min(claim.budget.wait_s(claim.account) for claim in claims if claim.line.scope.hard)
        ends_s = min(loop.time() + wait_s, attempt.exchange.deadline - _EARLY_S)
        counted: int | None = None
        countable = self.budgets[0].tokens is not None
        for last in range(_TRIES - 1, -1, -1):
            try:
                wanted = _parts(claims, amounts)
                answer = await purse.reserve(wanted, 0.0 if countable else max(0.0, ends_s - loop.time()))
            except StateLost:
                self._without_store(claims)
                raise
            if isinstance(answer, Ticket):
                return answer
            if countable:  # before it waits, and before it is refused
                countable, counted = False, await self._counted(attempt)
                if counted is not None:
                    amounts = self._amounts(attempt, claims, worst(attempt, most.cap, counted))
                if counted is not None or answer.why == "held":
                    continue
            shrunk = self._shrunk(attempt, claims, answer, most, counted, loop.time() < ends_s)
            if shrunk is None or not last:
                claim = claims[answer.part]
                asked = amounts[answer.part]
                raise claim.budget.refusal(attempt.exchange, claim.account, claim.line, answer, wait_s, asked)
            amounts = shrunk
        raise AssertionError("the last try refuses or admits")

    async def _counted(self, attempt: Attempt) -> int | None:
        """The input's exact count, where its bound doesn't fit and there is a tokenizer; None where nobody counts."""
        tokens, body = self.budgets[0].tokens, attempt.request.body
        if tokens is None or not isinstance(body, Body):
            return None
        counting = tokens.exact(attempt.model, attempt.request.endpoint.name, body)
        found = None if counting is None else await counting
        return None if found is None else found + _MARGIN

    def _shrunk(
        self,
        attempt: Attempt,
        claims: Sequence[Claim],
        answer: Refused,
        most: Worst,
        counted: int | None,
        may_wait: bool,
    ) -> list[int] | None:
        """The amounts of a shorter answer that fits beside what is spent and held; or, by waiting, what is spent."""
        budget, cap = claims[answer.part].budget, attempt.output_cap if attempt.output_cap is not None else most.cap
        if not budget.shrink or cap is None or attempt.request.endpoint.name not in CAPPED:
            return None
        for beside_held in (True, False) if may_wait and answer.why == "spent" else (True,):
            fits = min(
                self._fitting(attempt, claim, level.spent + (level.held if beside_held else 0), cap, counted)
                for claim, level in zip(claims, answer.levels, strict=True)
                if claim.line.scope.hard
            )
            if budget.least_output <= fits < cap:
                attempt.output_cap = fits
                budget.note(attempt.exchange, "shrunk", output_cap=fits)
                return self._amounts(attempt, claims, worst(attempt, None, counted))
        return None

    def _fitting(self, attempt: Attempt, claim: Claim, taken: int, cap: int, counted: int | None) -> int:
        given, attempt.output_cap = attempt.output_cap, 0
        low = worst(attempt, None, counted).amount(claim.line.unit)
        attempt.output_cap = cap
        high = worst(attempt, None, counted).amount(claim.line.unit)
        attempt.output_cap = given
        if low is None or high is None:
            return 0
        return fitting_cap(low, high, cap, claim.line.limit.amount - taken)


def _parts(claims: Sequence[Claim], amounts: Sequence[int]) -> tuple[Part, ...]:
    return tuple([Part(claim.line.scope, amount) for claim, amount in zip(claims, amounts, strict=True)])


class _Settling:
    """What is called when the attempt is settled."""

    __slots__ = ("_claims", "_purse", "_ticket")

    def __init__(self, purse: Purse, ticket: Ticket, claims: Sequence[Claim]) -> None:
        self._purse, self._ticket, self._claims = purse, ticket, claims

    def __call__(self, attempt: Attempt) -> None:
        purse, ticket = self._purse, self._ticket
        ticket.settle(
            [
                came_to(attempt, line.unit, amount, budget.unobserved)
                for (budget, _, line), amount in zip(self._claims, ticket.amounts, strict=True)
            ]
        )
        for budget, account, line in self._claims:
            if line.marks and purse.spent(line.scope) >= line.marks[-1]:
                budget.reached(account, line)

    async def keep(self, id: str, owner: str, until_ns: int) -> tuple[Kept, ...] | None:
        """Has the reservation outlive this worker, under an id of the caller's, who settles it from now on.

        None where others have taken the room meanwhile: then nothing is reserved. Raises StateLost.
        """
        # A hold of nothing would be forgotten, and with it what it comes to.
        parts = [
            part if part.scope.hard else Part(part.scope, max(1, part.amount))
            for part in _parts(self._claims, self._ticket.amounts)
        ]
        if not await self._purse.part_with(self._ticket, Hold(id, owner, until_ns, tuple(parts))):
            return None
        for budget, account, line in self._claims:
            if line.marks and self._purse.spent(line.scope) >= line.marks[-1]:
                budget.reached(account, line)
        return tuple(
            [
                Kept(id, part, line.unit, budget.unobserved)
                for (budget, _, line), part in zip(self._claims, parts, strict=True)
            ]
        )


class Observing(Gate):
    """The gate of one budget that is only observed: counts, and notes what it would have refused."""

    __slots__ = ()

    async def __call__(self, attempt: Attempt) -> Settle | None:
        (budget,) = self.budgets
        if attempt.request.endpoint.metered and self._purse is not None:
            most = self._worst(attempt)
            for line in budget.account(attempt.request).lines:
                amount = most.amount(line.unit)
                if amount is None or self._purse.spent(line.scope) + amount > line.limit.amount:
                    budget.note(attempt.exchange, "would_refuse", code=most.why or refusals.QUOTA)
                    break
            return await super().__call__(attempt)
        return None


def join(exchange: Exchange, budget: Budget) -> None:
    """Has the budget asked before each attempt that follows, together with those that have joined."""
    if not budget.observing:
        for index, guard in enumerate(exchange.guards):
            if type(guard) is Gate:
                exchange.guards[index] = guard.joined(budget)
                return
    exchange.guard(budget.gate)
