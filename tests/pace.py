"""Time as the machine lets it pass: a clock for limits that hold for the program, not for the machine it runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

STEP_S: Final = 0.01


class Pace:
    """`elapsed_s`: what has passed, where a step counts as one however long the machine takes for it."""

    elapsed_s = 0.0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            self.elapsed_s += STEP_S


@asynccontextmanager
async def pace() -> AsyncIterator[Pace]:
    """A clock that begins now. On a machine that has nothing else to do it goes a little slow, never fast."""
    made = Pace()
    running = asyncio.create_task(made.run(), name="pace")
    try:
        yield made
    finally:
        running.cancel()
