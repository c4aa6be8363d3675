"""What the other side's kernel hasn't got yet of what was written."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios


def unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that this kernel still holds (tcp(7), SIOCOUTQ): a slow reader may leave megabytes; 0 where none tells."""
    sock = transport.get_extra_info("socket")
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, AttributeError):
        return 0
