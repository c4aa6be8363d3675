"""What the client must see of each fault, and what the journal must say it cost: the table of faults, as a function.

Pure. `CASES` names the rows that a request can ask the simulator for, with how a seed draws their arguments; `expected`
gives what is right for one of them on one kind of request. A fault of streams leaves unary answers as they are, and the
bytes of a sound have no events to spoil.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from bench.faults_matrix.kinds import Kind

Outcome = Literal[
    "whole",  # the answer, as if nothing had been
    "estimated",  # the answer; its usage can't be believed
    "passed",  # the upstream's own refusal; nothing was billed
    "unbilled",  # P: our status; nothing was billed
    "maybe",  # A: our status, not to be replayed; the estimate stands
    "broken",  # M: 200, an error event, no end
    "broken or maybe",  # M, or A where not even the first event came
]


@dataclass(frozen=True, slots=True)
class Expect:
    """`status` and `code` of the answer (None: any); `retried`: whether the SDK asks again."""

    outcome: Outcome
    status: int = 200
    code: str | None = None
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table of faults: how it is asked for, and whether it shows by a time limit only."""

    row: int
    name: str
    draw: Callable[[Random, Kind], str]
    timed: bool = False


def _plain(text: str) -> Callable[[Random, Kind], str]:
    return lambda random, kind: text


def _after(name: str, least: int = 1) -> Callable[[Random, Kind], str]:
    """After so many events, of those that come before the last."""
    return lambda random, kind: f"{name}:{random.randint(least, max(least, kind.early - 1))}"


def _one_of(*texts: str) -> Callable[[Random, Kind], str]:
    return lambda random, kind: random.choice(texts)


def _split(random: Random, kind: Kind) -> str:
    return f"split-every:{random.choice((1, 2, 3, 7, 64, 999))}" if not kind.file else "split-every:64"


def _huge(random: Random, kind: Kind) -> str:
    return f"huge-event:2:{random.randint(1, max(1, kind.early - 1))}"


def _drip(random: Random, kind: Kind) -> str:
    return f"drip:{random.choice(('0.006', '0.02') if kind.shape == 'events' else ('0.02', '0.05'))}"


MALFORMED = ("bare-cr", "bad-name", "nul", "no-colon", "space-colon", "obs-fold", "bare-lf")
CASES = (
    Case(5, "rate-limit, short", _one_of("rate-limit:1", "rate-limit:2")),
    Case(6, "rate-limit, long", _plain("rate-limit:3600")),
    Case(7, "quota", _plain("quota")),
    Case(8, "unauthorized", _one_of("unauthorized", "forbidden")),
    Case(9, "bad request", _plain("bad-request")),
    Case(9, "not found", _plain("not-found")),
    Case(9, "unprocessable", _plain("unprocessable")),
    Case(10, "context length", _plain("context-length")),
    Case(11, "500", _one_of("error-500", "error-500:billed", "error-500:early")),
    Case(11, "502", _one_of("error-502", "error-502:early")),
    Case(11, "503", _one_of("error-503", "error-503:early")),
    Case(12, "529", _plain("overloaded-529")),
    Case(13, "no headers", _plain("no-headers"), timed=True),
    Case(14, "reset after the request", _one_of("reset-after-request", "reset-after-request:close")),
    Case(15, "idle connection closed", _one_of("close-idle", "close-idle:next")),
    Case(16, "first event an error", _plain("first-event-error")),
    Case(16, "first event a rate limit", _plain("first-event-error:rate_limit")),
    Case(17, "error in mid-stream", _after("mid-error")),
    Case(18, "end without [DONE]", _after("eof-no-done")),
    Case(19, "cut chunk", _after("cut-chunk")),
    Case(19, "RST", _after("rst")),
    Case(20, "stall", _after("stall"), timed=True),
    Case(20, "heartbeats", lambda random, kind: f"heartbeat:{random.randint(1, 9)}:0.01"),
    Case(21, "a byte at a time", _drip, timed=True),
    Case(22, "half-open, no answer", _plain("half-open:0"), timed=True),
    Case(22, "half-open, in mid-stream", _after("half-open"), timed=True),
    Case(23, "malformed event", _after("malformed-event")),
    Case(24, "event too large", _huge),
    Case(25, "CR LF", _plain("crlf")),
    Case(25, "CR", _plain("cr")),
    Case(25, "no space", _plain("no-space")),
    Case(25, "several data lines", _plain("several-data-lines")),
    Case(25, "joined", _one_of("joined", "joined:2", "joined:3")),
    Case(25, "split anywhere", _split),
    Case(25, "split UTF-8", _plain("split-utf8")),
    Case(26, "data after the end", _plain("after-done")),
    Case(27, "no last blank line", _plain("no-last-blank")),
    Case(28, "200 with HTML", _plain("html-200")),
    Case(28, "200 with nothing", _plain("empty-200")),
    Case(29, "truncated JSON", _plain("truncated-json")),
    Case(29, "length too long", _plain("wrong-length:long")),
    Case(29, "length too short", _plain("wrong-length:short")),
    Case(30, "gzip bomb", _plain("gzip-bomb:8")),
    Case(30, "unknown encoding", _one_of("unknown-encoding", "unknown-encoding:br", "unknown-encoding:zstd")),
    Case(30, "gzip", _plain("gzip")),
    Case(31, "usage absent", _plain("no-usage")),
    Case(31, "usage negative", _plain("negative-usage")),
    Case(31, "usage 2^63", _plain("huge-usage")),
    Case(32, "usage repeated", _plain("repeated-usage")),
    Case(32, "usage beside content", _plain("usage-in-last-choice-chunk")),
    Case(33, "redirect", _one_of("redirect", "redirect:301", "redirect:307", "redirect:308")),
    Case(34, "cookies and hop-by-hop fields", _plain("set-cookie")),
    *(Case(34, f"bad header: {kind}", _plain(f"header-crlf:{kind}")) for kind in MALFORMED),
)

