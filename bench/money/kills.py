"""kill -9 at random points under load: what was acknowledged is in the ledger once, at what the invoice says.

Most kills are of single workers, at moments that nobody chose; some are of the state process; some are of everything
at once, the supervisor and its ingest included, and then the ends of journals are torn before the next start. The
restart's back-off, made for workers that die by themselves, is off (`bench.money.serving`): else a thousand deaths
would take a day. Where time is limited, what was reached by then is judged, and its row says so.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Final

import uvloop

from bench.money import ledgers
from bench.money.clients import Client, lanes
from bench.money.kinds import SMALL, STREAM, TWO_RUNGS, Kind
from bench.money.world import Setup, Weir, key_of, until, world
from bench.processes import parent_of
from bench.results import Row, judged
from proxy.journal import SUFFIX
from proxy.ledger.spool import TORN
from proxy.state.protocol import StateLost

WORKERS: Final = 6
CLIENTS: Final = 24
THINKING_S: Final = 0.2  # between two requests of a client, on average: the cores are for the workers that start
EVERYTHING: Final = 0.02  # of the kills
STATE: Final = 0.03
LEAST_READY: Final = 3  # so that there is load for the next to die under
LEAST_APART_S: Final = 0.03
LIMIT_USD: Final = 100
TOLD: Final = 50  # kills between two lines about them
_KINDS: Final = (SMALL, STREAM, TWO_RUNGS)
_ENDS: Final = (b"\x40", b"\x40\x00\x00\x00\x11", b'\x80\x00\x00\x00\x11\x22\x33\x44{"event":"rese')


class Clients:
    """Ask without end; a request that is cut off isn't repeated."""

    def __init__(self, seed: int) -> None:
        self.answered: dict[int, bool] = {}
        self.ended = False
        self.statuses: Counter[str] = Counter()
        self._chance = random.Random(seed)

    async def lane(self, client: Client, number: int) -> None:
        """One client."""
        while not self.ended:
            kind: Kind = self._chance.choice(_KINDS)
            mine = len(self.answered) + 1
            self.answered[mine] = False
            body, tokens = kind.request(mine, self._chance)
            answer = await client.ask(body, key_of(mine), x_sim_tokens=min(tokens, 60))
            self.answered[mine] = answer.whole
            self.statuses["200" if answer.status == 200 else f"{answer.status} {answer.error}".strip()] += 1
            await asyncio.sleep(self._chance.expovariate(1 / THINKING_S))


