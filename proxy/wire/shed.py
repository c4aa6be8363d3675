"""What a connection over the limit gets: one answer, at once, and the end.

Nothing is parsed and nothing is kept but the socket, for a moment: a close with the client's request unread would send
RST, which can overtake the answer (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.errors import OVERLOADED, WeirError

_LINGER_S: Final = 1.0
_ERROR: Final = WeirError(503, "This worker has as many connections as it may.", type=OVERLOADED, code="overloaded")
_BODY: Final = _ERROR.body()
_ANSWER: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class Shed(asyncio.Protocol):
    """A connection that is told to come back later."""

    def __init__(self) -> None:
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's is no subclass
        transport.write(_ANSWER)
        if transport.can_write_eof() and not transport.get_extra_info("ssl_object"):
            transport.write_eof()
            self._end = asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)
        else:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
