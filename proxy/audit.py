"""The audit log, `<home>/audit.jsonl`: every act of administration, by whom, when, from where, and how it ended.

Rules:
- Appended to, never rewritten. One line is one record; each holds the hash of the one before, so that a changed, added
  or missing line breaks the chain (`verify`). A cut end is found by comparing the last hash with one noted elsewhere:
  each record goes to the log as well, and `weir audit --verify` prints it.
- Written under `flock` and synced before the caller goes on: the command line and the supervisor share the file.
- Names and numbers only: no key, no token, no body. `shown` cuts whatever looks like one.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import orjson

FILE: Final = "audit.jsonl"
GENESIS: Final = "0" * 64
_TAIL_BYTES: Final = 64 * 1024
_MOST: Final = 200
_SECRET: Final = re.compile(r"\b(?:w[ka]|sk|rk|pk)-[\w-]{6,}|\bey[\w-]+\.[\w-]+\.[\w-]*|[A-Za-z0-9_-]{40,}")
_UNSHOWN: Final = re.compile(r"[\x00-\x1f\x7f]")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One act. `origin` is an address, or `cli` of this machine; `subject` is what it was done to."""

    number: int
    at_ns: int
    who: str
    role: str
    origin: str
    act: str
    subject: str
    result: str
    details: dict[str, str]
    previous: str
    hash: str = ""

    def hashed(self) -> str:
        """What its hash must be: over all its fields but that."""
        fields = [getattr(self, name) for name in self.__struct_fields__ if name != "hash"]
        return sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @property
    def at(self) -> datetime:
        """When."""
        return datetime.fromtimestamp(self.at_ns / 1e9, UTC)


class Verdict(NamedTuple):
    """What was found of the chain: `problem` is empty where it holds."""

    entries: int
    head: str
    problem: str


class AuditLog:
    """The log of one home directory. Blocking: for the command line and threads."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE

    def append(
        self,
        act: str,
        *,
        who: str,
        role: str = "operator",
        origin: str = "cli",
        subject: str = "",
        result: str = "done",
        details: Mapping[str, object] | None = None,
        at_ns: int | None = None,
    ) -> Entry:
        """Adds a record, durably. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            tail = self._tail(fd)
            last = _last(tail)
            entry = Entry(
                1 if last is None else last.number + 1,
                time.time_ns() if at_ns is None else at_ns,
                shown(who),
                role,
                shown(origin),
                shown(act),
                shown(subject),
                shown(result),
                {shown(name): shown(str(value)) for name, value in (details or {}).items() if value not in (None, "")},
                GENESIS if last is None else last.hash,
            )
            entry = msgspec.structs.replace(entry, hash=entry.hashed())
            begin = b"" if not tail or tail.endswith(b"\n") else b"\n"  # a line that a crash cut short ends here
            os.write(fd, begin + msgspec.json.encode(entry) + b"\n")
            os.fdatasync(fd)
            return entry
        finally:
            os.close(fd)

    def entries(self) -> Iterator[Entry]:
        """All records that can be read, in order."""
        for line in self._lines():
            if (entry := _entry(line)) is not None:
                yield entry

    def verify(self) -> Verdict:
        """Whether the chain holds."""
        count, previous = 0, GENESIS
        for number, line in enumerate(self._lines(), 1):
            entry = _entry(line)
            if entry is None:
                return Verdict(count, previous, f"line {number} is no record")
            if entry.hash != entry.hashed():
                return Verdict(count, previous, f"line {number} was changed")
            if (entry.number, entry.previous) != (count + 1, previous):
                return Verdict(count, previous, f"before line {number} something is missing or was added")
            count, previous = entry.number, entry.hash
        return Verdict(count, previous, "")

    def _lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                yield from (line for line in file if line.strip())
        except FileNotFoundError:
            return

    def _tail(self, fd: int) -> bytes:
        size = os.fstat(fd).st_size
        return os.pread(fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES))


def shown(text: str) -> str:
    """Text as it may be written down: no secret, no line break, not long."""
    return _SECRET.sub("•••", _UNSHOWN.sub(" ", text))[:_MOST]


def person() -> str:
    """Who runs this command: the account, and whom it was before sudo."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # any UID may run a container
        name = f"uid {os.getuid()}"
    before = os.environ.get("SUDO_USER")
    return f"{name} (sudo by {before})" if before else name


def _last(tail: bytes) -> Entry | None:
    for line in reversed(tail.splitlines()):
        if (entry := _entry(line)) is not None:
            return entry
    return None


def _entry(line: bytes) -> Entry | None:
    try:
        return msgspec.json.decode(line, type=Entry)
    except msgspec.DecodeError:
        return None
