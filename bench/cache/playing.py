"""Plays a stream against the product: a whole data plane with the policy, over sockets, one request after the other."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from bench.cache.provider import Provider
from bench.cache.streams import Asked
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
    seen: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    policy = entry("cache", exact={"ttl": 86_400.0}, semantic={"max_error": max_error})
    start = time.monotonic()
    async with Provider({one.text: one.right for one in stream}, paraphrase) as provider:
        with tempfile.TemporaryDirectory(prefix="weir-bench-") as name:
            settings = {"policies": [policy], "cards": RateCards.from_bytes(RateCards.compile().to_bytes())}
            if store:
                settings["store"] = MemoryStore()
            async with running(provider.url, Path(name), **settings) as plane, await plane.connect() as client:
                for number, one in enumerate(stream):
                    await _one(one, number, client, provider, plane, played, seen)
                    if (number + 1) % STEP == 0:
                        played.curve.append((number + 1, played.semantic, played.wrong))
                played.audits = sum(told["kind"] == "audit" for told in plane.journal("ended"))
    played.seconds = time.monotonic() - start
    played.upstream_calls = provider.calls
    played.tenants = dict(seen)
    return played


async def _one(
    one: Asked, number: int, client: Raw, provider: Provider, plane: Plane, played: Played, seen: dict[str, list[int]]
) -> None:
    body = orjson.dumps({"model": "gpt-4o-mini", "temperature": 0, "messages": [{"role": "user", "content": one.text}]})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer sk-{one.tenant}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    answer = await client.ask(head.encode() + body)
    how = (answer.header(b"x-weir-cache") or b"").decode()
    text = answer.json["choices"][0]["message"]["content"]
    told = seen[one.tenant]
    told[0] += 1
    if how == "hit":
        played.exact += 1
        told[1] += 1
    elif how == "semantic":
        if played.certified_at is None:
            played.certified_at = number
        wrong = provider.told[text] != one.right
        played.semantic += 1
        played.wrong += wrong
        played.out_of_scope += not one.scope
        told[1] += 1
        told[2] += wrong
    while plane.plane._background:  # audits, learning, fits: between real requests there is time for them
        await asyncio.sleep(0.0002)


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
