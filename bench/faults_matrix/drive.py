"""Asks every case, many at once, and collects what is wrong."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bench.faults_matrix.expected import CASES, Case, Expect, expected
from bench.faults_matrix.judging import Record, judge, stable, tenancy
from bench.faults_matrix.kinds import KINDS, TENANTS, Kind
from bench.faults_matrix.planes import ANSWER_S, CASE, UNREACHABLE, World, secret_of
from tests.plane.running import Plane
from tests.wire.raw import Answer, Raw, post

AT_ONCE, WAITING_AT_ONCE = 24, 400
GONE_S = 1.0  # how soon an upstream must be told that its client left
_NETWORK = {
    "refused": Expect("unbilled", 503, "upstream_unreachable", True),
    "unknown name": Expect("unbilled", 503, "upstream_unreachable", True),
    "black hole": Expect("unbilled", 504, "upstream_connect_timeout", True),
    "bad certificate": Expect("unbilled", 502, "upstream_tls", True),
}
ROWS = range(1, 36)


@dataclass(slots=True)
class Asked:
    """One case of one kind and seed, and what came back."""

    id: str
    row: int
    what: str
    kind: Kind
    tenant: str
    expect: Expect | None
    answer: Answer | None = None
    left_after_s: float | None = None
    wrong: list[str] = field(default_factory=list)


@dataclass
class Told:
    """The result of a run."""

    cases: int = 0
    by_sdk: int = 0
    under_budget: int = 0
    by_row: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    took_s: float = 0.0


class Drive:
    """One seed's cases, one after another made, many at once asked."""

    def __init__(self, world: World, seed: int, kinds: Iterable[Kind] = KINDS, cases: Iterable[Case] = CASES) -> None:
        self._world = world
        self._seed = seed
        self._kinds, self._cases = tuple(kinds), tuple(cases)
        self._usual, self._waiting = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(WAITING_AT_ONCE)
        self._plain: dict[Kind, list[bytes]] = {}
        self.asked: list[Asked] = []

    async def run(self) -> list[Asked]:
        """Asks everything, waits until all is settled, and judges."""
        async with asyncio.TaskGroup() as group:
            for kind in self._kinds:
                group.create_task(self._baseline(kind), name="case")
        for timed in (False, True):  # what shows by a time limit mustn't wait for the rest's work
            async with asyncio.TaskGroup() as group:
                for work in self._works(timed):
                    group.create_task(work, name="case")
        for plane in self._world.planes.values():
            await plane.quiet(30)
        records = _by_case(self._world.records())
        for one in self.asked:
            self._judge(one, records.get(one.id, []))
        return self.asked

    def _works(self, timed: bool) -> Iterator[Coroutine[Any, Any, None]]:
        for kind in self._kinds:
            for case in self._cases:
                if case.timed is not timed:
                    continue
                random = Random(f"{self._seed} {kind} {case.name}")
                fault = case.draw(random, kind)
                if (right := expected(fault, kind)) is not None:
                    yield self._case(case, kind, fault, right, random)
            if not timed:
                continue
            for name in UNREACHABLE:
                if name in self._world.planes:
                    yield self._unreachable(name, kind)
            yield self._leaves(kind, "no-headers")
            if kind.shape == "events":
                yield self._leaves(kind, "stall:2")

    # --- kinds of cases

    async def _baseline(self, kind: Kind) -> None:
        """The answer without a fault."""
        one = self._made(0, "no fault", kind, Expect("estimated" if kind.shape == "blob" else "whole"))
        one.answer = await self._ask(one, self._world.planes["patient"], "")
        self._plain[kind] = stable(one.answer.body)

    async def _case(self, case: Case, kind: Kind, fault: str, right: Expect, random: Random) -> None:
        one = self._made(case.row, fault, kind, right)
        quick = case.timed and right.outcome != "whole"
        async with self._waiting if case.timed else self._usual:
            one.answer = await self._ask(one, self._world.planes["quick" if quick else "patient"], fault)
        if case.row == 25 and kind.shape == "events" and stable(one.answer.body) != self._plain[kind]:
            one.wrong.append("other events than without the fault")
        if case.row == 15:  # the next request, which may meet the dead connection
            after = self._made(15, f"after {fault}", kind, right)
            async with self._usual:
                after.answer = await self._ask(after, self._world.planes["patient"], "")

    async def _unreachable(self, name: str, kind: Kind) -> None:
        one = self._made(1 + UNREACHABLE.index(name), name, kind, _NETWORK[name])
        async with self._waiting:
            one.answer = await self._ask(one, self._world.planes[name], "")

    async def _leaves(self, kind: Kind, fault: str) -> None:
        """The client goes away while the upstream works: before its answer, or in mid-stream."""
        one = self._made(35, f"leaves at {fault}", kind, None)
        async with self._waiting:
            try:
                await self._leave(one, fault)
            except TimeoutError:
                one.wrong.append("the upstream wasn't asked, or never told that the client left")

    async def _leave(self, one: Asked, fault: str) -> None:
        async with await self._world.planes["patient"].connect() as client:
            await client.send(self._request(one, fault))
            await self._world.arrived(one.id)
            if fault != "no-headers":
                await client.read_until(b"\n\n")
            client.close()
        left = time.monotonic()
        one.left_after_s = await self._world.departed(one.id) - left

    # --- asking

    def _made(self, row: int, what: str, kind: Kind, right: Expect | None) -> Asked:
        number = len(self.asked)
        tenant = TENANTS[0 if row in (0, 25) else number % len(TENANTS)]  # whose answers are compared must ask the same
        one = Asked(f"{self._seed}-{number}", row, what, kind, tenant, right)
        self.asked.append(one)
        return one

    def _request(self, one: Asked, fault: str) -> bytes:
        body, content_type = one.kind.request(Random(f"{self._seed} {one.kind}"), one.tenant)
        lines = [
            f"content-type: {content_type}",
            f"authorization: Bearer {secret_of(one.tenant)}",
            f"{CASE.decode()}: {one.id}",
            f"x-weir-tags: case={one.id}",
            "x-sim-tokens: 30",
        ]
        return post(one.kind.path, body, *lines, *([f"x-sim-fault: {fault}"] if fault else []))

    async def _ask(self, one: Asked, plane: Plane, fault: str) -> Answer:
        try:
            async with await Raw.connect(plane.port) as client:
                client.patience_s = ANSWER_S
                return await client.ask(self._request(one, fault))
        except (OSError, TimeoutError) as error:  # I5
            one.wrong.append(f"I5: no answer and no end: {type(error).__name__}")
            return Answer()

    # --- judging

    def _judge(self, one: Asked, records: list[Record]) -> None:
        if one.answer is not None and one.expect is not None and not one.wrong:
            one.wrong += judge(one.kind, one.tenant, one.expect, one.answer, records)
        if one.left_after_s is not None:
            one.wrong += _left(one, records)


def _left(one: Asked, records: list[Record]) -> Iterator[str]:
    """Row 35: told within a second, settled once as given up."""
    assert one.left_after_s is not None
    if one.left_after_s > GONE_S:
        yield f"the upstream was cancelled after {one.left_after_s:.2f} s"
    settled = [record for record in records if record["event"] == "settled"]
    ended = [record["outcome"] for record in records if record["event"] == "ended"]
    if [record["outcome"] for record in settled] != ["aborted"] or ended != ["aborted"]:
        yield f"settled as {[r['outcome'] for r in settled]}, ended as {ended}"
    yield from tenancy(one.kind, one.tenant, Expect("broken"), Answer())


def _by_case(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each case; `settled` says only whose exchange it is."""
    case_of: dict[str, str] = {}
    found: dict[str, list[Record]] = defaultdict(list)
    kept = list(records)
    for record in kept:
        if "tags" in record:
            case_of[record["exchange"]] = record["tags"].get("case", "")
    for record in kept:
        found[case_of.get(record["exchange"], "")].append(record)
    return found
