"""The splitter of event streams, against a reference that reads a whole stream line by line as WHATWG HTML says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.wire.sse import EVENT_BYTES, UNPARSED_EVENT_BYTES, Event, EventTooLarge, Splitter, comment, event

KIB, MIB = 1 << 10, 1 << 20
TEXT = "data: naïve 河 🙂"


def reference(stream: bytes) -> list[bytes]:
    """The `data` of each event that has any, from the whole stream."""
    found: list[bytes] = []
    lines: list[bytes] = []
    *whole, _rest = re.split(rb"\r\n|\n|\r", stream)
    for line in whole:
        if line:
            name, colon, value = line.partition(b":")
            if name == b"data":
                lines.append(value.removeprefix(b" ") if colon else b"")
        elif lines:
            found.append(b"\n".join(lines))
            lines = []
    return found


def split(pieces: Iterable[bytes], **limits: int) -> tuple[list[Event], Splitter]:
    splitter = Splitter(**limits)
    return [event for piece in pieces for event in splitter.feed(piece)], splitter


def payloads(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if event.data is not None]


def plain(raw: bytes) -> bytes:
    """With LF as the only line end: what a reader sees."""
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


STREAMS = [
    b"data: a\n\ndata: b\n\n",
    b"data: a\r\n\r\ndata: b\r\n\r\n",
    b"data: a\r\rdata: b\r\r",
    b"data: a\n\r\ndata: b\r\n\ndata: c\r\n\rdata: d\n\rdata: e\r\r\n",
    b"data: a\r\ndata: b\ndata: c\rdata: d\n\n",
    b"data: a\rdata: b\n\n",
    b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n\n",
    b"\r\r\rdata: a\r\n\r\n\r\n\rdata: b\r\n\n",
    b": comment\n\nevent: x\nid: 1\ndata: a\nretry: 10\n\n:\n\n",
    b"data\n\ndata:\n\ndata: \n\ndata:  two\n\n",
    b"database: no\n\ndata: yes\n\n Data: no\n\n",
    (TEXT + "\n\n" + TEXT + "\r\n\r\n" + TEXT + "\r\r").encode(),
    b'data: {"a":\ndata: 1}\n\ndata: [DONE]\n\n',
    b"data: a\n\ndata: unfinished",
    b"data: a\n\ndata: unfinished\n",
]


@pytest.mark.parametrize("stream", STREAMS)
def test_every_split_point_gives_the_same_events(stream: bytes) -> None:
    """In two pieces at every place, in three around it, and byte by byte; no byte that a reader sees is lost."""
    expected = reference(stream)
    cuts = [[stream], [stream[at : at + 1] for at in range(len(stream))]]
    cuts += [[stream[:at], stream[at:]] for at in range(1, len(stream))]
    cuts += [[stream[: at - 1], stream[at - 1 : at], b"", stream[at:]] for at in range(1, len(stream))]
    ended = stream.endswith((b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n", b"\r\n\n", b"\r\r\n"))
    for pieces in cuts:
        events, splitter = split(pieces)
        assert payloads(events) == expected, pieces
        if ended:
            assert not splitter.unfinished, pieces
            assert plain(b"".join(event.raw for event in events)).strip(b"\n") == plain(stream).strip(b"\n"), pieces


ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.one_of(
    st.sampled_from([b"", b"data", b"data:", b"data: [DONE]", b": ping", b"event: x", b"data: {}"]),
    st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=8).map(lambda t: b"data: " + t.encode()),
    st.binary(max_size=6).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")),
)
ANY_STREAM = st.one_of(
    st.lists(st.tuples(LINES, ENDS), max_size=20).map(lambda pairs: b"".join(line + end for line, end in pairs)),
    st.text("d:a \r\n", max_size=40).map(str.encode),
)


@given(ANY_STREAM, st.lists(st.integers(0, 200), max_size=6), st.data())
@example(b"data: a\r\r\ndata: b\n\n", [8], None)
def test_any_stream_cut_anywhere_is_read_as_the_reference_reads_it(
    stream: bytes, cuts: list[int], data: st.DataObject | None
) -> None:
    """Any mixture of line ends and fields, in any pieces."""
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    events, splitter = split(pieces)
    assert payloads(events) == reference(stream)
    seen = b"".join(event.raw for event in events) + splitter.rest()
    assert plain(seen).replace(b"\n", b"") == plain(stream).replace(b"\n", b"")


@given(ANY_STREAM, st.integers(1, 40), st.integers(4, 16))
def test_small_limits_change_what_is_read_but_lose_nothing(stream: bytes, step: int, limit: int) -> None:
    """Events over the limit come in pieces without data; the bytes stay the same, and others are read as before."""
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    events, splitter = split(pieces, unparsed_bytes=limit)
    seen = b"".join(event.raw for event in events) + splitter.rest()
    assert plain(seen).replace(b"\n", b"") == plain(stream).replace(b"\n", b"")
    for found in events:
        assert found.data is None or len(found.raw) <= limit
        assert 0 < len(found.raw) <= limit + step


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("step", [1000, 65536, 1 << 18, 1 << 20])
def test_a_large_event_is_relayed_in_pieces(end: bytes, step: int) -> None:
    """300 KiB in one event: never more than the limit and one read is held, nothing is parsed, the next one is."""
    large = b"data: " + b"x" * (300 * KIB) + end
    stream = b"data: before" + end + large + b"data: after" + end
    splitter = Splitter()
    seen, told = b"", []
    for at in range(0, len(stream), step):
        for found in splitter.feed(stream[at : at + step]):
            seen += found.raw
            told.append(found.data)
        assert len(splitter._held) <= UNPARSED_EVENT_BYTES
    assert plain(seen) == plain(stream)
    assert [data for data in told if data is not None] == [b"before", b"after"]
    assert not splitter.unfinished


def test_an_event_just_below_the_limit_is_read_however_it_comes() -> None:
    """And one just above isn't, however it comes: the verdict hangs on the event, not on the reads."""
    for size, data in ((UNPARSED_EVENT_BYTES, True), (UNPARSED_EVENT_BYTES + 1, False)):
        whole = b"data: " + b"x" * (size - 8) + b"\n\n"
        assert len(whole) == size
        for pieces in ([whole], [whole[:10], whole[10:]], [whole[:-1], whole[-1:]], [whole[:-2], whole[-2:]]):
            events, _ = split(pieces)
            assert bool(payloads(events)) is data, (size, [len(piece) for piece in pieces])


