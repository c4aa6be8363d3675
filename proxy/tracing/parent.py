"""W3C Trace Context, level 1: what a `traceparent` says, and the ids of what has none. Pure.

Ids are digests of the exchange's id, which is random: so whoever knows the exchange knows its trace and its spans,
and nothing need be kept between the worker that passes them on and the supervisor that tells of them.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final, NamedTuple

from proxy.wire.headers import Headers

NOTED: Final = "traced"
"""The action of the decision that makes an exchange a trace; its numbers are `trace` and `parent`."""

HEADER: Final = b"traceparent"
_STATE: Final = b"tracestate"
# https://www.w3.org/TR/trace-context-1/#traceparent-header: a later version may go on after the flags.
_FORM: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1


class Parent(NamedTuple):
    """Where a client's own trace stands when it calls."""

    trace: str
    span: str
    sampled: bool


def parent_in(headers: Headers) -> Parent | None:
    """What the request says; None where it says nothing, nothing valid, or two things."""
    given = [value for name, value in headers if name == HEADER]
    match = _FORM.fullmatch(given[0].strip()) if len(given) == 1 else None
    if match is None:
        return None
    version, trace, span, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest) or not int(trace, 16) or not int(span, 16):
        return None
    return Parent(trace.decode(), span.decode(), bool(int(flags, 16) & _SAMPLED))


def passed_on(headers: Headers, trace: str, span: str, sampled: bool, continued: bool) -> Headers:
    """The headers with our span as parent. A `tracestate` belongs to the trace that it came with."""
    gone = (HEADER,) if continued else (HEADER, _STATE)
    kept = [pair for pair in headers if pair[0] not in gone]
    kept.append((HEADER, f"00-{trace}-{span}-{int(sampled):02x}".encode()))
    return kept


def trace_of(exchange: str) -> str:
    """The trace of an exchange that belongs to no other."""
    return blake2b(exchange.encode(), digest_size=16, person=b"trace").hexdigest()


def span_of(exchange: str, attempt: int = 0) -> str:
    """The span of an exchange, or of one of its attempts, which count from 1."""
    return blake2b(f"{exchange}/{attempt}".encode(), digest_size=8, person=b"span").hexdigest()


def drawn(trace: str, share: float) -> bool:
    """Whether a trace is among this share of all: the same for whoever asks."""
    return int(trace[16:], 16) < share * 2**64
