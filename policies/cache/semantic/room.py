"""One partition with the answers of its entries, and all partitions of a worker. Pure.

Rules:
1. A group of entries is named by the answer that was there first; others that say the same join it, and whole groups
   may.
2. What was used least recently leaves first, partition by partition, once there are more entries than allowed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from policies.cache.semantic.equality import Answer, Common, alike
from policies.cache.semantic.facts import unpacked
from policies.cache.semantic.partition import MOST, Held, Near, Partition
from policies.cache.semantic.static import Vector

_BESIDE: Final = 0.7  # similarity from which on questions may have the same answer
_WORDINGS: Final = 8  # of one answer, that others are compared with
_LOOKED_AT: Final = 12  # nearest entries whose answers are compared with a new one


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
    answer: Answer
    beside: bytes | None  # the words of the nearest question's answer
    joined: tuple[bytes, ...] = ()  # groups that turned out to be the same


class Room:
    """One partition, and what its entries answer."""

    def __init__(self, tenant: str, most: int = MOST) -> None:
        self.tenant = tenant
        self.partition = Partition(most=most)
        self.common = Common()
        self.building = False
        self._numbers: dict[bytes, int] = {}  # of groups, by the names of all their answers
        self._names: list[bytes] = []  # of each group: what all workers call it
        self._answers: list[list[Answer]] = []  # of each group: its answer in some wordings
        self._aliases: list[list[bytes]] = []  # and the names of all its answers

    def __repr__(self) -> str:
        return f"<Room {len(self.partition)} entries>"

    def name(self, group: int) -> bytes:
        """The name of a group."""
        return self._names[group]

    def grouped(self, answer: Answer, near: Near | None, *, similar: bool) -> tuple[bytes, tuple[bytes, ...]]:
        """The name of the group that an answer belongs to, one that is there or its own; and others that are the same.

        Some hundred comparisons of sets of words at most: for a thread.
        """
        known = self._numbers.get(answer.name)
        found = [] if known is None else [known]
        if similar and near is not None:
            groups = dict.fromkeys(group for group in near.groups[:_LOOKED_AT].tolist() if group >= 0)
            found += [g for g in groups if g != known and alike(answer, list(self._answers[g]), self.common)]
        if not found:
            return answer.name, ()
        into = max(found, key=lambda group: self.partition.members[group])
        return self._names[into], tuple(self._names[group] for group in found if group != into)

    def beside(self, near: Near | None) -> bytes | None:
        """The words of the nearest question's answer, if one is near."""
        if near is None or near.similar[0] < _BESIDE:
            return None
        held = self.partition.held[int(near.places[0])]
        return None if held is None else held.words

    def add(self, stored: Stored) -> None:
        """Takes an entry in."""
        vector = np.frombuffer(stored.vector, np.float16).astype(np.float32)
        number = self._numbers.get(stored.group)
        if number is None:
            number = len(self._names)
            self._names.append(stored.group)
            self._answers.append([])
            self._aliases.append([])
            self._call(number, stored.group)
        for name in stored.joined:
            self._join(name, number)
        if stored.answer.name not in self._numbers or not self._answers[number]:
            self._say(number, stored.answer)
        self.common.add(stored.answer.set, None if stored.beside is None else unpacked(stored.beside))
        held = Held(stored.key, stored.text, number, stored.made_s, stored.tokens, stored.answer.words)
        self.partition.add(held, vector)

    def _call(self, number: int, name: bytes) -> None:
        self._numbers[name] = number
        self._aliases[number].append(name)

    def _say(self, number: int, answer: Answer) -> None:
        """A wording of a group's answer."""
        if answer.name not in self._numbers:
            self._call(number, answer.name)
        if len(self._answers[number]) < _WORDINGS:
            self._answers[number].append(answer)

    def _join(self, name: bytes, into: int) -> None:
        """Makes one group of two."""
        number = self._numbers.get(name)
        if number is None or number == into:
            return
        self.partition.merge(number, into)
        for alias in self._aliases[number]:
            self._call(into, alias)
        for answer in self._answers[number]:
            self._say(into, answer)
        self._aliases[number], self._answers[number] = [], []


class Rooms:
    """All partitions, least recently used first."""

    def __init__(self, most: int) -> None:
        self._most = most
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
            room = self._rooms[stored.room] = Room(stored.tenant, self._most)
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