@pytest.mark.parametrize("step", [100_000, 1 << 18, 1 << 26])
def test_an_event_over_16_mib_is_too_large(step: int) -> None:
    """Exactly 16 MiB pass, one byte more raises, at any size of reads."""
    for size, fits in ((EVENT_BYTES, True), (EVENT_BYTES + 1, False)):
        stream = b"data: " + b"x" * (size - 8) + b"\n\n"
        splitter = Splitter()
        try:
            for at in range(0, len(stream), step):
                splitter.feed(stream[at : at + step])
            assert fits
        except EventTooLarge:
            assert not fits


def test_limits_are_as_configured() -> None:
    """A lower limit for events holds also where a read holds whole events."""
    with pytest.raises(EventTooLarge):
        Splitter(unparsed_bytes=10, event_bytes=20).feed(b"data: 0123456789012345\n\n")
    assert len(Splitter(unparsed_bytes=10, event_bytes=20).feed(b"data: 012345678901\n\n" * 3)) == 3


def test_what_is_unfinished_is_known() -> None:
    """At the end of a stream, bytes without their blank line are a cut event; blank lines alone are not."""
    for stream, unfinished in ((b"data: x", True), (b"data: x\n", True), (b"\n", False), (b"data: x\n\n\r", False)):
        _, splitter = split([stream])
        assert splitter.unfinished is unfinished, stream


def test_own_events_are_read_as_written() -> None:
    """What this module makes, it reads."""
    events, _ = split([event(b'{"a":1}').raw + comment(b"hi").raw + event(b"x", b"error").raw])
    assert payloads(events) == [b'{"a":1}', b"x"]
