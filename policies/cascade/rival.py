"""The large model, asked beside the small one where waiting is dearer than a call in vain.

Rules: whoever starts it takes its answer or closes it; a call that is given up is settled by then.
"""

from __future__ import annotations

import asyncio

from proxy.exchange import Forward, Request
from proxy.response import Response


def pays(escalated: float, small_s: float, second_nanos: int, large_nanos: float) -> bool:
    """Whether both are to be asked at once: escalating saves the time that the small answer takes, and not escalating
    costs a large one. What a provider doesn't bill of a call that was given up is left out: it isn't known before."""
    return escalated * small_s * second_nanos > (1 - escalated) * large_nanos


class Rival:
    """One such call."""

    def __init__(self, request: Request, forward: Forward) -> None:
        self._task = asyncio.get_running_loop().create_task(_asked(request, forward), name="cascade: the large model")

    async def answer(self) -> Response:
        """Its answer. Raises WeirError."""
        try:
            return await self._task
        except asyncio.CancelledError:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Gives it up."""
        self._task.cancel()
        (found,) = await asyncio.gather(self._task, return_exceptions=True)
        if isinstance(found, Response):
            await found.aclose()


async def _asked(request: Request, forward: Forward) -> Response:
    return await forward(request)
