"""The journal: an append-only file that a killed process can't lose a line of.

Promised: once `flush` has returned, the record survives `kill -9` of this process (it is in the page cache); it
survives power loss once the next group `fsync` has run, at most `fsync_s` later. What a torn write leaves behind is
cut off by the reader at the last whole record.

A segment is a file `<unix ns>-w<worker>.journal` of frames: length (u32, little endian), CRC-32C of the payload
(u32), payload (a JSON object with `event`). Only this module knows the format; `reserved` is written before an
attempt is dispatched, `settled` after, `ended` when the exchange is over. Its writer holds a lock (flock) on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import crc32c
import msgspec
import orjson

from proxy.errors import OVERLOADED, WeirError

_MOST_WAITING: Final = 50_000
_LONGEST_NS: Final = 30 * 60 * 10**9
_FRAME: Final = struct.Struct("<II")
SUFFIX: Final = ".journal"
IN_STEAD: Final = f"-s0{SUFFIX}"
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
Record = dict[str, Any]


def _unknown(value: object) -> str:
    """What a policy notes may be of any type: its name is harmless, its text may not be."""
    return f"<{type(value).__name__}>"


_encode: Final = msgspec.json.Encoder(enc_hook=_unknown).encode
_pack: Final = _FRAME.pack
_checksum: Final = crc32c.crc32c


class Estimate(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What an attempt may cost, before it is sent."""

    input_tokens: int
    output_cap: int | None
    nanodollars: int | None
    n: int = 1
    tokens: int | None = None  # that a hard budget of tokens has reserved


class Entry(msgspec.Struct, frozen=True, gc=False, tag_field="event"):
    """A record as the data plane writes it; read back, it is a dictionary with `event`. Times are Unix nanoseconds."""

    at: int
    exchange: str
    worker: int


class Reserved(Entry, tag="reserved", frozen=True, gc=False):
    """An attempt is about to be sent."""

    attempt: int
    endpoint: str
    kind: str
    tenant: str
    key: str | None
    org: str | None
    team: str | None
    project: str | None
    tags: dict[str, str]
    asked: str | None
    model: str
    deployment: str
    upstream: str
    estimate: Estimate
    holds: tuple[str, ...] = ()
    parent: str | None = None
    started_by: str | None = None
    policies_hash: str = ""


class Settled(Entry, tag="settled", frozen=True, gc=False):
    """An attempt is over. `usage` is as the upstream gave it, `tokens` the normalised counts."""

    attempt: int
    outcome: str
    status: int | None
    served: str | None
    tier: str | None
    usage: Any
    tokens: dict[str, int]
    nanodollars: int | None
    known: str
    cards: str
    ttft_ns: int | None
    total_ns: int
    upstream_request_id: str | None
    error: str | None


class Ended(Entry, tag="ended", frozen=True, gc=False):
    """An exchange is over."""

    kind: str
    parent: str | None
    status: int
    outcome: str
    tenant: str
    key: str | None
    org: str | None
    team: str | None
    project: str | None
    tags: dict[str, str]
    endpoint: str
    asked: str | None
    attempts: int
    total_ns: int
    nanodollars: int | None
    saved_nanodollars: int
    policies_hash: str
    decisions: list[Any]
    savings: list[Any]
    started_by: str | None


class Rated(Entry, tag="feedback", frozen=True, gc=False):
    """A client said how good an answer was, from 0 to 1. `exchange` is the one that is rated, of any worker."""

    tenant: str
    key: str | None
    org: str | None
    team: str | None
    project: str | None
    endpoint: str | None
    asked: str | None
    served: str | None
    rating: float
    comment: str | None
    decisions: list[str]


def frame(record: Record | Entry) -> bytes:
    """One record as it stands in the file."""
    payload = _encode(record)
    return _pack(len(payload), _checksum(payload)) + payload


