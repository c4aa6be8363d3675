"""Who waits for the processor."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
import subprocess
import sys

import pytest

from proxy import scheduling

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
_NICED = (
    "import os; from proxy import scheduling; n = os.nice(7); {call}; print(os.getpriority(os.PRIO_PROCESS, 0) - n)"
)


def test_who_answers_at_once_takes_no_larger_share() -> None:
    """A process that its administrator has niced stays so when it asks for short slices."""
    program = _NICED.format(call="scheduling.answer_at_once()")
    assert subprocess.check_output([sys.executable, "-c", program]).strip() == b"0"


def test_who_waits_for_everybody_is_let_in_last() -> None:
    """It is as nice as can be, and what it has begun may be cut short by all that want shorter slices."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        scheduling.wait_for_everybody(process.pid)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
        if _newer_than((6, 12)):
            assert _slice_ns(process.pid) > _slice_ns(0)
        process.communicate()


def test_who_answers_at_once_wants_short_slices() -> None:
    """Shorter ones than others."""
    if not _newer_than((6, 12)):
        pytest.skip("before Linux 6.12 a process can't say how long its slices are to be")
    program = "from proxy import scheduling; scheduling.answer_at_once(); print('.', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        assert _slice_ns(process.pid) < _slice_ns(0)
        process.communicate(b"\n")


def _newer_than(version: tuple[int, int]) -> bool:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (
        sys.platform == "linux"
        and platform.machine() in _SCHED_GETATTR
        and found is not None
        and (int(found[1]), int(found[2])) >= version
    )


def _slice_ns(pid: int) -> int:
    """As the kernel tells it (sched_getattr(2))."""
    told = ctypes.create_string_buffer(48)
    number = _SCHED_GETATTR[platform.machine()]
    assert ctypes.CDLL(None, use_errno=True).syscall(number, pid, told, len(told), 0) == 0
    return int(struct.unpack("=IIQiIQQQ", told.raw)[5])
