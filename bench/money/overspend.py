"""Whether a hard budget can be overspent: 1,000 clients ask at once, until every kind of request is refused.

Three cases on each backend. `bounded`: retries, two rungs, reasoning, requests without a cap, models without a price;
the provider fails in ways that it doesn't bill, so all usage is known and all of the limit can be used. `broken`:
hedges as well, and answers that are cut, billed although they failed, or tell no usage; a worker is killed in the
middle. There what nobody told counts for what was reserved, which the invoice never exceeds. `shrink`: the last answers
are shortened.

Left out: a reset on a kept connection before the first byte. That can't be told from a connection that was dead before,
is sent again once, and would stand on the invoice twice if the provider had begun.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop

from bench.money import backends, ledgers
from bench.money.clients import Answer, Client, lanes
from bench.money.kinds import LARGE, MIXED, OPEN, SMALL, TWO_RUNGS, Kind, bound
from bench.money.world import Provider, Setup, Weir, key_of, until, world
from bench.results import Row, judged, skipped

RESOLVED_S: Final = 30.0
SHRUNK: Final = 0.99
_LONGEST_S: Final = 400.0
_PACE: Final = ("--unary", "lognormal(500ms, 0.5)", "--ttft", "lognormal(200ms, 0.5)", "--per-token", "0.3ms")
_TWO: Final = f"{{use: rungs, small: {TWO_RUNGS.model}, large: gpt-4.1-mini}}"
_FALLBACK: Final = "{use: fallback, to: [gpt-4o-mini], 'on': [overloaded, rate_limited, server_error]}"
_RETRY: Final = "{use: retry, attempts: 3, backoff: 50ms, max_wait: 1s}"
_UNBILLED: Final = """
version: 1
faults:
  - {fault: error-503, probability: 4%}
  - {fault: "rate-limit:0", probability: 2%}
"""
_BROKEN: Final = (
    _UNBILLED
    + """
  - {fault: no-usage, probability: 1%}
  - {fault: error-500, probability: 1%}
  - {fault: "error-502:billed", probability: 1%}
  - {fault: truncated-json, stream: false, probability: 1%}
  - {fault: "rst:20", stream: true, probability: 2%}
"""
)


@dataclass(frozen=True, slots=True)
class Case:
    """One run to the final refusal."""

    name: str
    kinds: tuple[Kind, ...]
    scenario: str
    layers: tuple[str, ...]
    limit_usd: float
    kill: bool = False
    shrink: bool = False

    def policies(self, limit: int) -> str:
        """The policy file's list."""
        more = ", shrink: true, least_output: 16" if self.shrink else ""
        budget = f"{{use: budget, name: all, limit: {limit / 1e9:.9f} USD/month, max_wait: 10s{more}}}"
        return f"[{', '.join((budget, *self.layers))}]"


BOUNDED: Final = Case("bounded", MIXED, _UNBILLED, (_TWO, _FALLBACK, _RETRY), 4.0)
BROKEN: Final = Case(
    "broken", MIXED, _BROKEN, (_TWO, _FALLBACK, "{use: hedge, after: p90, samples: 30}", _RETRY), 8.0, kill=True
)
SHRINK: Final = Case("shrink", (SMALL, OPEN, LARGE), _UNBILLED, (_RETRY,), 1.5, shrink=True)
CASES: Final = (BOUNDED, BROKEN, SHRINK)


@dataclass(slots=True)
class Seen:
    """What clients saw."""

    alive: set[Kind]
    answered: dict[int, bool] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    shortened: int = 0
    wrongly_priced: int = 0  # answers of models without a price
    last: Kind | None = None  # the kind that was refused last
    slowest_s: float = 0.0

    @property
    def refused(self) -> str:
        return ", ".join(f"{count} {code}" for code, count in self.codes.most_common() if code != "200")


