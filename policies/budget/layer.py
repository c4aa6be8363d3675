"""The layer of one budget: climbs the ladder on the way up, joins the gate, says how full it is on the way down."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final
from zoneinfo import ZoneInfo

from policies.allowed import Allowed
from policies.budget import refusals
from policies.budget.accounts import NONE, Account, Accounts, Line, header, resets, share, subject_of
from policies.budget.config import Config
from policies.budget.gate import CAPPED, Gate, Observing, join
from policies.budget.ladder import NOTHING, Verdict, verdict
from proxy.body import Body
from proxy.chain import Services
from proxy.deferred import Grounds
from proxy.errors import WeirError
from proxy.exchange import Exchange, Forward, Identity, Request
from proxy.response import Response
from proxy.state.protocol import Refused, StateLost

FRESH_S: Final = 1.0  # knowledge older than this is asked for anew, where the ladder needs it
LOOK_S: Final = 0.005
_NAMED: Final = ("org", "team", "project", "key")
_TIERED: Final = ("chat.completions", "responses")
_MOST_DAYS_S: Final = 40 * 86_400.0
TELLING_S: Final = 30.0  # how long it is left to whoever tells of a step; whoever wanted to looks again then
_LOST_TRIES: Final = 20  # so often with the state away, before it is told without asking
_DONE_TRIES: Final = 60
_DONE_S: Final = 2.0


class Budget:
    """One entry of a policy file."""

    def __init__(self, config: Config, services: Services, now_ns: Callable[[], int] = time.time_ns) -> None:
        entry = next((e for e in services.configuration.policies if e.name == services.name), None)
        self.name, self._source = services.name, services.source
        self.zone = ZoneInfo("UTC") if entry is None else entry.zone
        self.observing = services.observing
        self.hard = config.hard
        self.shrink, self.least_output = config.shrink, config.least_output
        self.send_cap, self.max_output = config.send_cap, config.max_output
        self.unobserved = config.unobserved if config.hard else "estimate"
        self._config = config
        self._services = services
        self._purse = services.purse
        self.tokens = services.tokens
        self._shown = all(dimension in _NAMED for dimension in config.per)  # no label may be of a client's choosing
        self._now_ns = now_ns
        self.gate = (Observing if services.observing else Gate)(services.purse, (self,))
        self._accounts = Accounts(self.name, config, self.zone, counting=services.observing)
        self._allowed = Allowed(services.configuration, self.name)

    def __repr__(self) -> str:
        return f"<Budget {self.name}>"

    def begin(self, grounds: Grounds) -> None:
        """Who may use which model: other entries may have changed, though this one is as it was."""
        self._allowed = Allowed(grounds.dispatch.routes.configuration, self.name)

    async def __call__(self, request: Request, forward: Forward) -> Response:
        exchange = request.exchange
        metered = request.endpoint.metered
        if metered and self._config.ladder:
            request = await self._climb(request)
        join(exchange, self)
        response = await forward(request)
        if metered and self._purse is not None:
            response.headers = [*response.headers, (b"x-weir-budget", self._header(self.account(request)))]
        return response

    # --- what the gate asks

    def account(self, request: Request) -> Account:
        """Whom a request counts for, now."""
        return self._accounts.of(subject_of(self._config.per, request), self._now_ns())

    def wait_s(self, account: Account) -> float:
        """How long a request may wait for others to settle."""
        if self._config.ladder:
            found = self._verdict(account).wait_s
            if found is not None:
                return found
        return self._config.max_wait

    def note(self, exchange: Exchange, action: str, **numbers: Any) -> None:
        """Records what it did."""
        exchange.note(self.name, action, self._source, **numbers)

    def refusal(
        self, exchange: Exchange, account: Account, line: Line, answer: Refused, waited_s: float, asked: int
    ) -> WeirError:
        """What the client is told."""
        level = answer.levels[answer.part]
        now_ns = self._now_ns()
        self.note(exchange, "refused", subject=account.shown, why=answer.why, spent=level.spent, held=level.held)
        if answer.why == "spent":
            return refusals.spent(
                self.name, account, line, level.spent, self.zone, now_ns, answer.retry_ns, asked=asked
            )
        return refusals.reserved(self.name, account, line, level.spent, level.held, self.zone, waited_s)

    # --- the ladder

    def _used(self, account: Account) -> tuple[Line, int, float]:
        """The fullest limit, what is spent of it, and the share."""
        assert self._purse is not None
        found: tuple[Line, int, float] | None = None
        for line in account.lines:
            spent = self._purse.spent(line.scope)
            used = share(line, spent)
            if found is None or used > found[2]:
                found = (line, spent, used)
        assert found is not None
        return found

    def _verdict(self, account: Account) -> Verdict:
        return NOTHING if self._purse is None else verdict(self._config.ladder, self._used(account)[2])

    async def _climb(self, request: Request) -> Request:
        """The request as the steps that were reached want it."""
        if self._purse is None:
            return request
        account, exchange = self.account(request), request.exchange
        await self._refresh(account)
        line, spent, used = self._used(account)
        found = verdict(self._config.ladder, used)
        if found is NOTHING:
            return request
        if found.refused is not None:
            self.note(exchange, "refused", subject=account.shown, share=used)
            raise refusals.spent(self.name, account, line, spent, self.zone, self._now_ns(), limit_share=found.refused)
        if found.warned is not None:
            self.note(exchange, "warn", subject=account.shown, share=round(used, 4))
        return self._cheaper(request, found)

    def _cheaper(self, request: Request, found: Verdict) -> Request:
        exchange, endpoint = request.exchange, request.endpoint.name
        if not isinstance(request.body, Body) or endpoint not in CAPPED:
            return request
        other = found.model(request.model)
        if other is not None and not self._allowed.may_use(request, other):
            self.note(exchange, "passed_over", model=other, why="model_not_allowed")
        elif other is not None:
            self.note(exchange, "use_model", model=other, instead_of=request.model)
            request = request.using(model=other)
        if found.tier and endpoint in _TIERED and request.field("service_tier") in (None, "auto", "default"):
            self.note(exchange, "tier", tier=found.tier)
            request = request.using(fields={"service_tier": found.tier})
        if found.batch_s is not None:
            exchange.can_wait_s = found.batch_s  # for a layer further in that serves who can wait for less
            self.note(exchange, "batch", wait_s=found.batch_s)
        return request

    async def _refresh(self, account: Account) -> None:
        purse = self._purse
        assert purse is not None
        if max([purse.age_s(line.scope) for line in account.lines]) > FRESH_S:
            with contextlib.suppress(StateLost, TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await purse.look([line.scope for line in account.lines])

    # --- what people are told

    def _header(self, account: Account) -> bytes:
        line, spent, used = self._used(account)
        if self._shown and int(used * 100) != line.told_percent:
            self._services.metrics.share(self.name, account.shown, str(line.limit), used)
        return header(account, line, spent, self.zone)

    def reached(self, account: Account, line: Line) -> None:
        """A step of the ladder was reached: told once in a fleet, for each step, window and subject."""
        assert self._purse is not None
        spent = self._purse.spent(line.scope)
        reached = 0
        while line.marks and spent >= line.marks[-1]:
            reached = line.marks.pop()
        spawn = self._services.spawn
        if spawn is not None:
            spawn(self._announce(account, line, spent, reached), f"threshold of {self.name}")

    async def _announce(
        self, account: Account, line: Line, spent: int, reached: int, *, again: bool = True, lost: int = 0
    ) -> None:
        """Told by whoever has the duty; it is had for good only once it is done, so that another may take over."""
        purse, percent = self._purse, round(100 * reached / line.limit.amount) if line.limit.amount else 100
        assert purse is not None
        duty = f"threshold:{line.scope.key}:{percent}"
        look = partial(self._announce, account, line, spent, reached)
        try:
            if not await purse.store.claim(duty, purse.owner, TELLING_S):
                if again:
                    self._later(TELLING_S * 1.1, partial(look, again=False))
                return
        except StateLost:
            if lost < _LOST_TRIES:
                self._later(TELLING_S * 1.1, partial(look, again=again, lost=lost + 1))
                return
            # told twice is better than not at all
        self._services.metrics.count("budget_thresholds")
        told = {**self._line(account, line, spent), "threshold_percent": percent}
        self._services.log("warning", "budget_threshold", **told)
        hook, lookup = self._config.webhook, self._services.lookup
        if hook is not None and lookup is not None:
            await hook.tell(lookup, {"event": "budget.threshold", **told, "at": self._now_ns() // 10**9})
        ends_s = (line.scope.ends_ns - self._now_ns()) / 1e9 if line.scope.ends_ns else line.limit.span_s
        await self._done(duty, min(max(ends_s, 2 * TELLING_S), _MOST_DAYS_S))

    async def _done(self, duty: str, ttl_s: float, tried: int = 0) -> None:
        """Nobody needs to tell of it any more."""
        assert self._purse is not None
        try:
            await self._purse.store.claim(duty, self._purse.owner, ttl_s)
        except StateLost:
            if tried < _DONE_TRIES:
                self._later(_DONE_S, partial(self._done, duty, ttl_s, tried + 1))

    def _later(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        spawn = self._services.spawn
        if spawn is not None:
            asyncio.get_running_loop().call_later(seconds, lambda: spawn(work(), f"threshold of {self.name}"))

    def _line(self, account: Account, line: Line, spent: int) -> dict[str, Any]:
        return {
            "budget": self.name,
            "subject": account.shown,
            "limit": str(line.limit),
            "unit": {"usd": "nanodollars", "tok": "tokens", "req": "requests"}[line.unit],
            "amount": line.limit.amount,
            "spent": spent,
            "percent": round(share(line, spent) * 100, 2),
            "resets": resets(line, self.zone) or None,
            "hard": self._config.hard,
        }

    async def about(self, identity: Identity) -> dict[str, list[dict[str, Any]]]:
        """This client's own budgets, for `GET /weir/me`."""
        if self._purse is None or self.observing:
            return {}
        accounts = [account for account in self._mine(identity) if account.lines]
        with contextlib.suppress(StateLost, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._purse.look([line.scope for account in accounts for line in account.lines])
        lines = [(account, line) for account in accounts for line in account.lines]
        return {"budgets": [self._line(account, line, self._purse.spent(line.scope)) for account, line in lines]}

    def _mine(self, identity: Identity) -> list[Account]:
        """Those whose subject is this client in every respect that the identity has; of models, those in use here."""
        own = {name: getattr(identity, name) for name in ("org", "team", "project", "key", "tenant")}
        now_ns, per = self._now_ns(), self._config.per
        if all(dimension in own for dimension in per):
            return [self._accounts.of(tuple([own[dimension] or NONE for dimension in per]), now_ns)]
        return [
            self._accounts.of(made.subject, now_ns)
            for made in self._accounts.made()
            if all(
                value == (own[dimension] or NONE)
                if dimension in own
                else dimension == "model" or identity.tags.get(dimension[4:]) == value
                for dimension, value in zip(per, made.subject, strict=True)
            )
        ]
