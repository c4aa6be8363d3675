"""Requests against h11: what one reads, the other reads the same, at every split point; and where they differ, by name.

Known differences, each a deliberate one. We refuse what h11 takes: a Host that is no host, paths that can be read two
ways, methods that llhttp doesn't know, other transfer codings in any spelling, bare LF and obs-fold (h11 takes both),
a repeated identical Content-Length, `Expect` other than 100-continue, data after `Connection: close`. We take what h11
refuses: empty lines before a request (RFC 9112, section 2.2), and more than one space after its method.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.wire.raw import chunks
from tests.wire.sansio import Loop, Served
from tests.wire.serving import Seen


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with Loop() as running:
        yield running


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(marks) if a < b]


def told(seen: list[Seen]) -> list[tuple[object, ...]]:
    return [(each.method, each.target, each.version, each.headers, each.body) for each in seen]


def result(served: Served) -> tuple[object, ...]:
    """What must not hang on the splits: the requests, every answer's first line and body, and whether it ended."""
    lines = [line for line in served.written.split(b"\r\n") if not line.startswith(b"date:")]
    return told(served.seen), lines, bool(served.end)


def judged(data: bytes) -> tuple[list[Seen], bool]:
    """h11's reading: whole requests in order, and whether it met an error."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    seen: list[Seen] = []
    server.receive_data(data)
    current: Seen | None = None
    try:
        while True:
            event = server.next_event()
            if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                return seen, False
            if event is h11.PAUSED:
                if server.their_state is not h11.DONE or server.our_state is not h11.DONE:
                    return seen, False
                server.start_next_cycle()
            elif isinstance(event, h11.Request):
                fields = [(bytes(name), bytes(value)) for name, value in event.headers if name != b"content-length"]
                version = event.http_version.decode()
                current = Seen(event.method.decode(), bytes(event.target), version, fields, b"")
            elif isinstance(event, h11.Data):
                assert current is not None
                current.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert current is not None
                seen.append(current)
                server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                server.send(h11.EndOfMessage())
                if server.our_state is not h11.DONE:
                    return seen, False  # the connection ends here
                server.start_next_cycle()
    except h11.RemoteProtocolError:
        return seen, True


TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=12)
RESERVED = {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "te"}
VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=20).filter(
    lambda text: not any(0x80 <= ord(char) < 0xA0 for char in text)
)
FIELD = st.tuples(TOKEN.filter(lambda name: name.lower() not in RESERVED), VALUE)
SEGMENT = st.text("abcXYZ019-_~!$&'()*+,;=:@", min_size=1, max_size=8)
PATH = st.lists(SEGMENT, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
QUERY = st.text("abc019=&%/?.-", max_size=12).map(lambda text: "?" + text if text else "")
METHOD = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
SPACE = st.sampled_from(["", " ", "\t", "  "])
BODY = st.binary(max_size=40)


@st.composite
def requests(draw: st.DrawFn, last: bool = False) -> bytes:
    """One valid request, in all the ways that its framing may be written."""
    method, target = draw(METHOD), draw(PATH) + draw(QUERY)
    lines = [f"{name}:{draw(SPACE)}{value}{draw(SPACE)}" for name, value in draw(st.lists(FIELD, max_size=5))]
    lines.append(draw(st.sampled_from(["Host: weir", "hOSt:weir:80", "HOST: [::1]:9", "Host:"])))
    body = b""
    if method not in ("GET", "HEAD"):
        how = draw(st.sampled_from(["length", "chunked", "none"]))
        content = draw(BODY)
        if how == "length":
            lines.append(f"{draw(st.sampled_from(['Content-Length', 'content-length']))}: {len(content)}")
            body = content
        elif how == "chunked":
            lines.append("Transfer-Encoding: " + draw(st.sampled_from(["chunked", "Chunked", "CHUNKED"])))
            places = draw(st.lists(st.integers(0, 50), max_size=3))
            body = chunks(*(piece for piece in cut(content, places)))
    if last:
        lines.append(draw(st.sampled_from(["Connection: close", "Connection: keep-alive", "X-None: 1"])))
    draw(st.randoms(use_true_random=False)).shuffle(lines)
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body


PIPELINE = st.tuples(st.lists(requests(), max_size=3), requests(last=True)).map(
    lambda both: b"".join([*both[0], both[1]])
)


@given(data=PIPELINE, places=st.lists(st.integers(0, 10_000), max_size=8))
@settings(max_examples=300)
def test_valid_requests_are_read_as_h11_reads_them(loop: Loop, data: bytes, places: list[int]) -> None:
    """Method, target, version, header fields and body of each request of a pipeline, cut anywhere."""
    seen, failed = judged(data)
    assert not failed
    assert seen
    served = loop.served(cut(data, places))
    for each in served.seen:  # h11 strips values and lowers this one
        each.headers = [(n, v.lower() if n == b"transfer-encoding" else v.rstrip(b" \t")) for n, v in each.headers]
    assert told(served.seen) == told(seen)


PARTS = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"\x00",
    b"\x7f",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"Host: b",
    b";",
    b",",
    b"0",
    b"5",
]
PARTS += [
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
]
PARTS += [
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"0\r\n\r\n",
    b"\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\xff",
    b"+",
    b"-",
]
CHANGE = st.tuples(st.sampled_from(["insert", "delete", "replace"]), st.integers(0, 10_000), st.sampled_from(PARTS))


def mutated(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, at, part in changes:
        place = at % (len(data) + 1)
        if kind == "insert":
            data = data[:place] + part + data[place:]
        elif kind == "delete":
            data = data[:place] + data[place + len(part) :]
        else:
            data = data[:place] + part + data[place + len(part) :]
    return data


@given(data=PIPELINE, changes=st.lists(CHANGE, min_size=1, max_size=3))
@settings(max_examples=1200)
def test_what_is_taken_of_damaged_requests_is_what_h11_takes(
    loop: Loop, data: bytes, changes: list[tuple[str, int, bytes]]
) -> None:
    """Whatever we hand on, h11 reads as the same request: no smuggling by disagreement. We may stop earlier."""
    data = mutated(data, changes)
    served, (seen, _) = loop.served([data]), judged(data)
    for ours, theirs in zip(served.seen, seen, strict=False):
        assert (ours.method, ours.target, ours.body) == (theirs.method, _path(theirs.target), theirs.body)
        names = [name for name, _ in ours.headers]
        theirs_names = [name for name, _ in theirs.headers]
        if b"upgrade" not in theirs_names:
            assert names == theirs_names
    if len(served.seen) > len(seen):
        extra = served.seen[len(seen)]
        rest = _from(data, len(seen))
        assert _lenient(rest), (extra, rest)


def _path(target: bytes) -> bytes:
    if target.startswith((b"http://", b"https://")):
        return b"/" + target.split(b"/", 3)[3] if target.count(b"/") > 2 else b"/"
    return target


def _from(data: bytes, count: int) -> bytes:
    """What h11 had not read when it met its error: all, or what follows the requests it took."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(data)
    for _ in range(count):
        while not isinstance(server.next_event(), h11.EndOfMessage):
            pass
        server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        server.send(h11.EndOfMessage())
        server.start_next_cycle()
    return server.trailing_data[0]


