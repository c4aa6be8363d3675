"""How long looking and deciding take on a miss: vector, neighbours, features, score, on the loop's thread."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.cache.streams import banking
from bench.quantiles import percentile
from policies.cache.semantic.equality import Answer
from policies.cache.semantic.features import candidate, question
from policies.cache.semantic.learner import Learner
from policies.cache.semantic.lens import ground
from policies.cache.semantic.partition import built
from policies.cache.semantic.room import Room, Stored, half
from policies.cache.semantic.static import Static

LOOKS = 2000


@dataclass(frozen=True, slots=True)
class Timed:
    """Milliseconds, and how much memory an entry took."""

    p50: float
    p99: float
    entries: int
    partitions: int
    bytes_an_entry: float


def timed(entries: int, partitions: int) -> Timed:
    """Looks in partitions filled with a bank's questions, words exchanged so that none comes twice."""
    static, drawn = Static(), random.Random(3)
    texts, words = [one.text for one in banking()], sorted({word for one in banking() for word in one.text.split()})
    before = _resident()
    rooms = []
    each = entries // partitions
    for number in range(partitions):
        room = Room("one")
        for place in range(each):
            room.add(_stored(_other(drawn, texts, words), f"{number}-{place}", drawn.randrange(2000), static))
        if room.partition.wants_index:
            room.partition.take(built(*room.partition.to_index()))
        room.partition.look_through(ground(*room.partition.to_lens()))
        rooms.append(room)
    taken = _resident() - before
    learner, times = Learner(0.02), []
    for _ in range(LOOKS):
        text, room = _other(drawn, texts, words), drawn.choice(rooms)
        start = time.perf_counter_ns()
        asked = question(text, static)
        near = room.partition.nearest(asked.vector)
        assert near is not None
        found = candidate(
            asked, near, room.partition, static, lambda group, room=room: learner.record(room.name(group))
        )  # type: ignore[misc]
        learner.serves(found.features, learner.weights.score(found.features))
        times.append((time.perf_counter_ns() - start) / 1e6)
    return Timed(percentile(times, 50), percentile(times, 99), entries, partitions, taken / entries)


def _other(drawn: random.Random, texts: list[str], words: list[str]) -> str:
    said = drawn.choice(texts).split()
    for _ in range(2):
        said[drawn.randrange(len(said))] = drawn.choice(words)
    return " ".join(said)


def _stored(text: str, key: str, group: int, static: Static) -> Stored:
    asked = question(text, static)
    name = b"%d" % group
    answer = Answer(name, b"", (), False, 0)
    tokens, vector = asked.tokens.tobytes(), half(asked.vector)
    return Stored("one", "p", key, text, tokens, vector, time.time(), name, answer, None)


def _resident() -> int:
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
