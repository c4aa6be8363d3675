"""A stream between its source and one reader: order, limits, and an end that is told once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import WeirError
from proxy.response import Outcome, Response
from proxy.stream import Stream
from proxy.wire.sse import Event, event


class Source:
    """What the stream asks of its source."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")

    def cancel(self) -> None:
        self.told.append("cancel")


class Sink:
    """A reader by callback."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.ends: list[WeirError | None] = []

    def events(self, events: list[Event]) -> None:
        assert not self.ends, "nothing follows the end"
        self.seen += [event.raw for event in events]

    def end(self, error: WeirError | None) -> None:
        self.ends.append(error)


BROKEN = WeirError(502, "It broke.")
STEPS = st.lists(st.sampled_from(["feed", "read", "connect", "end", "break", "close"]), max_size=30)


async def _course(steps: list[str], limit: int) -> None:
    source, sink = Source(), Sink()
    stream = Stream(source, limit)
    fed: list[bytes] = []
    read: list[bytes] = []
    state, connected, closed = "open", False, False
    for number, step in enumerate(steps):
        if step == "feed" and state == "open":
            fed.append(b"%d" % number)
            stream.feed([Event(fed[-1], None)])
        elif step == "read" and not connected and not closed and len(read) < len(fed):
            read += [event.raw for event in await stream.__anext__()]
        elif step == "connect" and not connected and not closed:
            connected = True
            stream.connect(sink)
        elif step in ("end", "break") and state == "open":
            state = step
            stream.end(BROKEN if step == "break" else None)
        elif step == "close" and not connected:
            closed = True
            stream.close()
            if state == "open":
                assert source.told[-1] == "cancel"
                state = "closed"
    if connected:
        assert read + sink.seen == fed
        assert sink.ends == {"open": [], "end": [None], "break": [BROKEN], "closed": [None]}[state]
    elif not closed:
        assert read == fed[: len(read)]
    assert source.told.count("cancel") == (closed and state == "closed")


@given(steps=STEPS, limit=st.integers(1, 40))
def test_any_course(steps: list[str], limit: int) -> None:
    """Whatever happens in whatever order: what is read is what was fed, in order; the end is told once and is true."""
    asyncio.run(_course(steps, limit))


async def test_holds_back_its_source() -> None:
    """Over the limit the source is paused, at half of it let go again; never twice in a row."""
    source = Source()
    stream = Stream(source, 10)
    for _ in range(4):
        stream.feed([Event(b"x" * 4, None)])
    assert source.told == ["pause"]
    await stream.__anext__()
    await stream.__anext__()
    assert source.told == ["pause"]
    await stream.__anext__()
    assert source.told == ["pause", "resume"]


async def test_a_reader_waits() -> None:
    """A reader that is ahead gets the next events when they come, and the error after all of them."""
    stream = Stream(Source())
    reading = asyncio.ensure_future(stream.__anext__())
    await asyncio.sleep(0)
    assert not reading.done()
    stream.feed([event(b"1")])
    assert [one.data for one in await reading] == [b"1"]
    stream.feed([event(b"2")])
    stream.end(BROKEN)
    stream.end()
    assert [one.data for one in await stream.__anext__()] == [b"2"]
    with pytest.raises(WeirError):
        await stream.__anext__()


# --- responses


def streamed(*payloads: bytes, error: WeirError | None = None, end: bool = True) -> tuple[Response, Source]:
    source = Source()
    stream = Stream(source)
    for payload in payloads:
        stream.feed([event(payload)])
    if end:
        stream.end(error)
    return Response(200, [(b"content-type", b"text/event-stream")], stream), source


async def test_taps_and_edits_in_order() -> None:
    """Each stage sees what the ones before it left; an edit may drop an event."""
    response, _ = streamed(b"1", b"2", b"3")
    seen: list[object] = []
    response.tap(lambda one: seen.append(getattr(one, "data", one)))
    response.edit(lambda one: None if one.data == b"2" else event(b"<" + (one.data or b"") + b">"))
    response.tap(lambda one: seen.append(getattr(one, "data", one)))
    assert await response.read() == b"data: <1>\n\ndata: <3>\n\n"
    assert seen == [b"1", b"<1>", b"2", b"3", b"<3>", Outcome.COMPLETE, Outcome.COMPLETE]


async def test_read_is_then_whole() -> None:
    """What was gathered can be read again, relayed, and tapped anew."""
    response, _ = streamed(b"1")
    body = await response.read()
    assert response.whole
    outcomes: list[object] = []
    response.tap(outcomes.append)
    assert await response.read() == body == response.held()
    assert outcomes[-1] is Outcome.COMPLETE


async def test_partial() -> None:
    """A stream that broke says so to whoever reads, and to the taps."""
    response, _ = streamed(b"1", error=BROKEN)
    outcomes: list[object] = []
    response.tap(outcomes.append)
    with pytest.raises(WeirError):
        await response.read()
    assert outcomes[-1] is response.outcome is Outcome.PARTIAL


async def test_given_up() -> None:
    """Closing early cancels the source and tells the taps, once."""
    response, source = streamed(b"1", end=False)
    outcomes: list[object] = []
    response.tap(outcomes.append)
    await response.aclose()
    await response.aclose()
    assert source.told == ["cancel"]
    assert outcomes == [Outcome.ABORTED]


async def test_leaving_a_loop() -> None:
    """Closing the iterator in its middle gives the rest up."""
    response, source = streamed(b"1", b"2", end=False)
    pieces = aiter(response)
    assert await anext(pieces) == b"data: 1\n\n"
    await pieces.aclose()  # type: ignore[attr-defined]
    assert source.told == ["cancel"]


async def test_generators_are_closed() -> None:
    """A policy's own generator is closed with its response."""
    closed: list[bool] = []

    async def pieces():  # type: ignore[no-untyped-def]
        try:
            yield b"1"
            yield b"2"
        finally:
            closed.append(True)

    response = Response(200, [], pieces())
    reading = aiter(response)
    assert await anext(reading) == b"1"
    await reading.aclose()  # type: ignore[attr-defined]
    assert closed == [True]


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_whole_bodies_are_one_event(pieces: list[bytes]) -> None:
    """A body held whole passes its stages once, as one event."""
    body = b"".join(pieces)
    response = Response(200, [], body)
    seen: list[object] = []
    response.tap(lambda one: seen.append(getattr(one, "raw", one)))
    response.edit(lambda one: Event(one.raw + b"!", None))
    assert response.held() == response.held() == body + b"!"
    assert seen == [body, Outcome.COMPLETE]


def test_straight() -> None:
    """Bytes may pass by a sink that only writes them, until somebody wants to see events, or the stream is over."""
    written: list[bytes] = []
    stream, sink = Stream(Source()), Sink()
    response = Response(200, [], stream)
    stream.feed([event(b"held")])
    stream.connect(sink, written.append)
    assert (sink.seen, stream.straight) == ([b"data: held\n\n"], written.append)
    response.tap(lambda _: None)
    assert stream.straight is None
    for over in (Stream.end, Stream.close):
        other = Stream(Source())
        other.connect(Sink(), written.append)
        over(other)
        assert other.straight is None
