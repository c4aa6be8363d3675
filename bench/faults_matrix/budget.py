"""I2 under every fault: what is settled and what is reserved never pass the budget, and nothing stays reserved.

A budget that is too small for all of a seed's cases, over two planes that share a Store: some are admitted, some
refused.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from bench.faults_matrix.expected import CASES, expected
from bench.faults_matrix.judging import Record
from bench.faults_matrix.kinds import KINDS, TENANTS, Kind
from bench.faults_matrix.planes import CASE, World, secret_of, world
from policies import budget
from proxy.pricing import RateCards
from proxy.state.memory import MemoryStore
from tests.plane.running import entry
from tests.wire.raw import Raw, post

LIMIT_DOLLARS = 0.15
BOUNDED = ("chat", "completions", "responses", "messages", "embeddings")
AT_ONCE = 48


async def overspent(directory: Path, cards: RateCards, seed: int) -> tuple[int, int, list[str]]:
    """How many were admitted and refused, and what is wrong."""
    store = MemoryStore()
    policies = [entry("budget", limit=f"{LIMIT_DOLLARS} USD/rolling 1h", max_wait="2s")]
    made = world(directory, cards, seed, policies, False, registry={"budget": budget}, store=store)
    async with made as running:
        statuses = await _asked(running, seed)
        for plane in running.planes.values():
            await plane.quiet(30)
        standing = await store.standing()
        records = running.records()
    refused = statuses.count(429)
    wrong = [f"I2: {len(standing)} reservations stand after the end"] if standing else []
    wrong += [f"I1: {case} reached the upstream unannounced" for case in running.unannounced]
    return len(statuses) - refused, refused, wrong + _sums(records)


def _sums(records: list[Record]) -> list[str]:
    """At no time was more settled than there was."""
    spent, limit = 0, int(LIMIT_DOLLARS * 10**9)
    for record in sorted(records, key=lambda record: int(record["at"])):
        if record["event"] == "settled":
            spent += record["nanodollars"] or 0
            if spent > limit:
                return [f"I2: {spent} nano-dollars of {limit} are spent"]
    return [] if spent else ["nothing was spent at all"]


async def _asked(running: World, seed: int) -> list[int]:
    few = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, kind: Kind, fault: str, plane: str) -> int:
        tenant = TENANTS[number % len(TENANTS)]
        body, content_type = kind.request(Random(f"{seed} {kind} {number}"), tenant)
        lines = [f"content-type: {content_type}", f"authorization: Bearer {secret_of(tenant)}", f"x-sim-fault: {fault}"]
        case = f"{seed}-{number}"
        lines += [f"{CASE.decode()}: {case}", f"x-weir-tags: case={case}"]
        async with few, await Raw.connect(running.planes[plane].port) as client:
            return (await client.ask(post(kind.path, body, *lines))).status

    works: list[tuple[int, Kind, str, str]] = []
    for kind in KINDS:
        for case in CASES if kind.name.split(",")[0] in BOUNDED else ():
            fault = case.draw(Random(f"{seed} {kind} {case.name} budget"), kind)
            if (right := expected(fault, kind)) is not None and not fault.startswith(("rate-limit", "quota")):
                quick = case.timed and right.outcome != "whole"
                works.append((len(works), kind, fault, "quick" if quick else "patient"))
    Random(seed).shuffle(works)
    return await asyncio.gather(*[one(*work) for work in works])
