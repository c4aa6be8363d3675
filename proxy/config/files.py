"""Which files the configuration depends on, and whether they changed.

Rules: the supervisor watches `directories(paths)` and compares `stamp(paths)`. A mounted Kubernetes directory changes
by swapping a symbolic link beside the file (`..data`), so every link on the way counts as a file of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[tuple[str, int, int, int] | None, ...]


def with_links(path: Path) -> tuple[Path, ...]:
    """The path, and every symbolic link that is followed to reach it, each as an absolute path."""
    found: dict[Path, None] = {}
    waiting = [_absolute(path)]
    while waiting and len(found) < 64:  # a loop of links ends here; opening the file then fails with a better message
        current = waiting.pop()
        if current in found:
            continue
        found[current] = None
        for step in (current, *current.parents):
            if step.is_symlink():
                found.setdefault(step)
                target = step.parent / step.readlink()
                waiting.append(_absolute(target / current.relative_to(step)))
                break
    return tuple(found)


def directories(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The directories to watch, not their trees: a change of any of the paths is an event in one of them."""
    return tuple(sorted({path.parent for path in paths if path.parent.is_dir()}))


def stamp(paths: Iterable[Path]) -> Stamp:
    """What the paths lead to now; differs from an earlier stamp if a file was edited, replaced, or a link swapped."""
    return tuple(_one(path) for path in paths)


def _one(path: Path) -> tuple[str, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return os.path.realpath(path), status.st_ino, status.st_mtime_ns, status.st_size


def _absolute(path: Path) -> Path:
    """Absolute without following links, which is what `resolve()` would do."""
    return Path(os.path.normpath(Path.cwd() / path))
