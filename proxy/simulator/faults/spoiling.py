"""Faults of the wire: they spoil the timed bytes of an answer, whatever they mean.

Counts are of frames: the first has the head and the first event (or the whole unary answer), each later one an event.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from proxy.simulator.faults.terms import Case, Spoil
from proxy.simulator.playing import Act, Frame
from proxy.simulator.reply import Afterwards, Script

# After the last byte, so that it is read before the reset arrives.
_AFTER_S = 0.005


def no_headers(script: Script, case: Case) -> Script:
    """Never a byte of an answer; with an argument, only late."""
    wait = case.number(0)
    late = ((due + wait, what, made) for due, what, made in script.frames)
    script.frames = late if wait else iter([(0.0, Act.HOLD, 0)])
    return script


def reset_after_request(script: Script, case: Case) -> Script:
    """RST (or, with argument `close`, FIN) instead of an answer."""
    script.frames = iter([(0.0, Act.CLOSE if case.text("") == "close" else Act.RESET, 0)])
    return script


def close_idle(script: Script, case: Case) -> Script:
    """The kept-alive connection goes after the answer: at once or, with argument `next`, when a request comes on it."""
    script.afterwards = Afterwards.CLOSE_NEXT if case.text("") == "next" else Afterwards.CLOSE
    return script


def cut(ending: Act) -> Spoil:
    """A fault that writes N frames and half of the next, and then ends the connection. Of a unary answer, half."""

    def spoil(script: Script, case: Case) -> Script:
        script.frames, script.single = _cut(script.frames, case.count(3), ending), True
        return script

    return spoil


def _cut(frames: Iterator[Frame], count: int, ending: Act) -> Iterator[Frame]:
    due, what, made = next(frames)
    for following in islice(frames, count):
        yield due, what, made
        due, what, made = following
    if isinstance(what, bytes):
        yield due, what[: len(what) // 2], made
    yield due + _AFTER_S, ending, made


def drip(script: Script, case: Case) -> Script:
    """One byte at a time, every so many seconds."""
    every, frames = case.number(1.0), script.frames

    def drops() -> Iterator[Frame]:
        at = 0.0
        for due, what, made in frames:
            at = max(at, due)
            if not isinstance(what, bytes):
                yield at, what, made
                return
            for offset in range(len(what)):
                yield at, what[offset : offset + 1], made
                at += every

    script.frames = drops()
    return script


def half_open(script: Script, case: Case) -> Script:
    """After N frames: neither read nor write any more, and do not close."""
    frames, count = script.frames, case.count(1)

    def opened() -> Iterator[Frame]:
        due, made = 0.0, 0
        for due, what, made in islice(frames, count):
            yield due, what, made
        yield due, Act.DEAF, made

    script.frames = opened()
    return script


def split_every(script: Script, case: Case) -> Script:
    """N bytes a write, each in its own turn of the loop."""
    size, frames = max(1, case.count(1)), script.frames

    def parts() -> Iterator[Frame]:
        for due, what, made in frames:
            if not isinstance(what, bytes):
                yield due, what, made
                return
            for offset in range(0, len(what), size):
                yield due, what[offset : offset + size], made

    script.frames, script.single = parts(), True
    return script


def split_utf8(script: Script, case: Case) -> Script:
    """A write ends within each character of more than one byte."""
    frames = script.frames

    def parts() -> Iterator[Frame]:
        for due, what, made in frames:
            if not isinstance(what, bytes):
                yield due, what, made
                return
            start = 0
            for at in range(1, len(what)):
                if what[at] & 0xC0 == 0x80 and what[at - 1] & 0xC0 == 0xC0:
                    yield due, what[start:at], made
                    start = at
            yield due, what[start:], made

    script.frames, script.single = parts(), True
    return script
