"""Long work on a worker's loop, in small steps between which requests are answered.

Rules:
1. The work is a generator that yields wherever it may rest and returns its result. It is the same work taken at once.
2. It rests when `STEP_S` were used up, so a turn of the loop lasts that and what lies between two yields.
3. Where it is given up, by an error or because its task is cancelled, it undoes what it had begun.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Final, TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
STEP_S: Final = 0.0002


async def gently(steps: Steps[T], clock: Callable[[], float] = time.perf_counter) -> T:
    """The result of work that lets others have their turn."""
    began_s = clock()
    try:
        while True:
            try:
                next(steps)
            except StopIteration as done:
                result: T = done.value
                return result
            if clock() - began_s >= STEP_S:
                await asyncio.sleep(0)
                began_s = clock()
    finally:
        steps.close()


def at_once(steps: Steps[T]) -> T:
    """The result of work that nobody else waits for."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
