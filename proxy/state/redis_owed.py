"""What has to reach the server when it is back: the closing of a hold, and the withdrawal of one that nobody heard of.

Rules:
1. Only what may be told twice: within the hour for which a closed hold is remembered, a second time changes nothing.
2. In the order in which it was owed; for 50 minutes, and the newest 10,000 of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from proxy.state.protocol import StateLost
from proxy.state.redis_line import Line, Script

_MOST: Final = 10_000
_KEPT_S: Final = 3000.0
_AGAIN_S: Final = 0.1


class Owed:
    """Calls that were lost, told again over the same line."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._calls: deque[tuple[float, Script, tuple[str | bytes, ...]]] = deque(maxlen=_MOST)
        self._telling: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"<Owed {len(self._calls)}>"

    def add(self, script: Script, *words: str | bytes) -> None:
        """Owes a call. On the same connection as the one that was lost, it comes after it."""
        loop = asyncio.get_running_loop()
        self._calls.append((loop.time(), script, words))
        if self._telling is None or self._telling.done():
            self._telling = loop.create_task(self._tell(), name="redis owed")

    async def aclose(self) -> None:
        """Tells what the server takes at once."""
        self._closed = True
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)

    async def _tell(self) -> None:
        time = asyncio.get_running_loop().time
        while self._calls:
            since_s, script, words = call = self._calls[0]
            try:
                if time() - since_s < _KEPT_S:
                    await self._line.run(script, *words)
            except StateLost:
                if self._closed:
                    return
                await asyncio.sleep(_AGAIN_S)
                continue
            except ValueError:  # its caller has been told
                pass
            if self._calls and self._calls[0] is call:
                self._calls.popleft()
