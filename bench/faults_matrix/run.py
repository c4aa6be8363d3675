"""The whole run: each seed in a world of its own, then the table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.faults_matrix.budget import overspent
from bench.faults_matrix.drive import ROWS, Asked, Drive, Told
from bench.faults_matrix.expected import CASES, Case
from bench.faults_matrix.kinds import KINDS, Kind
from bench.faults_matrix.planes import world
from bench.faults_matrix.sdk import Sdk
from proxy.pricing import RateCards

SHOWN = 40


def everything(
    seeds: Iterable[int], only: str = "", *, sdk: bool = True, say: Callable[[str], object] = lambda line: None
) -> Told:
    """Runs all seeds, one after another."""
    began, told = time.monotonic(), Told()
    cards = RateCards.from_bytes(RateCards.compile().to_bytes())
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="weir-faults-") as directory:
            found = uvloop.run(one_seed(seed, only, Path(directory), cards, told))
        with tempfile.TemporaryDirectory(prefix="weir-faults-") as directory:
            admitted, refused, wrong = uvloop.run(overspent(Path(directory), cards, seed))
        told.under_budget += admitted + refused
        told.wrong += [f"seed {seed}: {each}" for each in wrong]
        if sdk:  # what it sees of a fault doesn't depend on the seed's other draws
            sdk = False
            with tempfile.TemporaryDirectory(prefix="weir-faults-") as directory:
                uvloop.run(_by_sdk(seed, only, Path(directory), cards, told))
        say(f"seed {seed}: {len(found)} cases, {sum(bool(one.wrong) for one in found)} wrong")
    told.took_s = time.monotonic() - began
    return told


async def one_seed(seed: int, only: str, directory: Path, cards: RateCards, told: Told) -> list[Asked]:
    async with world(directory, cards, seed) as running:
        asked = await Drive(running, seed, *_chosen(only)).run()
        told.wrong += [f"I1: {case} reached the upstream unannounced" for case in running.unannounced]
    for one in asked:
        told.cases += 1
        told.by_row[one.row] += 1
        told.wrong += [f"seed {seed}, row {one.row}, {one.what} on {one.kind}: {wrong}"[:300] for wrong in one.wrong]
    return asked


async def _by_sdk(seed: int, only: str, directory: Path, cards: RateCards, told: Told) -> None:
    async with world(directory, cards, seed, unreachable=False) as running:
        asking = Sdk(running, seed, *_chosen(only))
        told.wrong += await asking.run()
        told.by_sdk += asking.asked


def _chosen(only: str) -> tuple[Sequence[Kind], Sequence[Case]]:
    kinds, cases = [kind for kind in KINDS if only in kind.name], [case for case in CASES if only in case.name]
    return kinds or KINDS, cases or CASES


def show(told: Told, console: Console) -> None:
    """The result."""
    table = Table("row", "cases", pad_edge=False)
    for row in (0, *ROWS):
        table.add_row("none" if not row else str(row), str(told.by_row[row]))
    console.print(table)
    for wrong in told.wrong[:SHOWN]:
        console.print(wrong, markup=False)
    if len(told.wrong) > SHOWN:
        console.print(f"… and {len(told.wrong) - SHOWN} more")
    more = f"{told.by_sdk} by the SDK, {told.under_budget} under a small budget"
    console.print(f"{told.cases} cases, {more}, {len(told.wrong)} wrong, {told.took_s:.0f} s")
