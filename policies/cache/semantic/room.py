"""One partition with the answers of its entries, and all partitions of a worker. Pure.

Rules:
1. A group of entries is named by the answer that was there first; others that say the same join it.
2. What was used least recently leaves first, partition by partition, once there are more entries than allowed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from policies.cache.semantic.equality import Answer, Common, alike
from policies.cache.semantic.partition import Held, Near, Partition
from policies.cache.semantic.static import Vector


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """An entry as workers tell each other of it, and as it is kept: vectors in half precision."""

    tenant: str
    room: str
    key: str
    text: str
    tokens: bytes
    vector: bytes
    made_s: float
    group: bytes  # the name of its group
    name: bytes  # of its own answer
    answer: bytes  # the vector of its own answer
    numbers: tuple[str, ...]
    negated: bool
    opposed: int
    length: int


class Room:
    """One partition, and what its entries answer."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.partition = Partition()
        self.common = Common()
        self.building = False
        self._numbers: dict[bytes, int] = {}  # of groups, by the names of all their answers
        self._answers: list[Answer] = []  # of each group, the first

    def __repr__(self) -> str:
        return f"<Room {len(self.partition)} entries>"

    def name(self, group: int) -> bytes:
        """The name of a group."""
        return self._answers[group].name

    def grouped(self, answer: Answer, near: Near | None, *, similar: bool) -> bytes:
        """The name of the group that an answer belongs to: one that is there, or its own."""
        number = self._numbers.get(answer.name)
        if number is None and similar and near is not None:
            groups = [group for group in dict.fromkeys(near.groups.tolist()) if group >= 0]
            found = alike(answer, [self._answers[group] for group in groups], self.common)
            number = None if found is None else self._numbers[found.name]
        return answer.name if number is None else self.name(number)

    def add(self, stored: Stored) -> None:
        """Takes an entry in."""
        vector = np.frombuffer(stored.vector, np.float16).astype(np.float32)
        said = np.frombuffer(stored.answer, np.float16).astype(np.float32)
        number = self._numbers.get(stored.group)
        if number is None:
            number = len(self._answers)
            numbers = frozenset(stored.numbers)
            self._answers.append(Answer(stored.group, said, numbers, stored.negated, stored.opposed, stored.length))
            self._numbers[stored.group] = number
        self._numbers.setdefault(stored.name, number)
        self.common.add(said)
        self.partition.add(Held(stored.key, stored.text, number, stored.made_s, stored.tokens), vector)


class Rooms:
    """All partitions, least recently used first."""

    def __init__(self, most: int, make: Callable[[str], Room]) -> None:
        self._most = most
        self._make = make
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self.entries = 0

    def __len__(self) -> int:
        return len(self._rooms)

    def __iter__(self) -> Iterator[Room]:
        return iter(list(self._rooms.values()))

    def get(self, name: str, tenant: str) -> Room | None:
        """A partition that is there, and is this tenant's."""
        room = self._rooms.get(name)
        if room is None or room.tenant != tenant:
            return None
        self._rooms.move_to_end(name)
        return room

    def add(self, stored: Stored) -> Room:
        """Takes an entry into its partition; others leave, if there are too many."""
        room = self._rooms.get(stored.room)
        if room is None:
            room = self._rooms[stored.room] = self._make(stored.tenant)
        before = len(room.partition)
        room.add(stored)
        self.entries += len(room.partition) - before
        while self.entries > self._most:
            self._shrink(stored.room)
        return room

    def _shrink(self, spared: str) -> None:
        name = next(iter(self._rooms))
        if name != spared:
            self.entries -= len(self._rooms.pop(name).partition)
        elif len(self._rooms) > 1:
            self._rooms.move_to_end(name)
        else:
            self.entries -= self._rooms[name].partition.remove([self._rooms[name].partition.oldest])

    def remove(self, name: str, keys: list[str]) -> None:
        """Removes entries of a partition."""
        room = self._rooms.get(name)
        if room is not None:
            self.entries -= room.partition.remove(keys)

    def remove_keys(self, keys: list[str]) -> None:
        """Removes entries, wherever they are."""
        for name in self._rooms:
            self.remove(name, keys)

    def remove_tenant(self, tenant: str) -> None:
        """Forgets all that a tenant has."""
        for name in [name for name, room in self._rooms.items() if room.tenant == tenant]:
            self.entries -= len(self._rooms.pop(name).partition)


def half(vector: Vector) -> bytes:
    """A vector in half precision."""
    return vector.astype(np.float16).tobytes()
