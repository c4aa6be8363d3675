"""One client connection: bytes in, requests out of them, and their answers in order.

It always reads (so that a client's leaving is seen at once), answers pipelined requests one after the other, and takes
FIN for gone. Everything about what is answered is the `Stage`'s; everything about when is the `Player`'s.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from proxy.simulator.incoming import Incoming
from proxy.simulator.playing import Act, Player, Wheel
from proxy.simulator.record import Record
from proxy.simulator.reply import Afterwards, Performance

_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
)
_BAD_BODY = (
    b'{"error":{"message":"The request is not HTTP/1.1.","type":"invalid_request_error","param":null,"code":null}}'
)


def _unconnected(data: bytes) -> None:
    raise AssertionError("not connected")


class Stage(Protocol):
    """What a connection needs of the provider."""

    def hear(self, request: Incoming) -> Performance | None:
        """The head is complete: say where the body goes, or answer without it."""

    def perform(self, request: Incoming) -> Performance:
        """The request is complete: the answer."""


class Connection(asyncio.Protocol):
    """The protocol of one accepted socket; also the outlet of its answers."""

    def __init__(self, stage: Stage, record: Record, wheel: Wheel, connections: set[Connection]) -> None:
        self.paused = False
        self.write: Callable[[bytes], None] = _unconnected  # the transport's own once connected
        self._stage = stage
        self._record = record
        self._wheel = wheel
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Incoming] = deque()
        self._reading: Incoming | None = None
        self._current: Incoming | None = None
        self._performance: Performance | None = None
        self._player: Player | None = None
        self._deaf_to_rest = False
        self._close_next = False
        self._answered_early = False
        self._number = 0

    def __repr__(self) -> str:
        return f"<Connection {self._number} {'answering' if self._player else 'idle'}>"

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.write = self._transport.write
        self._connections.add(self)
        self._record.opened()
        self._number = self._record.state.connections_opened

    def data_received(self, data: bytes) -> None:
        if self._close_next:
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf_to_rest = True
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except httptools.HttpParserError:
            self.write(_BAD_REQUEST % (len(_BAD_BODY), _BAD_BODY))
            self._transport.close()

    def eof_received(self) -> None:
        self._gone()
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self._connections.discard(self)
        self._record.closed()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._player is not None:
            # Not from here: a close from within this call makes asyncio report the loss of the connection twice.
            self._wheel.loop.call_soon(self._player.resume)

    def abort(self) -> None:
        """Drop the connection now."""
        self._transport.abort()

    # The parser's calls

    def on_message_begin(self) -> None:
        self._reading = Incoming(self._number, self._wheel.loop.time())

    def on_url(self, url: bytes) -> None:
        assert self._reading is not None
        self._reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._reading is not None
        self._reading.headers.append((name, value))

    def on_headers_complete(self) -> None:
        request = self._reading
        assert request is not None
        request.method = self._parser.get_method().decode()
        request.version = self._parser.get_http_version()
        request.fields = {name.lower(): value for name, value in request.headers}
        early = self._stage.hear(request)
        if early is not None:
            self._deaf_to_rest = True
            request.keep_alive = False
            self._record.arrived(request)
            self._play(request, early)
        elif b"expect" in request.fields:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        if not self._deaf_to_rest and self._reading is not None:
            self._reading.feed(data)

    def on_message_complete(self) -> None:
        request, self._reading = self._reading, None
        if self._answered_early:
            self._transport.close()
        if self._deaf_to_rest or request is None:
            return
        request.keep_alive = self._parser.should_keep_alive()
        request.seal()
        self._record.arrived(request)
        if self._current is not None or self._waiting:
            self._waiting.append(request)
        else:
            self._play(request, self._stage.perform(request))

    # The answer

    def _play(self, request: Incoming, performance: Performance) -> None:
        self._current = request
        self._performance = performance
        script = performance.script
        self._player = Player(self._wheel, self, script.frames, single=script.single)
        self._player.advance()

    def finished(self) -> None:
        """The player wrote the last frame."""
        performance = self._performance
        assert performance is not None
        self._settle()
        afterwards = performance.script.afterwards
        self._close_next = afterwards is Afterwards.CLOSE_NEXT
        if self._deaf_to_rest and self._reading is not None:
            # Closing now would reset the connection under the rest of the body, and take the answer with it.
            self._answered_early = True
        elif not performance.script.keep or afterwards is Afterwards.CLOSE:
            self._transport.close()
        elif self._waiting:
            # By the loop, not by recursion: a client may pipeline thousands.
            self._wheel.loop.call_soon(self._play_next)

    def _play_next(self) -> None:
        if self._waiting and self._current is None:
            request = self._waiting.popleft()
            self._play(request, self._stage.perform(request))

    def act(self, act: Act) -> None:
        """The player came to a bad end."""
        if act is Act.DEAF:
            self._transport.pause_reading()
        if act in (Act.DEAF, Act.HOLD):
            return
        self._settle()
        if act is Act.CLOSE:
            self._transport.close()
            return
        peer: socket.socket = self._transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _settle(self) -> None:
        self._record.answered(self._charge())

    def _charge(self) -> Incoming:
        request, player, performance = self._current, self._player, self._performance
        assert request is not None and player is not None and performance is not None
        player.over = True
        self._current = self._player = self._performance = None
        if performance.bill is not None:
            self._record.bill.charge(request.credential, performance.bill, player.produced)
        request.forget(hashed=self._record.remembers)
        return request

    def _gone(self) -> None:
        """The client left: what it was being answered is billed as far as it had come."""
        self._waiting.clear()
        if self._reading is not None:
            self._reading.forget()
        request, player = self._current, self._player
        if request is not None and player is not None:
            self._charge()
            self._record.left(request, self._wheel.loop.time() - player.begun, player.written, player.produced)
