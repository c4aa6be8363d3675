"""Notices that files changed, whatever way they changed.

Rules:
- The content decides, not an event: files are looked at `POLL_S` apart, and a change is told when the content is the
  same `SETTLE_S` later, so that an editor's several writes are one change.
- Told is what differs from what was last read, by whomever: of `weir reload` and the watching, the one that comes first
  reads a change, and the other leaves it alone.
- Looking follows links, so the swap of a Kubernetes ConfigMap (`..data` points elsewhere) and a rename over a file
  are ordinary changes; so are a file that appears and one that goes.
- Polling is deliberate. inotify sees nothing on NFS and on many bind mounts, its default of 128 instances a user runs
  out on busy nodes, and a watch on a directory is lost when the directory is replaced. Five looks a second at a dozen
  small files cost 0.3 % of a core; a changed key reaches the workers within 0.3 s.
- All looking is done in a thread: a file system that hangs must not hang the supervisor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

POLL_S = 0.2
SETTLE_S = 0.05
RACY_NS = 2_000_000_000
"""A file system's clock may be as coarse as this: a younger file is read again even if its stamp is the same."""


class Look(NamedTuple):
    """One file at one moment. `content` is None where there is no readable file."""

    stamp: tuple[int, ...]
    content: bytes | None


Looks = dict[Path, Look]


def look(paths: Iterable[Path], before: Looks) -> Looks:
    """The files as they are now; unchanged ones aren't read again."""
    return {path: _look_at(path, before.get(path)) for path in paths}


def same(a: Looks, b: Looks) -> bool:
    """Whether both show the same content; times don't matter."""
    return a.keys() == b.keys() and all(a[path].content == b[path].content for path in a)


class Files:
    """Files, and how they were when somebody read them last. `paths` is asked at each look: reloads change it."""

    def __init__(self, paths: Callable[[], Iterable[Path]]) -> None:
        self._paths = paths
        self._read = self._seen = look([*paths()], {})

    async def news(self) -> bool:
        """For whoever is about to read them: whether that is worth it. Without any file nobody knows: it is."""
        now = await asyncio.to_thread(look, [*self._paths()], self._seen)
        before, self._read = self._read, now
        return not now or not same(now, _beside(before, now))

    async def changes(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> AsyncIterator[None]:
        """Yields whenever they differ from how they were read, and stay so; until `news` was asked."""
        settled = True
        while True:
            await sleep(POLL_S if settled else SETTLE_S)
            now = await asyncio.to_thread(look, [*self._paths()], self._seen)
            settled = same(now, _beside(self._seen, now))
            self._seen = now
            self._read = _beside(self._read, now)
            if settled and not same(now, self._read):
                yield


def _beside(before: Looks, now: Looks) -> Looks:
    """Earlier looks at the files of now. One that is newly watched was read by whoever named it: it is no change."""
    return {path: before.get(path, now[path]) for path in now}


def _look_at(path: Path, before: Look | None) -> Look:
    try:
        stat = path.stat()
    except OSError:
        return Look((), None)
    stamp = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_dev)
    old_enough = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > RACY_NS
    if before is not None and before.stamp == stamp and old_enough:
        return before
    return Look(stamp, _digest(path))


def _digest(path: Path) -> bytes | None:
    try:
        content = _names(path) if path.is_dir() else path.read_bytes()
    except OSError:
        return None
    return blake2b(content, digest_size=16).digest()


def _names(directory: Path) -> bytes:
    return "\n".join(sorted(entry.name for entry in directory.iterdir())).encode()
