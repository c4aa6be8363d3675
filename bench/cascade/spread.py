"""Work that is spread over all processors, in processes forked for each call: what is known needn't be sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from typing import Any, TypeVar

T = TypeVar("T")
_running: Callable[[Any], Any] | None = None  # what the forked processes do


def spread(run: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """`run` of each, in their order."""
    global _running
    listed, _running = list(items), run
    with get_context("fork").Pool(min(os.cpu_count() or 1, len(listed))) as pool:
        return pool.map(_one, listed, chunksize=1)


def _one(item: Any) -> Any:
    assert _running is not None
    return _running(item)
