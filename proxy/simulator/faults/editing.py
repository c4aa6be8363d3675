"""Faults that edit an answer before it becomes bytes: its events, its body, its headers and how its end is told.

A fault of streams leaves unary answers as they are.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice

import msgspec
import orjson

from proxy.simulator.faults.terms import Case, Dialect, Edit
from proxy.simulator.playing import Act, Frame
from proxy.simulator.reply import Framing, Reply
from proxy.simulator.speech.terms import Refusal

_MIB = 1 << 20


def _changed(reply: Reply, **fields: object) -> Reply:
    return msgspec.structs.replace(reply, **fields)


def error_event(case: Case, message: str, type: str, code: str | None) -> bytes:
    """An error as an event, in the dialect's form."""
    payload = Refusal(500, message, type=type, code=code).payload(anthropic=case.dialect is Dialect.ANTHROPIC)
    if case.dialect is Dialect.RESPONSES:
        payload = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 0}
    name = b"" if case.dialect is Dialect.OPENAI else b"event: error\n"
    return b"%bdata: %b\n\n" % (name, orjson.dumps(payload))


def _until(reply: Reply, case: Case, default: int, ending: bytes) -> Reply:
    """The first N events, then `ending`, and a clean end of the body without the terminal event."""
    if reply.events is None:
        return reply
    events = reply.events

    def cut() -> Iterator[Frame]:
        due, made = 0.0, 0
        for due, event, made in islice(events, case.count(default)):
            yield due, event, made
        if ending:
            yield due, ending, made

    return _changed(reply, events=cut(), terminal=b"", early=True)


def first_event_error(reply: Reply, case: Case) -> Reply:
    kinds = {"rate_limit": "rate_limit_exceeded", "server_error": "server_error"}
    kind = case.text("server_error")
    event = error_event(case, "The server had an error processing your request.", kind, kinds.get(kind, kind))
    if reply.events is None:
        return reply
    return _changed(reply, events=iter([(0.0, event, 0)]), terminal=b"", bill=None)


def mid_error(reply: Reply, case: Case) -> Reply:
    return _until(reply, case, 3, error_event(case, "The server had an error while it answered.", "server_error", None))


def eof_no_done(reply: Reply, case: Case) -> Reply:
    return _until(reply, case, 1 << 60, b"")


def malformed_event(reply: Reply, case: Case) -> Reply:
    return _inserted(
        reply, case.count(3), b'data: {"id":"chatcmpl-broken","choices":[{"index":0,"delta":{"content":\n\n'
    )


def huge_event(reply: Reply, case: Case) -> Reply:
    size = int(case.number(17) * _MIB)
    content = (
        b'data: {"id":"chatcmpl-huge","object":"chat.completion.chunk","created":1,"model":"sim","choices":[{"index":0,'
    )
    return _inserted(reply, case.count(2, at=1), content + b'"delta":{"content":"%b"}}]}\n\n' % (b"x" * size))


def _inserted(reply: Reply, at: int, event: bytes) -> Reply:
    if reply.events is None:
        return reply
    events = reply.events

    def more() -> Iterator[Frame]:
        due, made = 0.0, 0
        for due, original, made in islice(events, at):
            yield due, original, made
        yield due, event, made
        yield from events

    return _changed(reply, events=more())


def line_ends(ending: bytes) -> Edit:
    """A fault that ends every line of the events with `ending`."""

    def edit(reply: Reply, case: Case) -> Reply:
        return _mapped(reply, lambda event: event.replace(b"\n", ending))

    return edit


def no_space(reply: Reply, case: Case) -> Reply:
    return _mapped(reply, lambda event: event.replace(b"data: ", b"data:", 1))


def several_data_lines(reply: Reply, case: Case) -> Reply:
    """Each JSON over two `data:` lines: the join is a line break where JSON takes one."""
    return _mapped(reply, lambda event: event.replace(b'","', b'",\ndata: "', 1))


def _mapped(reply: Reply, change: Callable[[bytes], bytes]) -> Reply:
    if reply.events is None:
        return reply
    events = ((due, change(what) if isinstance(what, bytes) else what, made) for due, what, made in reply.events)
    return _changed(reply, events=events, terminal=change(reply.terminal))


def joined(reply: Reply, case: Case) -> Reply:
    """N events in one write."""
    if reply.events is None:
        return reply
    events, size = reply.events, case.count(1 << 60)

    def together() -> Iterator[Frame]:
        while group := list(islice(events, size)):
            yield group[-1][0], b"".join(what for _, what, _ in group if isinstance(what, bytes)), group[-1][2]

    return _changed(reply, events=together())


def after_done(reply: Reply, case: Case) -> Reply:
    late = (
        b'data: {"id":"chatcmpl-late","object":"chat.completion.chunk","created":1,"model":"sim","choices":[{"index":0,'
    )
    return _changed(reply, terminal=reply.terminal + late + b'"delta":{"content":" late"},"finish_reason":null}]}\n\n')


def no_last_blank(reply: Reply, case: Case) -> Reply:
    return _changed(reply, terminal=reply.terminal.rstrip(b"\n"))


def heartbeat(reply: Reply, case: Case) -> Reply:
    """Comments before the first token: how many, and seconds between."""
    if reply.events is None:
        return reply
    events, times, every = reply.events, case.count(3), case.number(0.02, at=1)

    def beating() -> Iterator[Frame]:
        for beat in range(times):
            yield beat * every, b": processing\n\n", 0
        for due, what, made in events:
            yield due + times * every, what, made

    return _changed(reply, events=beating())