def _encodable(record: Record | Entry) -> Record:
    """A record without the fields that JSON can't carry: what a policy notes must not lose the rest."""
    if isinstance(record, Entry):
        fields = {
            "event": record.__struct_config__.tag,
            **{name: getattr(record, name) for name in record.__struct_fields__},
        }
    else:
        fields = record
    kept: Record = {}
    for name, value in fields.items():
        try:
            _encode(value)
        except Exception:
            value = None
        kept[name] = value
    return kept


class Journal:
    """A worker's own segments. `append` is cheap; `flush` writes what was appended in one call."""

    def __init__(
        self, directory: Path, worker: int, segment_bytes: int = 64 * 1024 * 1024, *, write_through: bool = False
    ) -> None:
        self._directory = directory
        self.worker = worker  # its number: it alone writes here
        self._segment_bytes = segment_bytes
        self._pending: list[bytes] = []  # heads and payloads in turn
        self._flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_DSYNC if write_through else 0)
        self._written = 0
        self._fd = -1
        self._unsynced = False
        self._torn = False
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._open()

    def __repr__(self) -> str:
        return f"<Journal w{self.worker} {self._written} bytes>"

    def _open(self) -> None:
        path = self._directory / f"{time.time_ns()}-w{self.worker}{SUFFIX}"
        fd = os.open(path, self._flags, 0o600)
        with contextlib.suppress(OSError):  # held until this process has left it: so others know that it writes here
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._written = fd, 0

    def append(self, record: Record | Entry) -> None:
        """Adds a record to what the next `flush` writes."""
        if len(self._pending) > _MOST_WAITING and type(record) is Ended:
            return  # the disk has been full for long: what tells of money is kept, the rest isn't worth the memory
        try:
            payload = _encode(record)
        except Exception:
            payload = _encode(_encodable(record))
        self._pending += (_pack(len(payload), _checksum(payload)), payload)

    def flush(self) -> None:
        """Writes what was appended. Raises WeirError 503 if the disk takes it not; then it is kept for the next try."""
        if not self._pending:
            return
        data = b"".join(self._pending)
        try:
            if self._torn:  # what can't be taken back stays behind: readers stop there
                self._open()
                self._torn = False
            written = os.write(self._fd, data)
            if written != len(data):  # a full disk may take a part: take it back, or a torn record stands in the middle
                self._torn = True
                os.ftruncate(self._fd, self._written)
                self._torn = False
                raise OSError("short write")
        except OSError:
            raise WeirError(
                503,
                "The journal can't be written, so no request can be accounted for. Nothing was sent upstream.",
                type=OVERLOADED,
                code="journal_unavailable",
                headers=((b"retry-after", b"5"),),
            ) from None
        self._pending.clear()
        self._written += written
        self._unsynced = True
        if self._written >= self._segment_bytes:
            with contextlib.suppress(
                OSError
            ):  # no descriptor or no room: this one grows on, the next flush tries again
                self._open()

    def discard_last(self) -> None:
        """Takes back the record appended last: what it announced won't happen."""
        del self._pending[-2:]

    def sync_fd(self) -> int | None:
        """A descriptor to fsync (off the loop, by the caller), or None if nothing is new. The caller closes it."""
        if not self._unsynced:
            return None
        self._unsynced = False
        return os.dup(self._fd)

    def close(self) -> None:
        """Writes what is left and closes."""
        try:
            self.flush()
        except WeirError:
            pass  # the supervisor settles what has no `settled` record as estimated
        os.close(self._fd)


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole records of a segment's bytes, as (offset after it, payload); stops at the first that isn't whole."""
    at = 0
    while at + _FRAME.size <= len(data):
        length, check = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if length > MAX_RECORD_BYTES or len(payload) < length or crc32c.crc32c(payload) != check:
            return
        at += _FRAME.size + length
        yield at, payload


def segments(home: Path) -> list[Path]:
    """The segments under a home directory, oldest first."""
    return sorted((home / "journal").glob(f"*{SUFFIX}"), key=lambda path: int(path.name.split("-")[0]))


def sizes(home: Path) -> dict[str, int]:
    """The segments' sizes, by name: where a follower begins that doesn't tell what was there before."""
    return {path.name: path.stat().st_size for path in segments(home)}


def read(path: Path) -> Iterator[Record]:
    """The whole records of one segment."""
    for _, payload in frames(path.read_bytes()):
        yield orjson.loads(payload)


def find(home: Path, exchange: str) -> list[Record]:
    """All records of one exchange, in the order written; newest segments are searched first."""
    needle, among = orjson.dumps(exchange), segments(home)
    stead = [path for path in among if path.name.endswith(IN_STEAD)]
    rated: list[Record] = []
    written = [path for path in among if path not in stead]
    for index in reversed(range(len(written))):
        path = written[index]
        if needle in path.read_bytes():
            here = [record for record in _matching(path, needle) if record.get("exchange") == exchange]
            if all(record["event"] == "feedback" for record in here):  # which may come later, by another worker
                rated += here
                continue
            # What was told in a dead worker's stead stands in the supervisor's own segments.
            records = [record for part in (*_around(path, among), *stead) for record in _matching(part, needle)]
            own = [record for record in records if record.get("exchange") == exchange]
            rated += _rated_beside(written[:index], exchange, needle, int(own[0].get("at", 0)))
            rated += [record for record in own if record["event"] == "feedback" and record not in rated]
            rest = [record for record in own if record["event"] != "feedback"]
            return rest + sorted(rated, key=lambda record: int(record.get("at", 0)))
    return []


def _rated_beside(paths: list[Path], exchange: str, needle: bytes, since_ns: int) -> list[Record]:
    """What was said of an exchange in other workers' segments, which began before its own and went on after it."""
    late = [path for path in paths if path.stat().st_mtime_ns >= since_ns]
    found = [record for path in late for record in _matching(path, needle) if record.get("exchange") == exchange]
    return [record for record in found if record["event"] == "feedback"]


