"""Which events of a stream its reader gets, and which one ends it."""

from __future__ import annotations

import pytest

from proxy.dialects import Verdict, stream_reader
from proxy.events import Events
from proxy.wire.sse import Splitter

CONTENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": waiting\n\n"


def events(inject: bool = False) -> Events:
    return Events("chat", stream_reader("chat"), Splitter(), inject)


def passed(of: Events, data: bytes, begun: bool = True) -> bytes:
    return b"".join([event.raw for event in of.take(data, begun)])


@pytest.mark.parametrize("inject", [True, False])
def test_usage_passes_unless_it_was_asked_for_on_the_clients_behalf(inject: bool) -> None:
    """All else keeps its bytes, and the count is the same."""
    stream = events(inject)
    assert passed(stream, CONTENT + USAGE + DONE) == CONTENT + (b"" if inject else USAGE) + DONE
    assert stream.over is Verdict.END and stream.content == 1
    assert stream.reader.reading.usage is not None and stream.reader.reading.usage.output_tokens == 1


def test_a_comment_passes_once_the_stream_has_begun() -> None:
    """Until then a heartbeat is the proxy's to give."""
    assert passed(events(), HEARTBEAT, begun=False) == b""
    assert passed(events(), HEARTBEAT) == HEARTBEAT


def test_nothing_follows_the_end() -> None:
    """What an upstream sends behind its own last event is dropped."""
    assert passed(events(), CONTENT + DONE + CONTENT) == CONTENT + DONE


@pytest.mark.parametrize(
    ("broken", "verdict"),
    [(b'data: {"error":{"message":"x"}}\n\n', Verdict.ERROR), (b"data: {\n\n", Verdict.MALFORMED)],
)
def test_what_breaks_a_stream_does_not_pass(broken: bytes, verdict: Verdict) -> None:
    """What came before it does."""
    stream = events()
    assert passed(stream, CONTENT + broken) == CONTENT
    assert stream.over is verdict