class Crowd:
    """The clients of one run. `paused` ends them early; what they know goes on in the next `asks`."""

    def __init__(self, case: Case, seen: Seen) -> None:
        self.case, self.seen = case, seen
        self.paused = False
        self._chance = random.Random(11)
        self._ends_s = time.monotonic() + _LONGEST_S

    async def lane(self, client: Client, number: int) -> None:
        """Asks until nothing is left to ask for."""
        seen = self.seen
        while not self.paused and any(kind.priced for kind in seen.alive) and time.monotonic() < self._ends_s:
            kinds = sorted(seen.alive, key=lambda kind: kind.name)
            kind = self._chance.choices(kinds, [one.weight for one in kinds])[0]
            answer = await self.one(client, kind)
            if answer.status != 200:
                await asyncio.sleep(self._chance.uniform(0.1, 0.6) if answer.status else 0.05)

    async def one(self, client: Client, kind: Kind) -> Answer:
        """One request, under a number of its own."""
        seen = self.seen
        number = len(seen.answered) + 1
        seen.answered[number] = False
        body, tokens = kind.request(number, self._chance)
        answer = await client.ask(body, key_of(number), x_sim_tokens=tokens)
        seen.answered[number] = answer.whole
        seen.slowest_s = max(seen.slowest_s, answer.took_s)
        seen.shortened += answer.shortened
        seen.wrongly_priced += not kind.priced and answer.status == 200
        seen.codes[f"{answer.status} {answer.error}".strip() if answer.status != 200 else "200"] += 1
        if answer.error == "insufficient_quota" and kind in seen.alive:
            seen.alive.discard(kind)
            seen.last = kind
        return answer


def rows(directory: Path, *, quick: bool) -> Iterator[Row]:
    """Each case on each backend."""
    clients, share = (300, 0.25) if quick else (1_000, 1.0)
    for backend in backends.BACKENDS:
        for case in CASES:
            where = directory / f"{case.name}-{backend}"
            try:
                with backends.state(backend, where / "redis") as url:
                    yield from _case(case, backend, url, where, clients, round(case.limit_usd * share * 1e9))
            except backends.MissingError as error:
                yield skipped(f"hard budget, {case.name}, {backend}", "0 overspent", str(error))


def _case(case: Case, backend: str, url: str, directory: Path, clients: int, limit: int) -> Iterator[Row]:
    seen = Seen(set(case.kinds))
    setup = Setup(policies=case.policies(limit), state=url)
    with world(directory, setup, *_PACE, scenario=case.scenario) as (provider, weir):
        run = Run(case, seen, provider, weir, limit, clients)
        began_s = time.monotonic()
        if case.kill:
            uvloop.run(run.until_killed())
            run.recover()
        uvloop.run(run.to_the_end())
        took_s = time.monotonic() - began_s
        provider.quiet()
        counted, left = weir.counted("all"), uvloop.run(run.standing())
        invoice = provider.rows()
        weir.stop()
    ledgers.finish(weir.home, setup.ledger)
    compared = ledgers.compare(weir.home, setup.ledger, invoice, seen.answered, most_attempts=12)
    billed = ledgers.bills(invoice)
    spent = sum(bill.nanodollars for bill in billed.values())
    yield from run.judged(backend, spent, counted, left, compared, took_s)


