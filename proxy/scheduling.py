"""Who waits for the processor: work that no request waits for must not take a worker's turn (decision 100), and what
all workers wait for needn't wait for its own (decision 101).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from typing import Final

_LOWEST: Final = 19
_SHORTEST_NS: Final = 100_000  # the shortest slice that the kernel takes,
_LONGEST_NS: Final = 100_000_000  # and the longest
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
_ATTR: Final = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period


def wait_for_everybody(pid: int) -> None:
    """A process gets the processor when nobody else wants it. Never for one thread of several: it would be given none
    while it has the interpreter's lock, and the others with it. Call it before the process has threads: on Linux each
    has a nice value of its own, and inherits it.

    Where the kernel can (Linux 6.12), it asks for long slices, too: whoever wants shorter ones, which is everybody,
    needn't wait for the end of one that it has begun.

    Source: sched(7), setpriority(2), sched_setattr(2).
    """
    with contextlib.suppress(OSError):  # a container may forbid it
        os.setpriority(os.PRIO_PROCESS, pid, _LOWEST)
        _want_slices(pid, _LONGEST_NS)


def answer_at_once() -> None:
    """The calling thread, and those it starts, work for moments only: they want short slices, and in return the kernel
    gives them the processor as soon as they have something to do, even if another has just begun a long slice. Their
    share stays what it is. Linux 6.12 or newer; an older one, or another system, goes on as before.

    Source: sched_setattr(2), `sched_runtime` of SCHED_OTHER; Linux' Documentation/scheduler/sched-eevdf.rst.
    """
    with contextlib.suppress(OSError):
        _want_slices(0, _SHORTEST_NS)


def _want_slices(pid: int, nanoseconds: int) -> None:
    """So long at a time. Raises OSError where there is no such process."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or os.uname().sysname != "Linux" or os.sched_getscheduler(pid) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, pid)
    attr = _ATTR.pack(_ATTR.size, os.SCHED_OTHER, 0, nice, 0, nanoseconds, 0, 0)
    ctypes.CDLL(None).syscall(number, pid, attr, 0)  # refused where a container forbids it
