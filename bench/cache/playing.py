"""Plays a stream against the product: a whole data plane with the policy, over sockets, one request after the other."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from bench.cache.asked import Asked
from bench.cache.provider import Provider, said
from proxy.pricing import RateCards
from proxy.state.memory import MemoryStore
from tests.plane.running import Plane, entry, running
from tests.wire.raw import Raw

STEP = 250


@dataclass(slots=True)
class Played:
    """What came of a stream. Curves have a point every `STEP` requests: hits and wrong ones so far."""

    requests: int = 0
    exact: int = 0
    semantic: int = 0
    wrong: int = 0
    audits: int = 0
    out_of_scope: int = 0  # hits by meaning on what nobody should answer
    elsewhere: int = 0  # answers of another conversation
    probes: int = 0  # questions that differ by a word from one that was asked before
    misled: int = 0  # of them, those that got a wrong answer from the cache
    certified_at: int | None = None
    curve: list[tuple[int, int, int]] = field(default_factory=list)
    tenants: dict[str, list[int]] = field(default_factory=dict)  # requests, hits, wrong
    seconds: float = 0.0
    upstream_calls: int = 0

    @property
    def hit_rate(self) -> float:
        """Answered from the cache, by meaning or exactly, of all."""
        return (self.exact + self.semantic) / max(1, self.requests)

    @property
    def semantic_rate(self) -> float:
        """Answered by meaning, of all."""
        return self.semantic / max(1, self.requests)

    @property
    def error(self) -> float:
        """Wrong, of what was answered by meaning: an exact hit can't be."""
        return self.wrong / max(1, self.semantic)


async def play(stream: list[Asked], max_error: float, *, paraphrase: bool = False, store: bool = False) -> Played:
    """From a cold cache, by default settings."""
    played = Played(requests=len(stream))
    policy = entry("cache", exact={"ttl": 86_400.0}, semantic={"max_error": max_error})
    start = time.monotonic()
    async with Provider({said(one.turns): one.right for one in stream}, paraphrase) as provider:
        with tempfile.TemporaryDirectory(prefix="weir-bench-") as name:
            settings = {"policies": [policy], "cards": RateCards.from_bytes(RateCards.compile().to_bytes())}
            if store:
                settings["store"] = MemoryStore()
            async with running(provider.url, Path(name), **settings) as plane, await plane.connect() as client:
                player = _Player(played, client, provider, plane, {one.right: one.before for one in stream})
                for number, one in enumerate(stream):
                    await player.ask(one, number)
                    if (number + 1) % STEP == 0:
                        played.curve.append((number + 1, played.semantic, played.wrong))
                played.audits = sum(told["kind"] == "audit" for told in plane.journal("ended"))
    played.seconds = time.monotonic() - start
    played.upstream_calls = provider.calls
    return played


@dataclass(slots=True)
class _Player:
    """A client, and what it plays against. `talks`: the turns before, by answer."""

    played: Played
    client: Raw
    provider: Provider
    plane: Plane
    talks: dict[str, tuple[str, ...]]

    async def ask(self, one: Asked, number: int) -> None:
        answer = await self.client.ask(_request(one))
        how = (answer.header(b"x-weir-cache") or b"").decode()
        self._count(one, number, how, self.provider.told[answer.json["choices"][0]["message"]["content"]])
        while self.plane.plane.tasks.running:  # audits, learning, fits: between real requests there is time for them
            await asyncio.sleep(0.0002)

    def _count(self, one: Asked, number: int, how: str, came: str) -> None:
        played, wrong = self.played, came != one.right
        told = played.tenants.setdefault(one.tenant, [0, 0, 0])
        told[0] += 1
        played.probes += bool(one.after)
        if how not in ("hit", "semantic"):
            return
        told[1] += 1
        played.elsewhere += self.talks[came] != one.before
        played.misled += bool(one.after) and wrong
        if how == "hit":
            played.exact += 1
            return
        if played.certified_at is None:
            played.certified_at = number
        played.semantic += 1
        played.wrong += wrong
        played.out_of_scope += not one.scope
        told[2] += wrong


def _request(one: Asked) -> bytes:
    messages = [{"role": "assistant" if place % 2 else "user", "content": turn} for place, turn in enumerate(one.turns)]
    body = orjson.dumps({"model": "gpt-4o-mini", "temperature": 0, "messages": messages})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer sk-{one.tenant}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def spread(played: Played) -> str:
    """How tenants fared, by how much they ask."""
    rows = sorted(played.tenants.values(), reverse=True)
    busy = [row for row in rows if row[0] >= 500]
    rest = [row for row in rows if row[0] < 500]
    parts = []
    for name, group in (("over 500 requests", busy), ("fewer", rest)):
        asked, hits, wrong = (sum(row[at] for row in group) for at in range(3))
        share = f"{hits / max(1, asked):.1%} hits, {wrong} wrong"
        parts.append(f"{len(group)} tenants with {name}: {share}")
    worst = max((row[2] / row[1] for row in rows if row[1] >= 50), default=0.0)
    return "; ".join(parts) + f"; the worst with 50 hits: {worst:.1%} wrong"
