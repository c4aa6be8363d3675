"""Who may wait for the processor: work that no request waits for must not take a worker's turn."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Final

_LOWEST: Final = 19


def wait_for_everybody() -> None:
    """The calling thread gets the processor when nobody else wants it. Only Linux has this for one thread; elsewhere
    nothing changes.

    Source: sched(7), setpriority(2): a nice value is a thread's own on Linux.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
