"""Steady load: clients that ask one after another until they are told to stop, and what they saw, second by second."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

from bench.money.clients import Answer, Client, lanes
from bench.money.kinds import Kind
from bench.money.world import key_of


class Load:
    """One crowd. `models` may give a kind's model another name."""

    def __init__(self, kinds: Sequence[Kind], *, longest: int = 60, seed: int = 3, pause_s: float = 0.0) -> None:
        self.answers: dict[int, Answer] = {}
        self.ended = False
        self._kinds, self._longest, self._pause_s = kinds, longest, pause_s
        self._chance = random.Random(seed)

    async def lane(self, client: Client, number: int) -> None:
        """One client."""
        while not self.ended:
            kind = self._chance.choice(self._kinds)
            mine = len(self.answers) + 1
            self.answers[mine] = Answer()
            body, tokens = kind.request(mine, self._chance)
            answer = await client.ask(body, key_of(mine), x_sim_tokens=min(tokens, self._longest))
            answer.body = answer.body if answer.status != 200 else b"data: [DONE]" if answer.whole else b""
            self.answers[mine] = answer
            if self._pause_s or answer.status != 200:
                await asyncio.sleep(self._pause_s or 0.05)

    async def run(self, clients: int, url: str, seconds: float) -> None:
        """So many clients, for so long."""
        asyncio.get_running_loop().call_later(seconds, self._end)
        await lanes(clients, url, self.lane, apart_s=0.001)

    def _end(self) -> None:
        self.ended = True

    # --- what was seen

    def answered(self) -> dict[int, bool]:
        """Of each request, whether it was answered in full."""
        return {number: answer.whole for number, answer in self.answers.items()}

    def codes(self, since_s: float = 0.0, until_s: float = float("inf")) -> Counter[str]:
        """Answers to requests of a span of time, by status and code."""
        return Counter(
            f"{a.status} {a.error}".strip() if a.status != 200 else "200" for a in self._of(since_s, until_s)
        )

    def slowest_s(self, since_s: float = 0.0, until_s: float = float("inf")) -> float:
        """The longest that anybody waited for an answer."""
        return max((answer.took_s for answer in self._of(since_s, until_s)), default=0.0)

    def _of(self, since_s: float, until_s: float) -> list[Answer]:
        return [answer for answer in self.answers.values() if since_s <= answer.began_s < until_s]


def now_s() -> float:
    """The clock of `Answer.began_s`."""
    return time.monotonic()