_PASSED = {
    "rate-limit": (429, None, True),
    "quota": (429, "insufficient_quota", True),
    "bad-request": (400, None, False),
    "not-found": (404, "model_not_found", False),
    "unprocessable": (422, None, False),
    "context-length": (400, "context_length_exceeded", False),
}
_UNBILLED = {
    "unauthorized": (502, "upstream_key_refused", False),
    "forbidden": (502, "upstream_key_refused", False),
    "error-503": (503, "upstream_overloaded", True),
    "overloaded-529": (503, "upstream_overloaded", True),
    "redirect": (502, "upstream_redirect", True),
}
_MAYBE = {
    "error-500": (502, "upstream_500"),
    "error-502": (502, "upstream_502"),
    "no-headers": (504, "upstream_timeout"),
    "reset-after-request": (502, "upstream_reset"),
    "html-200": (502, "upstream_not_an_answer"),
    "empty-200": (502, None),
    "gzip-bomb": (502, None),
    "unknown-encoding": (502, "upstream_encoding"),
    "header-crlf": (502, "upstream_malformed"),
}
_BROKEN = ("mid-error", "eof-no-done", "cut-chunk", "rst", "stall", "malformed-event", "huge-event", "no-last-blank")
_ABSURD = ("no-usage", "negative-usage", "huge-usage")
_CUT = {"cut-chunk": 502, "rst": 502, "stall": 504, "drip": 504}  # of what isn't streamed


def expected(fault: str, kind: Kind) -> Expect | None:
    """What is right, or None where the fault means nothing on such answers."""
    name, _, argument = fault.partition(":")
    if name in _PASSED:
        status, code, retried = _PASSED[name]
        return Expect("passed", status, code, retried and argument != "3600")
    if name in _UNBILLED:
        status, code, retried = _UNBILLED[name]
        return Expect("unbilled", status, code, retried)
    if name == "gzip-bomb" and kind.shape == "blob":
        return None  # noise with white space behind it: not even that much of it
    if name == "gzip-bomb" and kind.shape == "events":
        return Expect("broken or maybe", 502)  # a true answer comes before what makes it a bomb
    if name in _MAYBE:
        return Expect("maybe", *_MAYBE[name])
    if name == "half-open":
        if argument == "0" or kind.shape == "blob":
            return Expect("maybe", 504)
        return Expect("broken") if kind.shape == "events" else None  # it would be the next request that shows it
    of_shape = {"events": _of_events, "json": _of_json, "blob": _of_blob}[kind.shape]
    return of_shape(name, argument, kind)


def _of_events(name: str, argument: str, kind: Kind) -> Expect | None:
    if name == "first-event-error":
        if argument and not kind.anthropic:  # Anthropic's form of the simulated error names no rate limit
            return Expect("unbilled", 429, None, True)
        return Expect("unbilled", 502, None, True)
    if name == "no-last-blank" and kind.path.startswith("/v1/images/"):
        return None  # its last event is one like the others
    if name in _BROKEN or (name, argument) == ("wrong-length", "short"):
        return Expect("broken")
    if name == "drip":
        return Expect("broken or maybe", 504)
    if name in _ABSURD and not kind.name.startswith("audio.transcriptions"):
        return Expect("estimated")
    return Expect("whole")


def _of_json(name: str, argument: str, kind: Kind) -> Expect | None:
    if name in _CUT:
        return Expect("maybe", _CUT[name])
    if name in ("truncated-json", "wrong-length"):
        return Expect("maybe", 502)
    if name in _ABSURD and not (kind.path.startswith("/v1/audio/")):
        return Expect("estimated")
    return Expect("whole")


def _of_blob(name: str, argument: str, kind: Kind) -> Expect | None:
    if name in _CUT:
        return Expect("maybe", _CUT[name])
    if (name, argument) == ("wrong-length", "long"):
        return Expect("maybe", 502)
    if name in ("close-idle", "gzip", "set-cookie", "split-every", *_ABSURD):
        return Expect("estimated")  # a sound tells no usage
    return None
