"""Notices that files changed, whatever way they changed.

Rules:
- The content decides, not an event: files are looked at `POLL_S` apart, and a change is told when the content is the
  same `SETTLE_S` later, so that an editor's several writes are one change.
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


async def changes(
    paths: Callable[[], Iterable[Path]],
    *,
    first: Looks | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[None]:
    """Yields once after each change since `first` (default: now). `paths` is asked at each look: reloads change it."""
    known = first if first is not None else await asyncio.to_thread(look, [*paths()], {})
    seen = known
    settled = True
    while True:
        await sleep(POLL_S if settled else SETTLE_S)
        wanted = [*paths()]
        now = await asyncio.to_thread(look, wanted, seen)
        # A file that is newly watched was read by whoever named it: it is no change.
        known = {path: known.get(path, now[path]) for path in wanted}
        settled = same(now, {path: seen.get(path, now[path]) for path in wanted})
        seen = now
        if settled and not same(now, known):
            known = now
            yield


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
