"""A request as it arrived: raw header fields in order, and a body that is gathered, hashed, or handed on in pieces.

Nothing is normalised: tests assert on exactly what came over the wire.
"""

from __future__ import annotations

import hashlib
from typing import IO, Any

from proxy.simulator.multipart import Multipart

# Gathered bodies up to this size are remembered whole for assertions; of longer ones only length and hash.
REMEMBERED_BYTES = 65_536

_CREDENTIALS = (b"authorization", b"x-api-key", b"api-key")


class Incoming:
    """One request: complete once the connection has handed it over."""

    __slots__ = (
        "_digest",
        "_parts",
        "arrived",
        "body",
        "connection",
        "fields",
        "hasher",
        "headers",
        "keep_alive",
        "length",
        "method",
        "number",
        "problem",
        "spool",
        "target",
        "upload",
        "version",
    )

    def __init__(self, connection: int, arrived: float) -> None:
        self.connection = connection
        self.arrived = arrived
        self.number = 0
        self.method = ""
        self.target = b""
        self.version = "1.1"
        self.headers: list[tuple[bytes, bytes]] = []
        self.fields: dict[bytes, bytes] = {}
        self.body = b""
        self.length = 0
        self.keep_alive = True
        self.upload: Multipart | None = None
        self.hasher: Any = None
        self.spool: IO[bytes] | None = None
        self.problem = ""
        self._parts: list[bytes] | None = None
        self._digest = ""

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def looks(self) -> bool:
        """Whether it only looks at the simulator (`/sim/…`)."""
        return self.target.startswith(b"/sim/")

    @property
    def credential(self) -> str:
        """The key that the request carries, without `Bearer`."""
        for name in _CREDENTIALS:
            value = self.fields.get(name)
            if value:
                return value[7:].decode("latin-1") if value[:7].lower() == b"bearer " else value.decode("latin-1")
        return ""

    @property
    def sha256(self) -> str:
        """Of the body, in hex."""
        if not self._digest:
            self._digest = (self.hasher or hashlib.sha256(self.body)).hexdigest()
        return self._digest

    def stream_into(self, upload: Multipart, spool: IO[bytes]) -> None:
        """Don't gather the body: hash it and hand it on. The spool is closed with the request unless it was taken."""
        self.upload = upload
        self.spool = spool
        self.hasher = hashlib.sha256()

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        self.length += len(data)
        if self.upload is not None:
            self.hasher.update(data)
            if not self.problem:
                self._hand_on(data)
        elif self._parts is not None:
            self._parts.append(data)
        elif self.body:
            self._parts = [self.body, data]
        else:
            self.body = data

    def _hand_on(self, data: bytes) -> None:
        assert self.upload is not None
        try:
            self.upload.feed(data)
        except ValueError as error:
            self.problem = str(error)

    def seal(self) -> None:
        """The body is complete."""
        if self._parts is not None:
            self.body = b"".join(self._parts)
            self._parts = None

    def forget(self, *, hashed: bool = False) -> None:
        """Let go of a long body, `hashed` before where it is remembered."""
        self.upload = None
        if self.spool is not None:
            self.spool.close()
            self.spool = None
        if len(self.body) > REMEMBERED_BYTES:
            if hashed:
                _ = self.sha256
            self.body = b""

    def __repr__(self) -> str:
        return f"<Incoming {self.method} {self.target.decode('latin-1')} {self.length} B>"
