"""Answers of upstreams against h11: whole, framed and cut in every way, with the same result at every split point.

Known differences, each a deliberate one: we refuse what h11 takes of obs-fold, bare LF, repeated Content-Length (in
trailers, too) and 101 Switching Protocols; and bytes behind an answer make its connection unusable.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.raw import chunks
from tests.wire.sansio import Loop, Received


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with Loop() as running:
        yield running


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(marks) if a < b]


def judged(data: bytes, method: str, eof: bool) -> tuple[int, list[tuple[bytes, bytes]], bytes, str]:
    """h11's reading of one answer: status, fields, body and `whole`, `open` or `bad`."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    client.send(h11.Request(method=method, target="/", headers=[("host", "x"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    status, fields, body = 0, [], b""
    try:
        client.receive_data(data)
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                if not eof:
                    return status, fields, body, "open"
                eof = False
                client.receive_data(b"")
            elif isinstance(event, h11.Response):
                status, fields = event.status_code, [(bytes(n), bytes(v)) for n, v in event.headers]
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, fields, body, "whole"
            elif not isinstance(event, h11.InformationalResponse):
                return status, fields, body, "bad"
    except h11.RemoteProtocolError:
        return status, fields, body, "bad"


def outcome(received: Received) -> tuple[object, ...]:
    return (
        received.status,
        received.headers,
        received.body,
        received.verdict,
        True in received.released and not received.aborted,
    )


TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_.", min_size=1, max_size=10)
FRAMING = {"content-length", "transfer-encoding", "connection", "upgrade"}
VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=16)
FIELDS = st.lists(st.tuples(TOKEN.filter(lambda name: name.lower() not in FRAMING), VALUE), max_size=5)
BODY = st.binary(max_size=60)
STATUS = st.sampled_from([200, 201, 206, 204, 301, 304, 400, 404, 429, 500, 503, 529])
HOW = st.sampled_from(["length", "chunked", "close", "close-1.0"])
EARLY = st.sampled_from(
    [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX: y\r\n\r\n"]
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bool, bool]:
    """An answer, whether it is one to HEAD, and whether it needs the end of the connection."""
    status, head_request, how, body = draw(STATUS), draw(st.booleans()), draw(HOW), draw(BODY)
    lines = [f"{name}:{draw(st.sampled_from(['', ' ']))}{value}" for name, value in draw(FIELDS)]
    version, wire = "1.1", b""
    bodiless = head_request or status in (204, 304)
    if how == "length":
        lines.append(f"Content-Length: {len(body)}")
        wire = body
    elif how == "chunked" and status != 204:
        lines.append("Transfer-Encoding: chunked")
        trailer = draw(st.sampled_from([b"", b"X-Trailer: t\r\n"]))
        wire = chunks(*cut(body, draw(st.lists(st.integers(0, 60), max_size=3))), trailer=trailer)
    else:
        lines.append("Connection: close")
        version = "1.0" if how == "close-1.0" else "1.1"
        wire = body
    if bodiless:
        wire = b""
    draw(st.randoms(use_true_random=False)).shuffle(lines)
    reason = draw(st.sampled_from(["OK", "", "Some Reason (x)"]))
    early = draw(EARLY) if version == "1.1" else b""
    data = early + "\r\n".join([f"HTTP/{version} {status} {reason}", *lines, "", ""]).encode() + wire
    return data, head_request, not bodiless and how.startswith("close")


@given(answer=answers(), places=st.lists(st.integers(0, 10_000), max_size=8))
@settings(max_examples=500)
def test_valid_answers_are_read_as_h11_reads_them(
    loop: Loop, answer: tuple[bytes, bool, bool], places: list[int]
) -> None:
    """Status, fields, body and end: by length, by chunks, by the connection's end, and without a body."""
    data, head_request, needs_eof = answer
    status, fields, body, verdict = judged(data, "HEAD" if head_request else "POST", True)
    assert verdict == "whole"
    received = loop.received(cut(data, places), head_request=head_request, eof=needs_eof)
    assert (received.status, received.body, received.verdict) == (status, body, "whole")
    assert received.headers == fields


@given(answer=answers(), places=st.lists(st.integers(0, 10_000), max_size=8), short=st.integers(1, 80))
@settings(max_examples=400)
def test_a_cut_answer_is_never_whole(
    loop: Loop, answer: tuple[bytes, bool, bool], places: list[int], short: int
) -> None:
    """FIN before the end is a failure, wherever it falls, unless the end of the connection is the end of the body."""
    data, head_request, needs_eof = answer
    data = data[:-short]
    received = loop.received(cut(data, places), head_request=head_request, eof=True)
    *_, verdict = judged(data, "HEAD" if head_request else "POST", True)
    assert (received.verdict == "whole") == (verdict == "whole")
    if not (needs_eof and b"\r\n\r\n" in data):
        assert received.verdict in ("reset", "truncated", "malformed")


PARTS = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\x00",
    b"HTTP/1.1 200 OK\r\n",
    b"Content-Length: 5\r\n",
    b"0\r\n\r\n",
    b"\r\n\r\n",
    b"f",
]
PARTS += [
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b";",
    b":",
    b"HTTP/2",
]
CHANGES = st.lists(st.tuples(st.booleans(), st.integers(0, 10_000), st.sampled_from(PARTS)), min_size=1, max_size=3)