def _around(path: Path, among: list[Path]) -> list[Path]:
    """The segments of the same worker that may hold the same exchange's records: one takes `_LONGEST_NS` at most."""
    worker = path.name.split("-", 1)[1]
    own = [other for other in among if other.name.split("-", 1)[1] == worker]
    index, starts = own.index(path), [int(other.name.split("-")[0]) for other in own]
    first = index
    while first and starts[first] > starts[index] - _LONGEST_NS:
        first -= 1
    return own[first : index + 2]


def _matching(path: Path, needle: bytes) -> Iterator[Record]:
    data = path.read_bytes()
    for _, payload in frames(data) if needle in data else ():
        if needle in payload:
            yield orjson.loads(payload)


class Follower:
    """Reads what is new in all segments under a home directory, call by call. `since`: their sizes before, if these
    aren't to be read.
    """

    def __init__(self, home: Path, from_start: bool = True, since: Mapping[str, int] | None = None) -> None:
        self._home = home
        before = ({} if from_start else sizes(home)) if since is None else since
        self._at: dict[Path, int] = {home / "journal" / name: size for name, size in before.items()}

    def poll(self) -> list[Record]:
        """The records written since the last call, by time."""
        records: list[Record] = []
        for path in segments(self._home):
            at = self._at.get(path, 0)
            if path.stat().st_size <= at:
                continue
            with path.open("rb") as file:
                file.seek(at)
                data = file.read()
            for end, payload in frames(data):
                records.append(orjson.loads(payload))
                self._at[path] = at + end
        return sorted(records, key=lambda record: int(record.get("at", 0)))


def follow(home: Path, wait: Callable[[], object], from_start: bool = True) -> Iterator[Record]:
    """Records as they are written, for ever; `wait` is called when there are none."""
    follower = Follower(home, from_start)
    while True:
        records = follower.poll()
        yield from records
        if not records:
            wait()
