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
    """The marks of a text: one for each whole length that it has, at least one."""
    found: list[int] = []
    size, at, mark, other = len(prompt), 0, salt & 0xFFFFFFFF, salt >> 32
    for length in LENGTHS:
        if length > size:
            break
        block = prompt[at:length]
        mark = crc32c(block, mark)
        other = (other * 0x01000193 ^ mark ^ block[0]) & 0xFFFFFFFF
        found.append(other << 32 | mark)  # the chain of all before makes of 32 bits nearly 64
        at = length
    if not found and size:
        found.append(crc32c(prompt, mark))
    return tuple(found)


class Warm:
    """Which replicas (as bits of a number) were given which marks, of late."""

    MARKS: Final = 50_000  # of each half: about 5 MB
    KEEPS_S: Final = 300.0  # each half; so a mark is remembered for five to ten minutes after its last use

    __slots__ = ("_new", "_old", "_turned_at")

    def __init__(self, now: float = 0.0) -> None:
        self._new: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._turned_at = now

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def longest(self, marks: Marks, among: int) -> tuple[int, int, int]:
        """How many leading marks any replica knows; how many the best of `among` know; and who those are."""
        new, old = self._new, self._old
        anyone = depth = 0
        best = among
        for mark in marks:
            owners = new.get(mark, 0) | old.get(mark, 0)
            if not owners:
                break
            anyone += 1
            if depth == anyone - 1 and (both := best & owners):
                best, depth = both, anyone
        return anyone, depth, best if depth else 0

    def learn(self, marks: Marks, replica: int, now: float) -> None:
        """A replica (as its bit) was given these."""
        if len(self._new) >= self.MARKS or now - self._turned_at >= self.KEEPS_S:
            self._old, self._new, self._turned_at = self._new, {}, now
        new, old = self._new, self._old
        for mark in marks:
            known = new.get(mark)
            new[mark] = (old.get(mark, 0) if known is None else known) | replica
