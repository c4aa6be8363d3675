"""How hard a worker is pressed, measured ten times a second: its loop, its CPU, its memory.

Rules: measuring costs a few microseconds, fifty times a second, ten times where nothing runs. A turn of the loop is
measured as such: a callback asked for now runs in the next turn. Of those of 100 ms the middle one counts, of two the
shorter, so that one that took long (a collection of garbage, a neighbour on the core) is no overload. CPU that this
thread waits for, since others have it, is none that is left: the kernel counts that time (`schedstat`), where it does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxy.config.overload import Overload
from proxy.pressure.overload import Gate

PROBE_S: Final = 0.02
LOOK_S: Final = 0.1
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_LIMIT_FILES: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_STATM: Final = Path("/proc/self/statm")
_SCHEDSTAT: Final = Path("/proc/thread-self/schedstat")


class Watch:
    """Measures this worker and tells its gate, ten times a second. `others` is the pressure on what is counted
    elsewhere: bytes, descriptors; `each` is called at each probe."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        gate: Gate,
        others: Callable[[], float],
        each: Callable[[], object] = lambda: None,
    ) -> None:
        self.lag_s = 0.0  # in the last look
        self._loop = loop
        self._gate = gate
        self._others = others
        self._each = each
        self._lag_limit_s = Overload().lag_s
        self._memory_limit = 0
        self._lags: list[float] = []
        self._most = 0
        self._due = 0.0
        self._began = (0.0, 0.0)  # the loop's time, and what of it had the CPU taken
        self._handle: asyncio.TimerHandle | None = None
        self._pages, self._waits = _opened(_STATM), _opened(_SCHEDSTAT)

    def adopt(self, options: Overload, workers: int) -> None:
        """Other options; begins to measure."""
        self._lag_limit_s = options.lag_s
        self._memory_limit = options.memory_bytes or int(memory_bytes() / workers * 0.8)
        if self._handle is None:
            self._began = (self._loop.time(), self._taken_s())
            self._next()

    def close(self) -> None:
        """Ends measuring."""
        if self._handle is not None:
            self._handle.cancel()
        for descriptor in (self._pages, self._waits):
            if descriptor >= 0:
                os.close(descriptor)
        self._pages = self._waits = -1

    def _next(self) -> None:
        self._due = self._loop.time() + (PROBE_S if self._gate.running else LOOK_S)
        self._handle = self._loop.call_at(self._due, self._probe)

    def _probe(self) -> None:
        at_s = time.monotonic()
        self._most = max(self._most, self._gate.running)
        self._loop.call_soon(self._turned, at_s, max(0.0, self._loop.time() - self._due))

    def _turned(self, at_s: float, late_s: float) -> None:
        """The loop has turned once since the probe."""
        self._lags.append(max(time.monotonic() - at_s, late_s))
        self._gate.tick(self._lags[-1])
        self._each()
        if self._loop.time() - self._began[0] >= LOOK_S:
            self._look()
        self._next()

    def _look(self) -> None:
        self.lag_s = sorted(self._lags)[(len(self._lags) - 1) // 2]
        now = (self._loop.time(), self._taken_s())
        over_s, taken_s = now[0] - self._began[0], now[1] - self._began[1]
        pressure = max(self.lag_s / self._lag_limit_s, self._others(), self._memory())
        self._gate.look(pressure, taken_s / max(over_s, 1e-3), max(self._most, self._gate.running), over_s)
        self._lags, self._most = [], 0
        self._began = now

    def _taken_s(self) -> float:
        """CPU time that this thread had, and that it waited for."""
        waited_ns = int(os.pread(self._waits, 64, 0).split()[1]) if self._waits >= 0 else 0
        return time.thread_time() + waited_ns / 1e9

    def _memory(self) -> float:
        if self._pages < 0 or not self._memory_limit:
            return 0.0
        resident = int(os.pread(self._pages, 64, 0).split()[1]) * _PAGE_BYTES
        return resident / self._memory_limit


def _opened(path: Path) -> int:
    """-1 where the kernel has none."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path.exists() else -1


def memory_bytes(files: tuple[str, ...] = _LIMIT_FILES) -> int:
    """What the container may use, else what the machine has."""
    physical = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    for name in files:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(int(text), physical)
    return physical
