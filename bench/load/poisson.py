"""Open loop: requests leave when a Poisson process says so, and are timed from then on (no coordinated omission).

A thread-less epoll loop on a timerfd: event loops round their timers to whole milliseconds, which would turn arrivals
into bursts. A request that finds no free connection waits for one, and its waiting counts.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import os
import random
import select
import socket
import struct
import time
from dataclasses import dataclass, field

from bench.load import wire

_NS = 1_000_000_000
_SETTLE_S = 0.25  # from the last connect to the first request: an event loop accepts 256 connections in tens of ms
_TFD_TIMER_ABSTIME = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _Alarm:
    """A timerfd on CLOCK_MONOTONIC (timerfd_create(2); in the standard library from Python 3.13)."""

    def __init__(self) -> None:
        self.fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, at_ns: int) -> None:
        spec = struct.pack("=qqqq", 0, 0, at_ns // _NS, at_ns % _NS)
        if _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, spec, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)


@dataclass(slots=True)
class Seen:
    """Latencies in microseconds from the intended time, and how honest the generator itself was."""

    latencies_us: list[float] = field(default_factory=list)
    late_us: list[float] = field(default_factory=list)  # intended time to the generator's own send
    waited: int = 0  # requests that found no free connection
    failed: int = 0
    unanswered: int = 0


def arrivals_ns(rate: float, seconds: float, seed: int) -> list[int]:
    """Intended send times from 0, with exponential gaps of mean 1/rate."""
    rng = random.Random(seed)
    times: list[int] = []
    at = rng.expovariate(rate)
    while at < seconds:
        times.append(int(at * _NS))
        at += rng.expovariate(rate)
    return times


class _Pool:
    """Pre-opened connections, each with the intended time of the request that it carries."""

    def __init__(self, url: str, size: int) -> None:
        where = wire.address(url)
        self.sockets: dict[int, socket.socket] = {}
        for _ in range(size):
            opened = socket.create_connection((where.host, where.port), timeout=10)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setblocking(False)
            self.sockets[opened.fileno()] = opened
        self.free = collections.deque(self.sockets)
        self.intended: dict[int, int] = {}
        self.buffers: dict[int, bytes] = {}

    def close(self) -> None:
        for opened in self.sockets.values():
            opened.close()


def run(url: str, request: bytes, *, rate: float, seconds: float, connections: int = 256, seed: int = 1) -> Seen:
    """Send at `rate` a second for `seconds`, then wait up to 5 s for what is outstanding."""
    seen = Seen()
    pool = _Pool(url, connections)
    alarm = _Alarm()
    poller = select.epoll()
    try:
        poller.register(alarm.fd, select.EPOLLIN)
        for fd in pool.sockets:
            poller.register(fd, select.EPOLLIN)
        times = arrivals_ns(rate, seconds, seed)
        gc.collect()
        gc.disable()
        _drive(pool, alarm, poller, request, times, seen)
    finally:
        gc.enable()
        poller.close()
        alarm.close()
        pool.close()
    return seen


def _drive(pool: _Pool, alarm: _Alarm, poller: select.epoll, request: bytes, times: list[int], seen: Seen) -> None:
    start = time.monotonic_ns() + int(_SETTLE_S * _NS)
    due = collections.deque(start + at for at in times)
    backlog: collections.deque[int] = collections.deque()
    give_up, set_to = due[-1] + 5 * _NS, 0
    while due or backlog or pool.intended:
        if due and set_to != due[0]:
            set_to = due[0]
            alarm.set(set_to)
        for fd, _ in poller.poll(1.0):
            if fd == alarm.fd:
                alarm.clear()
            else:
                _receive(pool, fd, seen)
        now = time.monotonic_ns()
        while due and due[0] <= now:
            backlog.append(due.popleft())
            seen.waited += not pool.free
        while backlog and pool.free:
            _send(pool, request, backlog.popleft(), seen)
        if now > give_up or not pool.sockets:
            break
    seen.unanswered = len(backlog) + len(due) + len(pool.intended)


def _send(pool: _Pool, request: bytes, intended: int, seen: Seen) -> None:
    fd = pool.free.popleft()
    pool.intended[fd] = intended
    seen.late_us.append((time.monotonic_ns() - intended) / 1000)
    try:
        sent = pool.sockets[fd].send(request)
    except OSError:
        sent = 0
    if sent != len(request):  # small requests fit the socket's buffer; if not, the connection is broken
        _lose(pool, fd, seen)


def _receive(pool: _Pool, fd: int, seen: Seen) -> None:
    if fd not in pool.sockets:
        return
    try:
        data = pool.sockets[fd].recv(65536)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    now = time.monotonic_ns()
    buffer = pool.buffers.pop(fd, b"") + data
    try:
        end = wire.answer_end(buffer)
    except ValueError:
        data = b""
    if not data:
        _lose(pool, fd, seen)
    elif not end:
        pool.buffers[fd] = buffer
    else:
        seen.latencies_us.append((now - pool.intended.pop(fd)) / 1000)
        pool.free.append(fd)


def _lose(pool: _Pool, fd: int, seen: Seen) -> None:
    if pool.intended.pop(fd, None) is not None:
        seen.failed += 1
    with contextlib.suppress(ValueError):
        pool.free.remove(fd)
    pool.sockets.pop(fd).close()
