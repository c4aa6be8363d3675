"""Row 15 and money: an upstream closes a kept connection just as the next request goes out.

The upstream is a bare socket that bills what it has read whole, so what was billed is known where no answer tells.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from typing import Any, Literal

import orjson
import pytest

from policies import budget
from proxy.state.memory import MemoryStore
from proxy.wire.client import UpstreamConnection
from tests.plane.conftest import Serve
from tests.plane.running import entry

_BODY = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70},
    }
)
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
COST = 50 * 150 + 20 * 600  # of that answer, in nano-dollars

End = Literal["FIN", "RST"]


class Upstream:
    """Answers one request on each connection. The first connection ends by `end` when the next request comes there:
    before that leaves its sender, or once it was `read`, which is billed.
    """

    def __init__(self, end: End, *, read: bool) -> None:
        self.billed = 0
        self._end, self._read = end, read
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._kept: socket.socket | None = None
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        with self._listener:
            while True:
                sock, _ = await loop.sock_accept(self._listener)
                await self._work(sock)
                await loop.sock_sendall(sock, _ANSWER)
                if self._kept is None:
                    self._kept = sock
                    if self._read:
                        await self._work(sock)
                        self.hang_up()

    def hang_up(self) -> None:
        assert self._kept is not None
        if self._end == "RST":
            self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._kept.close()

    def sending(self, connection: UpstreamConnection) -> None:
        """A request is about to be written to a connection of this upstream."""
        if connection.used and not self._read:
            self.hang_up()

    async def _work(self, sock: socket.socket) -> None:
        loop, data = asyncio.get_running_loop(), b""
        while not (length := re.search(rb"(?i)content-length: (\d+)", data)) or (
            len(data.partition(b"\r\n\r\n")[2]) < int(length[1])
        ):
            data += await loop.sock_recv(sock, 65536)
        self.billed += 1


@pytest.mark.parametrize("end", ["FIN", "RST"])
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
async def test_the_budget_covers_what_may_be_billed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, end: End, read: bool
) -> None:
    """Whose end shows that nobody read it goes again for nothing; else the second sending has a reservation of its own,
    and the first counts for its worst case. The client has its answer either way.
    """
    upstream, send = Upstream(end, read=read), UpstreamConnection.send

    def sending(connection: UpstreamConnection, *request: Any, **options: Any) -> None:
        upstream.sending(connection)
        send(connection, *request, **options)

    monkeypatch.setattr(UpstreamConnection, "send", sending)
    serving = asyncio.create_task(upstream.serve())
    policies = [entry("budget", limit="1 USD/rolling 1h")]
    async with serve(url=upstream.url, policies=policies, registry={"budget": budget}, store=MemoryStore()) as plane:
        for _ in range(2):
            assert (await plane.chat(max_tokens=50)).status == 200
        settled, reserved = plane.journal("settled"), plane.journal("reserved")
        events, purse = dict(plane.metrics.snapshot()["events"]), plane.plane.purse
        (policy,) = [item.policy for item in plane.plane.state.chain.built]
        (account,) = policy._accounts.made()  # type: ignore[attr-defined]
        assert purse is not None
        spent = purse.spent(account.lines[0].scope)
    serving.cancel()
    proven = end == "FIN" and not read
    assert upstream.billed == (3 if read else 2)
    assert events["request_resent"] == 1
    assert [record["known"] for record in settled] == (
        ["observed"] * 2 if proven else ["observed", "unknown", "observed"]
    )
    assert spent == 2 * COST + (0 if proven else reserved[1]["estimate"]["nanodollars"])
    assert spent >= upstream.billed * COST
