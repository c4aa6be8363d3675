"""What one transaction takes in: pieces of segments, in the order that the ledger's rules need.

Rules:
1. A writer's segments are read in order, each to its end before the next, so a `settled` never comes before its
   `reserved`.
2. What was told in dead workers' stead (segments of `s…`) is read only where all workers' segments were read to their
   ends in the same look: it may speak of any attempt in them.
3. What can't be decoded is set aside by the caller; what is torn is cut here (`proxy.ledger.spool`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from proxy.ledger import spool
from proxy.ledger.records import Ended, Entry, Rated, Reserved, Settled, decode
from proxy.ledger.rows import ToldBy
from proxy.ledger.spool import Piece, Segment

BATCH_BYTES: Final = 4 * 2**20
_ENOUGH: Final = 64 * 2**10  # room below which another read isn't worth it
PREFIX: Final = 12  # characters of an exchange's id that name the process that gave it

Key = tuple[str, int]


class Look(NamedTuple):
    """A look at the journal. `caught_up`: nothing more can be read now."""

    pieces: list[Piece]
    caught_up: bool
    torn: list[Path]


class Batch:
    """The records of some pieces, sorted by what they are. `first` to `last` are times."""

    def __init__(self) -> None:
        self.reserved: dict[Key, tuple[Reserved, str, bytes]] = {}
        self.settled: list[tuple[Settled, ToldBy]] = []
        self.ended: list[Ended] = []
        self.rated: list[Rated] = []
        self.rejected: list[bytes] = []
        self.events = 0

    def add(self, piece: Piece) -> tuple[int | None, str | None]:
        """Takes a piece in; returns its last record's time, and its process's prefix."""
        told_by: ToldBy = "worker" if piece.segment.writer.startswith("w") else "state"
        name, last = piece.segment.name, None
        for payload in piece.payloads:
            try:
                record: Entry = decode(payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self.rejected.append(payload)
                continue
            if type(record) is Rated:
                self.rated.append(record)
                continue  # its exchange may be another process's
            last = record
            if type(record) is Settled:
                self.settled.append((record, told_by))
            elif type(record) is Reserved:
                self.reserved[record.exchange, record.attempt] = record, name, payload
            elif type(record) is Ended:
                self.ended.append(record)
        self.events += len(piece.payloads)
        return (None, None) if last is None else (last.at, last.exchange[:PREFIX])


def look(
    home: Path,
    at: Mapping[str, int],
    now_ns: int,
    most_bytes: int = BATCH_BYTES,
    cut: Callable[[Segment, int], Path] = spool.cut,
) -> Look:
    """What comes next after these offsets, at most about `most_bytes`."""
    found: list[Piece] = []
    torn: list[Path] = []
    left = most_bytes
    segments = spool.listing(home)
    for segment in _in_turn(segments):
        start = at.get(segment.name, 0)
        if segment.writer.startswith("s") and left < most_bytes and left <= _ENOUGH:
            return Look(found, False, torn)
        while start < segment.size:
            if left < most_bytes and left <= _ENOUGH:
                return Look(found, False, torn)
            piece = spool.read(segment, start, left)
            if piece.payloads:
                found.append(piece)
            elif (aside := _mended(segment, start, now_ns, cut)) is not None:
                torn.append(aside)
            if not piece.payloads:
                break
            left -= piece.end - start
            start = piece.end
    return Look(found, True, torn)


def _in_turn(segments: list[Segment]) -> Iterator[Segment]:
    """Workers' segments, oldest first, then the others, as they stood before."""
    yield from (segment for segment in segments if not segment.writer.startswith("s"))
    yield from (segment for segment in segments if segment.writer.startswith("s"))


def _mended(segment: Segment, start: int, now_ns: int, cut: Callable[[Segment, int], Path]) -> Path | None:
    """Cuts what isn't whole and never will be."""
    if spool.in_use(segment, now_ns):
        return None
    size = segment.path.stat().st_size  # nobody adds to it any more; somebody may have, since it was listed
    if spool.read(segment._replace(size=size), start).payloads or size <= start:
        return None
    return cut(segment, start)
