"""The line between supervisor and worker, over real socket pairs."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from proxy import control
from proxy.control import Channel


async def pair() -> tuple[Channel, Channel]:
    a, b = socket.socketpair()
    return await Channel.open(a), await Channel.open(b)


async def test_messages_arrive_whole_and_in_order() -> None:
    """What is sent before and after the peer begins to read arrives once, in order, with its fields."""
    here, there = await pair()
    here.send("ready", pid=7)
    here.send("metrics", snapshot={"events": {"ünïcode\n": 1}})
    first = await anext(there)
    here.send("drained")
    assert first == {"type": "ready", "pid": 7}
    assert await anext(there) == {"type": "metrics", "snapshot": {"events": {"ünïcode\n": 1}}}
    assert await anext(there) == {"type": "drained"}
    here.close()
    there.close()


async def test_a_message_of_many_megabytes_passes() -> None:
    """A configuration is larger than any socket buffer and than asyncio's 64 KiB line limit."""
    here, there = await pair()
    text = "x" * (5 << 20)
    here.send("configure", configuration=text)
    assert (await anext(there))["configuration"] == text
    here.close()
    there.close()


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_any_split_of_the_bytes_gives_the_same_messages(size: int) -> None:
    """The framing doesn't depend on how the kernel cuts the stream."""
    raw, end = socket.socketpair()
    channel = await Channel.open(end)
    stream = b'{"type":"a","n":1}\n{"type":"b"}\n'
    for start in range(0, len(stream), size):
        raw.send(stream[start : start + size])
        await asyncio.sleep(0)
    raw.close()
    assert [message async for message in channel] == [{"type": "a", "n": 1}, {"type": "b"}]


async def test_the_end_of_the_peer_ends_the_iteration() -> None:
    """After the peer closed, the rest is delivered, then the iteration stops, and `send` says that it dropped."""
    here, there = await pair()
    here.send("drained")
    here.close()
    assert [message async for message in there] == [{"type": "drained"}]
    assert there.closed
    assert there.send("stop") is False


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b'{"no":"type"}\n', b'{"type":5}\n'])
async def test_a_line_that_is_no_message_closes_the_channel(line: bytes) -> None:
    """Messages before the broken line are delivered, nothing after it."""
    raw, end = socket.socketpair()
    channel = await Channel.open(end)
    raw.send(b'{"type":"a"}\n' + line + b'{"type":"b"}\n')
    assert [message async for message in channel] == [{"type": "a"}]
    raw.close()


async def test_a_peer_that_does_not_read_bounds_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound messages are dropped instead of filling the memory of the data plane."""
    monkeypatch.setattr(control, "UNSENT_BYTES", 100_000)
    raw, end = socket.socketpair()
    channel = await Channel.open(end)
    outcomes = [channel.send("log", text="x" * 10_000) for _ in range(200)]
    assert outcomes[0] is True
    assert outcomes[-1] is False
    raw.close()


def test_it_runs_under_uvloop() -> None:
    """Workers run uvloop, the supervisor asyncio's own loop; the channel works under both."""

    async def exchange() -> dict[str, object]:
        here, there = await pair()
        here.send("ready", pid=1)
        message = await anext(there)
        here.close()
        there.close()
        return message

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(exchange()) == {"type": "ready", "pid": 1}
