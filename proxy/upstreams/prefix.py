"""Where a prompt's beginning was seen before.

Rules:
1. A prompt is told by marks: hashes of its bytes from the beginning of its messages to fixed lengths. Two prompts
   share as many marks as they share leading blocks. It costs a few microseconds; what lies beyond `LOOKED_AT` isn't
   looked at.
2. `Warm` remembers which replicas were given which marks, for about as long as they keep them. It is bounded, and
   holds hashes only.
"""

from __future__ import annotations

from typing import Final

import msgspec
from crc32c import crc32c

from proxy.body import Body
from proxy.exchange import Request

# A replica reuses whole blocks of its cache (vLLM: 16 tokens, providers: 128 from 1,024 on). Ours are finer where
# most prompts begin to differ, and coarser where few do.
LENGTHS: Final = (
    *(256, 512),
    *range(1024, 16 * 1024 + 1, 1024),
    *range(20 * 1024, 64 * 1024 + 1, 4 * 1024),
)
LOOKED_AT: Final = LENGTHS[-1]
_STARTS: Final = (b'"messages"', b'"input"', b'"prompt"')
_NO_MARKS: Final[tuple[int, ...]] = ()

Marks = tuple[int, ...]


def marks_of(request: Request, salt: int = 0) -> Marks:
    """The marks of a request's prompt; none where it has none that is understood."""
    body = request.body
    if not isinstance(body, Body):
        return _NO_MARKS
    raw = body.raw
    for name in _STARTS:
        start = raw.find(name, 0, LOOKED_AT)
        if start >= 0:
            return marks(raw[start : start + LOOKED_AT], salt)
    return _NO_MARKS


def marks(prompt: bytes, salt: int = 0) -> Marks:
    """The marks of a text: one for each whole length that it has, at least one. Different `salt`s have none in common.

    CRC-32C is what processors have an instruction for. A collision would cost a better place, nothing else.
    """
    found: list[int] = []
    size, at, chain = len(prompt), 0, salt
    for length in LENGTHS:
        if length > size:
            break
        chain = hash((chain, crc32c(prompt[at:length], salt)))
        found.append(chain)
        at = length
    if not found and size:
        found.append(hash((chain, crc32c(prompt, salt))))
    return tuple(found)


class Found(msgspec.Struct, frozen=True):
    """What is known of a prompt. Counts are of its leading marks."""

    known: int  # to anyone
    shared: int  # with several other prompts, that went on otherwise: a system prompt, a document
    warm: int  # to the best of those that were asked about
    owners: int  # who those are, as bits


class Warm:
    """Which replicas (as bits of a number) were given which marks, of late."""

    MARKS: Final = 50_000  # of each half: about 5 MB
    KEEPS_S: Final = 300.0  # each half; so a mark is remembered for five to ten minutes after its last use
    FORKS: Final = 3  # prompts that go on from a mark where others did: it isn't one conversation's

    __slots__ = ("_forks", "_new", "_old", "_old_forks", "_turned_at")

    def __init__(self, now: float = 0.0) -> None:
        self._new: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._forks: dict[int, int] = {}
        self._old_forks: dict[int, int] = {}
        self._turned_at = now

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def find(self, marks: Marks, among: int) -> Found:
        """What is known of a prompt, and which of `among` know most of it."""
        new, old, forks, old_forks = self._new, self._old, self._forks, self._old_forks
        known = shared = warm = 0
        best = among
        for number, mark in enumerate(marks, 1):
            owners = new.get(mark, 0) | old.get(mark, 0)
            if not owners:
                break
            known = number
            if forks.get(mark, 0) + old_forks.get(mark, 0) >= self.FORKS:
                shared = number
            if warm == number - 1 and (both := best & owners):
                best, warm = both, number
        return Found(known, shared, warm, best if warm else 0)

    def learn(self, marks: Marks, known: int, replica: int, now: float) -> None:
        """A replica (as its bit) was given these, of which so many were known."""
        if len(self._new) >= self.MARKS or now - self._turned_at >= self.KEEPS_S:
            self._old, self._new, self._turned_at = self._new, {}, now
            self._old_forks, self._forks = self._forks, {}
        new, old = self._new, self._old
        for mark in marks:
            owners = new.get(mark)
            new[mark] = (old.get(mark, 0) if owners is None else owners) | replica
        if 0 < known < len(marks):
            fork = marks[known - 1]
            self._forks[fork] = self._forks.get(fork, 0) + 1