def _lenient(rest: bytes) -> bool:
    """The leniencies of llhttp that are harmless: they concern one request's own line."""
    return rest.startswith((b"\r", b"\n")) or b"  " in rest.split(b"\r\n", 1)[0]


EXAMPLES = [
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /a?q=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n"
    b"3;e=v\r\nabc\r\n0A\r\n0123456789\r\n0\r\nT: v\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /1 HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\nGET /3 HTTP/1.1\r\n\r\n",
    b"POST /1 HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi\r\n\r\nGET /2 HTTP/1.0\r\n\r\n",
    b"POST /1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    b"GET /1 HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    b"GET /refused HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /1 HTTP/0.9\r\n\r\n",
]


BROKEN_HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nHEAD /\t0 HTTP/1.1\r\nHost: x\r\n\r\n"
EXAMPLES.append(BROKEN_HEAD)


@pytest.mark.parametrize("data", EXAMPLES)
def test_every_split_point_gives_the_same_requests_and_answers(loop: Loop, data: bytes) -> None:
    """In two pieces at every place, and byte by byte."""
    whole = result(loop.served([data]))
    for at in range(1, len(data)):
        assert result(loop.served([data[:at], data[at:]])) == whole, at
    assert result(loop.served([data[at : at + 1] for at in range(len(data))])) == whole


@given(data=PIPELINE, changes=st.lists(CHANGE, max_size=2), places=st.lists(st.integers(0, 10_000), max_size=6))
@example(data=BROKEN_HEAD, changes=[], places=[len(BROKEN_HEAD) - 60])
@settings(max_examples=600)
def test_any_bytes_cut_anywhere_give_the_same(
    loop: Loop, data: bytes, changes: list[tuple[str, int, bytes]], places: list[int]
) -> None:
    """Damaged requests too: the same requests, the same answers, the same end."""
    data = mutated(data, changes)
    assert result(loop.served(cut(data, places))) == result(loop.served([data]))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=100)
def test_noise_is_refused_and_never_raises(loop: Loop, seed: int) -> None:
    """Random bytes give one error, or nothing while they could still become a request."""
    noise = random.Random(seed).randbytes(200)
    served = loop.served(cut(noise, [50, 100]))
    assert served.seen == []
    assert served.written == b"" or served.written.startswith(b"HTTP/1.1 4")
