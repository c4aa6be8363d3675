"""Who may wait for the processor: work that no request waits for must not take a worker's turn (decision 100)."""

from __future__ import annotations

import contextlib
import os
from typing import Final

_LOWEST: Final = 19


def wait_for_everybody(pid: int) -> None:
    """A process gets the processor when nobody else wants it. Never for one thread of several: it would be given none
    while it has the interpreter's lock, and the others with it. Call it before the process has threads: on Linux each
    has a nice value of its own, and inherits it.

    Source: sched(7), setpriority(2).
    """
    with contextlib.suppress(OSError):  # a container may forbid it
        os.setpriority(os.PRIO_PROCESS, pid, _LOWEST)