def stall(reply: Reply, case: Case) -> Reply:
    """Silence after N events, for some seconds or for ever."""
    if reply.events is None:
        return _changed(reply, events=iter([(reply.delay, Act.HOLD, 0)]), early=True, framing=Framing.CHUNKED)
    events, pause = reply.events, case.number(0, at=1)

    def stalling() -> Iterator[Frame]:
        due, made = 0.0, 0
        for due, what, made in islice(events, case.count(3)):
            yield due, what, made
        if not pause:
            yield due, Act.HOLD, made
        for due, what, made in events:
            yield due + pause, what, made

    return _changed(reply, events=stalling(), early=True)


# Bodies, their coding and their length


def truncated_json(reply: Reply, case: Case) -> Reply:
    return reply if reply.events is not None else _changed(reply, body=reply.body[: len(reply.body) // 2])


def wrong_length(reply: Reply, case: Case) -> Reply:
    """A Content-Length that is too long (then FIN) or, with argument `short`, too short."""
    if reply.events is not None:
        body = b"".join(what for _, what, _ in reply.events if isinstance(what, bytes)) + reply.terminal
        reply = _changed(reply, events=None, body=body)
    off = -10 if case.text("long") == "short" else 1000
    return _changed(reply, length=len(reply.body) + off, keep=False)


def zipped(reply: Reply, case: Case) -> Reply:
    """A proper gzip coding; of a stream, flushed after each event."""
    headers = [*reply.headers, (b"content-encoding", b"gzip")]
    if reply.events is None:
        return _changed(reply, body=gzip.compress(reply.body, 1, mtime=0), headers=headers)
    coder = zlib.compressobj(1, zlib.DEFLATED, 31)
    events, terminal = reply.events, reply.terminal

    def coded() -> Iterator[Frame]:
        due, made = 0.0, 0
        for due, what, made in events:
            data = coder.compress(what) + coder.flush(zlib.Z_SYNC_FLUSH) if isinstance(what, bytes) else what
            yield due, data, made
        yield due, coder.compress(terminal) + coder.flush(), made

    return _changed(reply, events=coded(), terminal=b"", headers=headers)


@cache
def _padding(mebibytes: int) -> tuple[bytes, bytes]:
    """(deflated spaces, to be put in the middle of a raw deflate stream; one mebibyte of them plain)."""
    plain = b" " * _MIB
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (coder.compress(plain) + coder.flush(zlib.Z_FULL_FLUSH)) * mebibytes, plain


def gzip_bomb(reply: Reply, case: Case) -> Reply:
    """A right answer with N MiB of white space behind it, all in one small and well-formed gzip body."""
    size = case.count(256)
    if reply.events is not None:
        body = b"".join(what for _, what, _ in reply.events if isinstance(what, bytes)) + reply.terminal
        reply = _changed(reply, events=None, body=body)
    padding, plain = _padding(size)
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = coder.compress(reply.body) + coder.flush(zlib.Z_FULL_FLUSH)
    check = zlib.crc32(reply.body)
    for _ in range(size):
        check = zlib.crc32(plain, check)
    end = b"\x03\x00" + check.to_bytes(4, "little") + ((len(reply.body) + size * _MIB) % 2**32).to_bytes(4, "little")
    body = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff" + start + padding + end
    return _changed(reply, body=body, headers=[*reply.headers, (b"content-encoding", b"gzip")])


def unknown_encoding(reply: Reply, case: Case) -> Reply:
    return _changed(reply, headers=[*reply.headers, (b"content-encoding", case.text("x-weir-unknown").encode())])


# Headers and framing


def set_cookie(reply: Reply, case: Case) -> Reply:
    """Fields that no proxy may pass on: cookies and hop-by-hop ones, also those that Connection names."""
    more = [
        (b"set-cookie", b"session=upstream; Path=/; HttpOnly"),
        (b"connection", b"keep-alive, x-hop"),
        (b"x-hop", b"this hop only"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-authenticate", b"Basic"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"alt-svc", b'h3=":443"'),
        (b"server", b"upstream/1.0"),
        (b"strict-transport-security", b"max-age=63072000"),
    ]
    return _changed(reply, headers=[*reply.headers, *more])


_BAD_HEADERS = {
    "obs-fold": b"x-folded: one\r\n two\r\n",
    "bare-lf": b"x-split: one\nx-injected: two\r\n",
    "bare-cr": b"x-split: one\rx-injected: two\r\n",
    "bad-name": b"x bad name: one\r\n",
    "space-colon": b"x-space : one\r\n",
    "nul": b"x-nul: a\x00b\r\n",
    "no-colon": b"x-no-colon\r\n",
}


def bad_header(reply: Reply, case: Case) -> Reply:
    return _changed(reply, raw_headers=reply.raw_headers + _BAD_HEADERS[case.text("obs-fold")])


def informational(reply: Reply, case: Case) -> Reply:
    return _changed(reply, before=b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")


def trailers(reply: Reply, case: Case) -> Reply:
    return _changed(reply, framing=Framing.CHUNKED, trailers=b"x-trailer: late\r\nset-cookie: late=1\r\n")


def until_close(reply: Reply, case: Case) -> Reply:
    return _changed(reply, framing=Framing.UNTIL_CLOSE)


def chunked(reply: Reply, case: Case) -> Reply:
    return _changed(reply, framing=Framing.CHUNKED)
