"""The journal's segments as the ledger reads them: which there are, who still writes, what is in them.

Rules: nothing here knows the database. A segment is *in use* while its writer lives and writes there (it holds a
lock); an unused one is whole, or was torn by a crash: then it is cut at its last whole record, and what follows is
kept beside it as `<name>.torn`. No file younger than a second is taken for unused: its writer may not have locked it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final, NamedTuple

from proxy import journal

CHUNK_BYTES: Final = 4 * 2**20
_YOUNG_NS: Final = 10**9
TORN: Final = ".torn"


class Segment(NamedTuple):
    """A file of the journal. `writer` is `w` and a worker's number, or `s0` for what is told in dead workers' stead."""

    path: Path
    started_ns: int
    writer: str
    size: int

    @property
    def name(self) -> str:
        return self.path.name


class Piece(NamedTuple):
    """Whole records of a segment. `end` is the offset after the last."""

    segment: Segment
    start: int
    end: int
    payloads: list[bytes]


def listing(home: Path) -> list[Segment]:
    """All segments, oldest first."""
    found = []
    for path in journal.segments(home):
        started, _, writer = path.name.removesuffix(journal.SUFFIX).partition("-")
        try:
            found.append(Segment(path, int(started), writer, path.stat().st_size))
        except FileNotFoundError:
            continue  # removed meanwhile
    return found


def in_use(segment: Segment, now_ns: int) -> bool:
    """Whether its writer may still add to it."""
    if now_ns - segment.started_ns < _YOUNG_NS:
        return True
    try:
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # locked, or a file system without locks: then nothing is known
        return True
    finally:
        os.close(fd)
    return False


def read(segment: Segment, start: int, most_bytes: int = CHUNK_BYTES) -> Piece:
    """The whole records from an offset on, about as many bytes; none if there isn't a whole one (yet)."""
    payloads, end = _frames(segment.path, start, most_bytes)
    if not payloads and segment.size - start > most_bytes:
        payloads, end = _frames(segment.path, start, journal.MAX_RECORD_BYTES + 64)
    return Piece(segment, start, end, payloads)


def _frames(path: Path, start: int, most_bytes: int) -> tuple[list[bytes], int]:
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(most_bytes)
    payloads: list[bytes] = []
    end = 0
    for after, payload in journal.frames(data):
        if not payload:  # zeros, which a power cut may leave behind, look like empty records
            break
        payloads.append(payload)
        end = after
    return payloads, start + end


def cut(segment: Segment, at: int) -> Path:
    """Cuts a torn segment at `at` and returns where the rest is kept. It is safe there before anything is cut."""
    aside = segment.path.with_name(f"{segment.path.name}{TORN}")
    if aside.exists():
        aside = segment.path.with_name(f"{segment.path.name}.{secrets.token_hex(4)}{TORN}")
    with segment.path.open("rb") as file:
        file.seek(at)
        rest = file.read()
    aside.touch(0o600, exist_ok=False)
    with aside.open("wb") as file:
        file.write(rest)
        file.flush()
        os.fsync(file.fileno())
    os.truncate(segment.path, at)
    return aside


def host_id(home: Path) -> str:
    """What this home directory is called in a ledger that several share; made once."""
    path = home / "journal" / "host"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with path.open("x", encoding="ascii") as file:
            file.write(secrets.token_hex(8))
    except FileExistsError:
        pass
    return path.read_text(encoding="ascii").strip()
