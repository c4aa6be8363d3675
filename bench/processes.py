"""Processes under test: started on one core, watched through the kernel's own clocks, ended by their pid.

Invariants: a process started here is ended by `stop`, whatever happened to it in between; the CPU time of a subject is
that of its whole tree, so moving work into another process hides nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PRIORITY = -10  # for subjects, upstreams and load alike
CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h: the scheduler's nanosecond count of a whole thread group


class NotReadyError(RuntimeError):
    """A process ended, or did not listen in time; carries the tail of its log."""


class Process:
    """One started program, with its log file; `pids` lists it and all its descendants."""

    def __init__(
        self, argv: Sequence[str], *, core: int | None, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """With `core` None it runs wherever the kernel likes, at the priority of this process: nothing is timed."""
        self.log = log
        with log.open("ab") as sink:
            self._popen = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=dict(os.environ, **(env or {})),
                preexec_fn=_settle_on(core),
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def pids(self) -> list[int]:
        return tree(self.pid)

    def alive(self) -> bool:
        return self._popen.poll() is None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def wait_listening(self, port: int, *, within_s: float = 30) -> None:
        """Return once the port accepts; raise NotReadyError when the process ends before that, or takes too long."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if not self.alive():
                raise NotReadyError(f"ended with {self._popen.returncode}:\n{self.tail()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.02)
        raise NotReadyError(f"not listening on port {port} after {within_s:.0f} s:\n{self.tail()}")

    def stop(self, patience_s: tuple[float, float] = (1.5, 3.0)) -> None:
        """SIGTERM (drain), SIGTERM again (now), then SIGKILL to what is left of the tree."""
        descendants = self.pids()
        for wait_s in patience_s:
            if not self.alive():
                break
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(wait_s)
        for pid in descendants if self.alive() else descendants[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.wait()


def _settle_on(core: int | None) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def settle() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
            prefer()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # nothing outlives an interrupted benchmark

    return settle


def prefer() -> bool:
    """Raise this process (its children inherit it) over the machine's other work, where the kernel allows; say
    whether it did.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    except PermissionError:
        return False
    return True


def tree(root: int) -> list[int]:
    """The process and its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := parent_of(int(entry.name))) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def parent_of(pid: int) -> int | None:
    """The parent of a process; None where there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of these processes so far, all threads, user and system, from the scheduler's clock (see
    clock_getcpuclockid(3)).
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)
    return total


def pss_bytes(pid: int) -> int:
    """The proportional set size: shared pages are divided among those who share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no Pss line for process {pid}")