def damaged(data: bytes, changes: list[tuple[bool, int, bytes]]) -> bytes:
    for insert, at, part in changes:
        place = at % (len(data) + 1)
        data = data[:place] + part + data[place + (0 if insert else len(part)) :]
    return data


@given(answer=answers(), changes=CHANGES, places=st.lists(st.integers(0, 10_000), max_size=6), eof=st.booleans())
@settings(max_examples=800)
def test_any_bytes_cut_anywhere_give_the_same(
    loop: Loop, answer: tuple[bytes, bool, bool], changes: list[tuple[bool, int, bytes]], places: list[int], eof: bool
) -> None:
    """Damaged answers too: told the same, ended the same, and the connection kept only if it is always kept."""
    data, head_request, _ = answer
    data = damaged(data, changes)
    whole = loop.received([data], head_request=head_request, eof=eof)
    pieces = loop.received(cut(data, places), head_request=head_request, eof=eof)
    assert outcome(pieces)[:4] == outcome(whole)[:4]


@given(answer=answers(), changes=CHANGES, eof=st.booleans())
@settings(max_examples=800)
def test_what_is_taken_for_whole_h11_takes_for_the_same(
    loop: Loop, answer: tuple[bytes, bool, bool], changes: list[tuple[bool, int, bytes]], eof: bool
) -> None:
    """An answer that we call whole has the status and the body that h11 reads, or h11 refuses it altogether."""
    data, head_request, _ = answer
    data = damaged(data, changes)
    received = loop.received([data], head_request=head_request, eof=eof)
    if received.verdict != "whole":
        return
    status, _, body, verdict = judged(data, "HEAD" if head_request else "POST", eof)
    assert verdict == "bad" or (received.status, received.body, "whole") == (status, body, verdict)


@pytest.mark.parametrize(
    ("data", "status", "body", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2 \r\n\r\nhi", 200, b"hi", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked \r\n\r\n2\r\nhi\r\n0\r\n\r\n", 200, b"hi", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: t\r\n\r\n", 200, b"hi", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", 200, b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", 304, b"", True),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", 302, b"", True),
    ],
)
def test_an_answer_ends_where_its_framing_says(loop: Loop, data: bytes, status: int, body: bytes, kept: bool) -> None:
    """At every split point; and the connection goes back to the pool exactly if it may."""
    for pieces in ([data], *([data[:at], data[at:]] for at in range(1, len(data)))):
        received = loop.received(pieces)
        assert (received.status, received.body, received.verdict) == (status, body, "whole"), pieces
        assert received.released == ([True] if kept else [False]), pieces


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nbytes",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 99 Odd\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(300)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    ],
)
def test_what_is_no_answer_is_malformed(loop: Loop, data: bytes) -> None:
    """At every split point a failure, and the connection is cut."""
    step = max(1, len(data) // 200)
    for pieces in ([data], *([data[:at], data[at:]] for at in range(1, len(data), step))):
        received = loop.received(pieces)
        assert (received.verdict, received.aborted) == ("malformed", True), pieces


@pytest.mark.parametrize(
    "late", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x", b"\x00", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
@pytest.mark.parametrize("head_request", [False, True])
def test_bytes_behind_an_answer_make_its_connection_unusable(loop: Loop, late: bytes, head_request: bool) -> None:
    """The answer stands, what follows reaches nobody, and the connection is cut, at every split point."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if head_request else b"hi")
    for pieces in ([answer + late], [answer, late], [answer[:-1], answer[-1:] + late]):
        received = loop.received(pieces, head_request=head_request)
        assert (received.verdict, received.body) == ("whole", b"" if head_request else b"hi")
        assert received.aborted, pieces


def test_a_body_behind_an_answer_to_head_makes_its_connection_unusable(loop: Loop) -> None:
    """An upstream that sends a body to HEAD can't poison the answer after it."""
    head, body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"hi"
    for pieces in ([head + body], [head, body]):
        received = loop.received(pieces, head_request=True)
        assert (received.verdict, received.body, received.aborted) == ("whole", b"", True)
