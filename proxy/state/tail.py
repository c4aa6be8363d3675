"""The tail of a state file: what was decided lately, appended to a file of its own before anybody is told.

Rules:
1. `append` is one write to the end of a file that nobody syncs and nothing else touches: it waits for no disk, and a
   killed process loses nothing of it. A write that fails leaves the file as it was.
2. `cut` begins another file; those before it are complete, and are dropped (`drop`) once the state file has them for
   good. So the disk is only waited for elsewhere, for what is no longer written to.
3. `read` gives what was appended, oldest first, up to the first record of a file that isn't whole: what wasn't whole
   was never answered.

A record is its length and its CRC-32 (both u32, little endian), then its bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zlib import crc32

MOST_BYTES: Final = 256 * 2**20
"""Of what the state file doesn't have yet. Beyond, it can't have been written for long: nothing is promised then."""
_HEAD: Final = struct.Struct("<II")


class Tail:
    """The files beside the state file `path`: `NAME-tail-NUMBER`. Nothing is created before the first `cut`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = path.parent.glob(f"{path.name}-tail-*")
        self._numbers = sorted(int(one.name.rpartition("-")[2]) for one in found)
        self._fd = -1
        self._sizes: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Tail of {self._path.name}: {len(self._numbers)} files>"

    def read(self) -> Iterator[bytes]:
        """The records of all files."""
        for number in self._numbers:
            data, at = self._file(number).read_bytes(), 0
            while len(data) - at >= _HEAD.size:
                length, sum32 = _HEAD.unpack_from(data, at)
                record = data[at + _HEAD.size : at + _HEAD.size + length]
                if len(record) < length or crc32(record) != sum32:
                    break
                at += _HEAD.size + length
                yield record

    def append(self, record: bytes) -> None:
        """Adds a record. Raises OSError, and has done nothing then."""
        number = self._numbers[-1]
        size = self._sizes[number]
        if sum(self._sizes.values()) > MOST_BYTES:
            raise OSError(f"{self._path} hasn't been written for too long")
        data = _HEAD.pack(len(record), crc32(record)) + record
        try:
            written = os.pwrite(self._fd, data, size)
            if written < len(data):
                raise OSError(f"only {written} of {len(data)} bytes could be written")
        except OSError:
            os.ftruncate(self._fd, size)
            raise
        self._sizes[number] = size + len(data)

    def next(self) -> tuple[int, int]:
        """The number and the descriptor of the file that `cut` begins; made ahead, since that may take its time."""
        number = self._numbers[-1] + 1 if self._numbers else 1
        return number, os.open(self._file(number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def cut(self, begun: tuple[int, int]) -> list[int]:
        """Goes on in the file that `next` has made; the numbers of those before."""
        before, old = list(self._numbers), self._fd
        number, self._fd = begun
        self._numbers.append(number)
        self._sizes[number] = 0
        if old >= 0:
            os.close(old)
        return before

    def drop(self, numbers: list[int]) -> None:
        """Their records are in the state file, for good."""
        for number in numbers:
            self._file(number).unlink(missing_ok=True)
            self._sizes.pop(number, None)
            self._numbers.remove(number)

    def close(self) -> None:
        """Lets go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _file(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}-tail-{number}")
