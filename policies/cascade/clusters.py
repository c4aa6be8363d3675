"""Classes of traffic by what is asked: learnt once from the first requests, then frozen.

Rules:
1. A request's cluster is that of its last turn's vector (`policies.cache.semantic.static`: no network). No text is
   kept: of the first requests their vectors, in memory, until clusters are learnt of them.
2. The first worker that has seen `EACH` requests for each cluster has them learnt, for all, in a process of its own;
   the first division that the feed brings is that of all workers, until the policy begins anew. Who was too late, or
   failed, collects anew.
3. Until then all is one class, of which nothing is proven: what would be, would be of other classes.
4. A division has a version, the digest of its centres, which is in the names of its classes: evidence of another one
   can't be mixed with its own.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any, Final

import numpy as np

from policies.cache.semantic.static import Static, Vector
from policies.cascade.learning.apart import Vectors, clustered_apart
from policies.cascade.shared import Clustered

EACH: Final = 100
UNSORTED: Final = "unsorted"
_LONGEST: Final = 400  # characters of a turn, so that it takes 0.2 ms at the most


@cache
def _static() -> Static:
    """Read once, not at each change of a policy: it takes a tenth of a second."""
    return Static()


class Clusters:
    """They, or what they will be learnt from."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._static = _static()
        self._wanted = count * EACH
        self._told: Clustered | None = None
        self._centres: Vector | None = None
        self._learning = False
        self._begin()

    def __repr__(self) -> str:
        return f"<Clusters {self.version or f'{self._seen} of {self._wanted}'}>"

    def _begin(self) -> None:
        self._first = np.zeros((self._wanted, self._static.dimensions), np.float16)
        self._seen = 0
        self.version = ""

    # --- naming

    def name_of(self, text: str) -> str:
        """The cluster of a turn."""
        static, centres = self._static, self._centres
        vector = static.vector(static.rows(static.tokens(text[:_LONGEST])))
        if centres is not None:
            return f"c{int((centres @ vector).argmax()) + 1}-{self.version}"
        if self._seen < self._wanted:
            self._first[self._seen] = vector
            self._seen += 1
        return UNSORTED

    def current(self, name: str) -> bool:
        """Whether a class of this name is one of these."""
        cluster = name.rpartition("/")[2]
        return cluster.endswith(f"-{self.version}") if self.version else cluster == UNSORTED

    def report(self, name: str) -> dict[str, Any]:
        """What people want to know of such a class."""
        cluster = name.rpartition("/")[2]
        if self._told is None:
            return {"clusters": {"seen": self._seen, "of": self._wanted}}
        shares = self._told.shares
        number = cluster[1:].partition("-")[0]
        known = cluster.startswith("c") and number.isdecimal() and 0 < int(number) <= len(shares)
        return {"cluster": [int(number), len(shares), shares[int(number) - 1]]} if known else {}

    # --- learning

    def due(self) -> bool:
        """Whether they are to be learnt now; said once."""
        if self.version or self._learning or self._seen < self._wanted:
            return False
        self._learning = True
        return True

    async def learnt(self) -> Clustered | None:
        """What all workers are to be told; None where it came to nothing, or has been forgotten by now."""
        first = self._first
        found = await clustered_apart(Vectors(self._count, first.shape[1], first.tobytes()))
        if found is None or self._first is not first:
            return None
        return Clustered(self._static.name, found.centres, found.shares)

    def over(self) -> None:
        """Learning is over; they may still come."""
        self._learning = False
        if not self.version:
            self._begin()

    def take(self, told: Clustered) -> bool:
        """Whether these are those of all workers from now on."""
        if self.version or told.embedder != self._static.name:
            return False
        centres = np.frombuffer(told.centres, np.float32)
        self._centres = centres.reshape(-1, self._static.dimensions)
        self._told, self.version = told, version_of(told)
        self._first = self._first[:0]
        return True

    def forget(self) -> None:
        """They are learnt anew."""
        self._told = self._centres = None
        self._begin()

    def state(self) -> dict[str, Any] | None:
        """What is kept; None while there is nothing."""
        if self._told is None:
            return None
        return {name: getattr(self._told, name) for name in Clustered.__struct_fields__}


def version_of(told: Clustered) -> str:
    """The digest of what was learnt."""
    return hashlib.blake2b(told.centres, digest_size=3).hexdigest()
