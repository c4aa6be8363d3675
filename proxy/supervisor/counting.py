"""Keeps the process that counts tokens (`proxy.tokens.process`): where there are vocabularies, and anybody would ask.

Rules: only a hard budget asks, near its limit. Whether the files are there is looked at again and again, so that
`weir tokenizers fetch` needs no restart. A process that ends is started again; without one, budgets reserve by the
bound (`proxy.tokens.remote`). It isn't waited for: workers serve before it does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.logs import Log
from proxy.state.opening import COUNTING, socket_path
from proxy.tokens.ranks import any_there, cache_dir
from proxy.tokens.remote import CountingProcess

if TYPE_CHECKING:
    from proxy.config.policies import PolicyEntry

AGAIN_S: Final = 5.0


def asks(policies: Iterable[PolicyEntry]) -> bool:
    """Whether any of these would have tokens counted."""
    return any(entry.use == "budget" and entry.options.get("hard", True) is not False for entry in policies)


class Counting:
    """The supervisor's. `wanted` says whether anybody would ask."""

    def __init__(self, home: Path, wanted: Callable[[], bool], log: Log, again_s: float = AGAIN_S) -> None:
        self._wanted = wanted
        self._log = log
        self._again_s = again_s
        self._cache = cache_dir(os.environ, home)
        self.process = CountingProcess(socket_path(home, COUNTING), self._cache)

    async def follow(self) -> None:
        """Starts it when it is wanted, and again when it ends."""
        while True:
            if self._wanted() and await asyncio.to_thread(any_there, self._cache):
                try:
                    await self.process.start()
                    status = await self.process.ended()
                except OSError as error:
                    self._log.warning("tokens aren't counted", reason=str(error))
                else:
                    self._log.warning("counting process died", status=status)
            await asyncio.sleep(self._again_s)