class Run:
    """One case on one backend."""

    def __init__(self, case: Case, seen: Seen, provider: Provider, weir: Weir, limit: int, clients: int) -> None:
        self.case, self.seen, self.provider, self.weir = case, seen, provider, weir
        self.limit, self.clients = limit, clients
        self.crowd = Crowd(case, seen)
        self.resolved_s: float | None = None
        self.phantom = ""

    async def to_the_end(self) -> None:
        """Everybody asks until everything is refused."""
        self.crowd.paused = False
        await lanes(self.clients, self.weir.url, self.crowd.lane)

    async def until_killed(self) -> None:
        """The same, with a worker killed on the way; ends a little later."""
        killing = asyncio.create_task(self._kill(), name="kill")
        await lanes(self.clients, self.weir.url, self.crowd.lane)
        await killing

    async def _kill(self) -> None:
        """Early: what the dead worker had sent will count for what was reserved, and something must be left after."""
        while await asyncio.to_thread(self.weir.counted, "all") < self.limit // 16 and self.seen.alive:
            await asyncio.sleep(0.1)
        os.kill(self.weir.workers()[0], signal.SIGKILL)
        await asyncio.sleep(0.5)
        self.crowd.paused = True

    def recover(self) -> None:
        """Nothing may stay held, and what is free must be had."""
        self.provider.quiet()
        self.resolved_s = until(lambda: not uvloop.run(self.standing()), RESOLVED_S)
        free = self.limit - self.weir.counted("all")
        nothing, thousand = bound(LARGE.model, 0), bound(LARGE.model, 1_000)
        cap = (free - nothing) * 1_000 // (thousand - nothing)
        # What the dead worker had sent counts for what was reserved: of a small limit (--quick) that may be all.
        self.phantom = uvloop.run(self._ask_for(cap)) if cap > 0 else "nothing was left to ask for"

    async def _ask_for(self, cap: int) -> str:
        """A request that fits only if nothing is held: why it was refused, else nothing."""
        client = Client(self.weir.url)
        number = len(self.seen.answered) + 1
        body = {"model": LARGE.model, "messages": [{"role": "user", "content": "?"}], "max_tokens": cap}
        answer = Answer()
        for _ in range(5):  # the provider fails some requests by itself
            answer = await client.ask(body, key_of(number), x_sim_tokens=5)
            self.seen.answered[number] = answer.whole
            if answer.status in (200, 429):
                break
            number += 1
        client.close()
        return "" if answer.status == 200 else f"{answer.status} {answer.error} for max_tokens {cap}"

    async def standing(self) -> int:
        """How many holds stand."""
        store = self.weir.store()
        try:
            return len([hold for hold in await store.standing("") if any(part.amount for part in hold.parts)])
        finally:
            await store.aclose()

    def judged(
        self, backend: str, spent: int, counted: int, left: int, compared: ledgers.Compared, took_s: float
    ) -> Iterator[Row]:
        """The rows of this case."""
        case, seen, limit = self.case, self.seen, self.limit
        name = f"{case.name}, {backend}"
        over, tried = max(0, spent - limit), len(seen.answered)
        fine = seen.wrongly_priced == 0 and not any(kind.priced for kind in seen.alive)
        fine = fine and (case.shrink or seen.shortened == 0) and compared.clean
        yield judged(
            f"overspent, {name}",
            "0 nano-dollars by the invoice, none shortened",
            f"{over} of {limit / 1e9:g} USD; {seen.shortened} shortened",
            over == 0 and fine,
            f"{self.clients} clients, {tried} requests in {took_s:.0f} s, slowest {seen.slowest_s:.1f} s; "
            f"{seen.wrongly_priced} without a price admitted; of the ledger {len(compared.lost)} lost, "
            f"{len(compared.forgotten)} forgotten, {len(compared.twice)} twice; {seen.refused}",
            spent=spent,
            counted=counted,
            limit=limit,
            problems=compared.problems,
            lost=compared.lost[:20],
            forgotten=compared.forgotten[:20],
            twice=compared.twice[:20],
        )
        yield self._used(name, spent, counted)
        if case.kill:
            resolved = f"{self.resolved_s:.1f} s" if self.resolved_s is not None else f"over {RESOLVED_S:.0f} s"
            yield judged(
                f"a worker killed, {name}",
                f"nothing held after {RESOLVED_S:.0f} s, no phantom refusal",
                f"resolved in {resolved}; {left} holds at the end; {self.phantom or 'no phantom refusal'}",
                self.resolved_s is not None and not self.phantom and left == 0 and not compared.forgotten,
                f"{compared.acknowledged} acknowledged, {len(compared.forgotten)} dispatched ones forgotten",
            )

    def _used(self, name: str, spent: int, counted: int) -> Row:
        limit, share = self.limit, f"{spent / self.limit:.2%} by the invoice"
        if self.case.shrink:
            return judged(f"used, {name}", f">= {SHRUNK:.0%} by the invoice", share, spent >= SHRUNK * limit)
        last = self.seen.last.worst() if self.seen.last else 0
        used = counted if self.case.kill else spent
        by = "counted" if self.case.kill else "invoice"
        return judged(
            f"used, {name}",
            f"all but one worst case ({last / 1e9:.6f} USD), by the {'count' if self.case.kill else 'invoice'}",
            f"all but {(limit - used) / 1e9:.6f} USD ({by}); {share}",
            limit - used <= last,
            "what nobody told counts for what was reserved" if self.case.kill else "",
        )
