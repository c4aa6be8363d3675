"""The entries among which one looks: those of requests that are the same but for the last turn.

Rules:
1. An entry is a vector, the group of its answer (entries with equal answers have the same), its key and its text.
2. Up to `BRUTE` entries are compared one by one; beyond, a graph (usearch) finds the nearest, once it is built.
3. Removing leaves a hole, which is filled by the next entry.
4. What is found is looked at through a lens (`lens.py`), once one is ground; a new one as the entries become more.
5. A large one reserves room for all entries that it may ever have, at once: memory that nothing was written to costs
   nothing, and moving megabytes would hold the loop.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from policies.cache.semantic import lens
from policies.cache.semantic.facts import Facts, facts_of, unpacked
from policies.cache.semantic.lens import Groups, Lens
from policies.cache.semantic.static import Vector

if TYPE_CHECKING:
    from usearch.index import Index

BRUTE: Final = 2000
NEAR: Final = 30
_BREADTH: Final = 64  # of the graph's search: more finds more surely, and takes longer (decision 063)
_MORE: Final = 10  # that the graph, whose numbers are coarse, is asked for: what is nearest is then seen by the vectors
_FIRST: Final = 4
_LARGE: Final = 2048  # entries from which on a partition reserves,
_RESERVED: Final = 2**30  # but not more bytes than this for what it has of a kind
MOST: Final = 100_000
_LITTLE: Final = 4  # entries that a graph may be behind: the loop has them added in less than a millisecond
_WORDS: Final = 20_000  # that are counted


class Held(msgspec.Struct, frozen=True, gc=False):
    """One entry. `key` is that of the answer in the exact tier; `answer` a digest of what it says."""

    key: str
    text: str
    group: int
    made_s: float
    tokens: bytes = b""  # of the text, two bytes each
    words: bytes = b""  # of its answer (`facts.packed`)


class Near(msgspec.Struct, frozen=True):
    """The nearest entries, nearest first: their places, how similar each is (cosine), their groups."""

    places: npt.NDArray[np.int64]
    similar: Vector
    groups: npt.NDArray[np.int64]


class Partition:
    """Vectors, groups, texts and keys, by place."""

    def __init__(self, dimensions: int = 0, most: int = MOST) -> None:
        self._most = most
        self.dimensions = dimensions  # 0 until there is an entry
        self.vectors = np.zeros((_FIRST, dimensions), np.float32)
        self.groups = np.full(_FIRST, -1, np.int64)
        self.held: list[Held | None] = []
        self.facts: list[Facts] = []  # of the texts; of a hole, the last one's
        self.members: Counter[int] = Counter()
        self._places: dict[str, int] = {}
        self._holes: list[int] = []
        self._index: Index | None = None
        self.lens: Lens | None = None
        self.seen = np.zeros((0, lens.RANK), np.float32)  # the vectors as the lens shows them
        self._unseen: set[int] = set()  # places that changed while a lens is being ground
        self._added = 0
        self._lens_at = lens.FEWEST
        self._touched: set[int] = set()  # places that changed while a graph is being built
        self._seen: Counter[int] = Counter()  # entries that have the word
        self._rarity: dict[int, float] = {}  # what that takes from a word's weight
        self._lone: dict[int, tuple[int, float]] = {}  # groups of one: its place, and its vector's length
        self._sums = np.zeros((_FIRST, dimensions), np.float32)  # of the vectors of larger groups
        self._rows: dict[int, int] = {}
        self._row_holes: list[int] = []

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"<Partition {len(self)} entries, {len(self.members)} answers>"

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def add(self, held: Held, vector: Vector) -> None:
        """Adds an entry; one of the same key is replaced."""
        if not self.dimensions:
            self.dimensions = len(vector)
            self.vectors = np.zeros((_FIRST, self.dimensions), np.float32)
            self._sums = np.zeros((_FIRST, self.dimensions), np.float32)
        self.remove([held.key])
        if self._holes:
            place = self._holes.pop()
            self.held[place], self.facts[place] = held, facts_of(held.text)
        else:
            place = len(self.held)
            self.held.append(held)
            self.facts.append(facts_of(held.text))
            if place == len(self.vectors):
                self._grow()
        self.vectors[place] = vector
        self._unseen.add(place)
        if self.lens is not None:
            self.seen[place] = self.lens.through(vector)
        self.groups[place] = held.group
        self.members[held.group] += 1
        self._join(held.group, place)
        self._places[held.key] = place
        self._added += 1
        if len(self._seen) < _WORDS:
            for word in unpacked(self.facts[place].words):
                self._seen[word] += 1
                self._rarity[word] = math.log(self._seen[word] + 1)
        if self._index is None:
            self._touched.add(place)
        else:
            self._index.add(place, vector)

    def _grow(self) -> None:
        before, rows = len(self.vectors), self._more(len(self.vectors))
        self.vectors, self.groups = longer(self.vectors, rows), longer(self.groups, rows)
        self.groups[before:] = -1
        if self.lens is not None:
            self.seen = longer(self.seen, rows)

    def _more(self, rows: int) -> int:
        """How many there are room for next."""
        reserved = min(self._most + _FIRST, _RESERVED // (self.vectors.itemsize * self.dimensions))
        return max(2 * rows, reserved if rows >= _LARGE else 0)

    def remove(self, keys: Iterable[str]) -> int:
        """Removes entries; says how many there were."""
        gone = 0
        for key in keys:
            place = self._places.pop(key, None)
            if place is None:
                continue
            held = self.held[place]
            assert held is not None
            self._leave(held.group, place)
            self.held[place] = None
            self.vectors[place] = 0
            self.groups[place] = -1
            self._holes.append(place)
            if self._index is None:
                self._touched.add(place)
            else:
                self._index.remove(place)
            gone += 1
        return gone

    def entry(self, key: str) -> Held | None:
        """By key."""
        place = self._places.get(key)
        return None if place is None else self.held[place]

    @property
    def oldest(self) -> str:
        """The key of the entry that was added first."""
        return next(iter(self._places))

    def nearest(self, vector: Vector, most: int = NEAR) -> Near | None:
        """The nearest entries; None where there are none."""
        if not self._places:
            return None
        if self._index is not None:
            places = self._index.search(vector, most + _MORE, threads=1).keys.astype(np.int64)
            similar = self.vectors[places] @ vector
            order = np.argsort(-similar, kind="stable")[:most]
            places, similar = places[order], similar[order]
        else:
            end = len(self.held)
            all_similar = self.vectors[:end] @ vector
            if self._holes:
                all_similar[self._holes] = -2
            count = min(most, len(self._places))
            places = np.argpartition(-all_similar, count - 1)[:count] if count < end else np.arange(end)
            places = places[np.argsort(-all_similar[places], kind="stable")][:count]
            similar = all_similar[places]
        return Near(places, similar, self.groups[places])

    def middles(self, groups: Collection[int], vector: Vector, nearest: Iterable[float]) -> list[float]:
        """Similarities of a vector to the middles of groups; what groups of one say, `nearest` has."""
        rows = list(map(self._rows.get, groups))
        sums = self._sums.take([row for row in rows if row is not None], 0)
        close = iter(((sums @ vector) / lengths_of(sums)).tolist())
        return [
            next(close) if row is not None else alone / self._lone[group][1]
            for group, row, alone in zip(groups, rows, nearest, strict=True)
        ]

    def merge(self, group: int, into: int) -> None:
        """Puts all members of a group into another."""
        if group == into or group not in self.members:
            return
        for place in np.flatnonzero(self.groups[: len(self.held)] == group).tolist():
            held = self.held[place]
            assert held is not None
            self._leave(group, place)
            self.held[place] = msgspec.structs.replace(held, group=into)
            self.groups[place] = into
            self.members[into] += 1
            self._join(into, place)

    def _join(self, group: int, place: int) -> None:
        row = self._rows.get(group)
        if row is None and self.members[group] == 1:
            vector = self.vectors[place]
            self._lone[group] = place, math.sqrt(vector @ vector) + 1e-6
            return
        if row is None:
            row = self._rows[group] = self._row_holes.pop() if self._row_holes else len(self._rows)
            if row == len(self._sums):
                self._sums = longer(self._sums, self._more(row))
            self._sums[row] = self.vectors[self._lone.pop(group)[0]]
        self._sums[row] += self.vectors[place]

    def _leave(self, group: int, place: int) -> None:
        self.members[group] -= 1
        row = self._rows.get(group)
        if row is not None:
            self._sums[row] -= self.vectors[place]
        if not self.members[group]:
            del self.members[group]
            self._lone.pop(group, None)
            if row is not None:
                del self._rows[group]
                self._row_holes.append(row)

    def weight(self, words: frozenset[int]) -> float:
        """What words weigh together: each more, the fewer entries have it."""
        known = self._rarity
        return len(words) * math.log(len(self.held) + 50) - sum([known[word] for word in words if word in known])

    # --- the lens

    @property
    def wants_lens(self) -> bool:
        """Whether a lens is due: `to_lens`, then `lens.ground` in a thread, then `look_through`."""
        return self._added >= self._lens_at and self.dimensions <= lens.WIDEST

    def to_lens(self) -> tuple[Vector, Groups, int]:
        """What a lens is ground of: vectors and groups, not copied, and for how many there is room. From here on the
        next one is due later."""
        self._lens_at = lens.due(self._added)
        self._unseen.clear()
        end = len(self.held)
        return self.vectors[:end], self.groups[:end], len(self.vectors)

    def look_through(self, made: Lens) -> None:
        """Looks through this lens from now on, after catching up with what changed meanwhile."""
        self.lens, self.seen = made, made.seen
        if len(self.seen) < len(self.vectors):
            self.seen = longer(self.seen, len(self.vectors))
        late = list(self._unseen)
        self.seen[late] = made.through(self.vectors[late])

    # --- the graph

    @property
    def wants_index(self) -> bool:
        """Whether it has outgrown looking one by one."""
        return self._index is None and len(self) > BRUTE

    def to_index(self) -> tuple[npt.NDArray[np.int64], Vector]:
        """What a graph is built of (`built`, in a thread): places and vectors, copied."""
        self._touched.clear()
        places = np.fromiter(self._places.values(), np.int64, len(self._places))
        return places, self.vectors[places]

    def late(self) -> tuple[npt.NDArray[np.int64], Vector, list[int]] | None:
        """What changed since: places with their vectors, copied, and empty ones; None where it is little."""
        if len(self._touched) <= _LITTLE:
            return None
        places = [place for place in self._touched if self.held[place] is not None]
        gone = [place for place in self._touched if self.held[place] is None]
        self._touched.clear()
        return np.array(places, np.int64), self.vectors[places], gone

    def take(self, index: Index) -> None:
        """Looks by this graph from now on, after catching up with what is late."""
        places = [place for place in self._touched if self.held[place] is not None]
        caught_up(index, np.array(places, np.int64), self.vectors[places], list(self._touched))
        self._touched.clear()
        self._index = index


def longer(rows: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    """Rows with as many of zeros behind them that there are so many; these take no memory until they are written."""
    made = np.zeros((most, *rows.shape[1:]), rows.dtype)
    made[: len(rows)] = rows
    return made


def lengths_of(rows: Vector) -> Vector:
    """How long each row is; never 0."""
    lengths: Vector = np.sqrt(np.einsum("ij,ij->i", rows, rows)) + np.float32(1e-6)
    return lengths


def built(places: npt.NDArray[np.int64], vectors: Vector) -> Index:
    """A graph. Tenths of a millisecond an entry: for a thread."""
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="ip", dtype="i8", connectivity=16, expansion_add=64, expansion_search=_BREADTH
    )
    index.add(places, vectors, threads=1)
    return index


def caught_up(index: Index, places: npt.NDArray[np.int64], vectors: Vector, gone: list[int]) -> None:
    """Adds entries that came while the graph was built, or took another's place, and removes what left meanwhile."""
    for place in {*places.tolist(), *gone}:
        if place in index:
            index.remove(place)
    if len(places):
        index.add(places, vectors, threads=1)