class Killer:
    """Kills; at random points, by a seed that is printed."""

    def __init__(self, weir: Weir, kills: int, seed: int, ends_s: float) -> None:
        self.weir, self.kills = weir, kills
        self.killed: Counter[str] = Counter()
        self.torn = 0
        self._chance = random.Random(seed)
        self._ends_s = ends_s
        self._serving: set[int] = set()

    async def run(self) -> None:
        """All of them, or as many as there is time for."""
        ready: list[int] = []
        while (done := self.killed.total()) < self.kills and time.monotonic() < self._ends_s:
            if done % TOLD == 0:
                sys.stderr.write(f"{done} kills\n")
            kind = self._chance.random()
            if kind < EVERYTHING:
                self._everything()  # in this thread: a process ends with the one that started it
            elif kind < EVERYTHING + STATE and (pid := self.weir.state_process()) is not None:
                self._kill(pid, "state process")
            else:
                while len(ready := self._ready()) < LEAST_READY:
                    await asyncio.sleep(0.02)
                self._kill(self._chance.choice(ready), "worker")
            await asyncio.sleep(LEAST_APART_S + self._chance.expovariate(1 / LEAST_APART_S))

    def _kill(self, pid: int, what: str) -> None:
        self._serving.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.killed[what] += 1

    def _ready(self) -> list[int]:
        """Workers that serve, by the log; it is looked at often, so only at what is new."""
        assert self.weir.process is not None
        self._serving |= {line["pid"] for line in self.weir.news("worker ready")}
        self._serving = {pid for pid in self._serving if parent_of(pid) == self.weir.process.pid}
        return sorted(self._serving)

    def _everything(self) -> None:
        self.weir.kill()
        self.killed["everything"] += 1
        self._tear()
        self.weir.start()

    def _tear(self) -> None:
        """What a power cut in the middle of a write leaves behind. Each worker has begun another file before long."""
        segments = sorted((self.weir.home / "journal").glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
        for segment in segments[-2:]:
            with segment.open("ab") as file:
                file.write(self._chance.choice(_ENDS))
            self.torn += 1


def rows(directory: Path, *, quick: bool, kills: int | None = None, within_s: float = inf) -> Iterator[Row]:
    """One long run."""
    count, seed = kills or (50 if quick else 1_000), random.randrange(2**32)
    budget = f"[{{use: budget, name: all, limit: {LIMIT_USD} USD/month}}, {_two()}]"
    setup = Setup(policies=budget, workers=WORKERS, command=("-m", "bench.money.serving"))
    pace = ("--unary", "lognormal(40ms, 0.7)", "--ttft", "lognormal(20ms, 0.5)", "--per-token", "0.5ms")
    clients = Clients(seed)
    began_s = time.monotonic()
    with world(directory, setup, *pace) as (provider, weir):
        killer = Killer(weir, count, seed, began_s + within_s)
        uvloop.run(_under_load(weir, clients, killer))
        took_s = time.monotonic() - began_s
        provider.quiet()
        resolved_s = until(lambda: uvloop.run(_standing(weir)) == 0, 40.0)
        counted = weir.counted("all")
        invoice = provider.rows()
    yield from _judged(weir, clients, killer, invoice, counted, resolved_s, took_s, seed)


def _two() -> str:
    return f"{{use: rungs, small: {TWO_RUNGS.model}, large: gpt-4.1-mini}}"


async def _under_load(weir: Weir, clients: Clients, killer: Killer) -> None:
    async def killing() -> None:
        try:
            await killer.run()
        finally:
            clients.ended = True

    async with asyncio.TaskGroup() as group:
        group.create_task(lanes(CLIENTS, weir.url, clients.lane), name="clients")
        group.create_task(killing(), name="kills")


async def _standing(weir: Weir) -> int | None:
    """Holds of the dead; None where the state process has just been killed itself."""
    store = weir.store()
    try:
        return len([hold for hold in await store.standing("") if any(part.amount for part in hold.parts)])
    except StateLost:
        return None
    finally:
        await store.aclose()


def _judged(
    weir: Weir,
    clients: Clients,
    killer: Killer,
    invoice: list[dict[str, object]],
    counted: int,
    resolved_s: float | None,
    took_s: float,
    seed: int,
) -> Iterator[Row]:
    url = weir.setup.ledger
    ledgers.finish(weir.home, url)
    found = ledgers.compare(weir.home, url, invoice, clients.answered, most_attempts=2)
    billed = sum(bill.nanodollars for bill in ledgers.bills(invoice).values())
    kills, tried = killer.killed.total(), len(clients.answered)
    what = ", ".join(f"{count} {name}" for name, count in killer.killed.most_common())
    yield judged(
        f"{kills} kill -9 under load{'' if kills >= killer.kills else f' ({killer.kills} wanted: time was over)'}",
        "0 acknowledged events lost, 0 counted twice",
        f"{len(found.lost)} lost, {len(found.twice)} twice, {len(found.forgotten)} dispatched ones forgotten",
        found.clean and found.acknowledged > kills,
        f"seed {seed}; {what}; {tried} requests, {found.acknowledged} acknowledged, in {took_s:.0f} s "
        f"({', '.join(f'{count} {status}' for status, count in clients.statuses.most_common())}); "
        f"ledger: {'; '.join(found.problems) or 'its chain holds'}",
        lost=found.lost[:50],
        twice=found.twice[:50],
        forgotten=found.forgotten[:50],
        statuses=dict(clients.statuses),
    )
    aside = len(list((weir.home / "journal").glob(f"*{TORN}")))
    yield judged(
        "torn ends of journals",
        "each cut at the last whole record, and kept aside",
        f"{killer.torn} torn, {aside} kept aside",
        found.clean and aside >= killer.torn,
        "a kill may tear one, too",
    )
    yield judged(
        "the budget after the kills",
        "nothing held after 30 s; counts no less than the invoice",
        f"{counted - billed:+} nano-dollars against the invoice, "
        f"nothing held after {f'{resolved_s:.1f} s' if resolved_s is not None else 'over 40 s'}",
        resolved_s is not None and resolved_s <= 30 and counted >= billed,
        counted=counted,
        billed=billed,
    )
