"""What goes over the state process' socket: frames of batches, in both directions.

A frame is a length (u32, little endian) and as many bytes of MessagePack: a list of requests, or of replies. A request
carries a number, which its reply names. A call is answered once; a `Reserve` that has to wait first by `Queued`; a
`Follow` by a position, then by message after message.

The two ends ship together: there is no version, and what can't be decoded ends the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from proxy.state.protocol import Hold, Rate, Scope

_LENGTH: Final = struct.Struct("<I")
_ARRAY: Final = struct.Struct(">BI")  # MessagePack's array 32
MOST_BYTES: Final = 64 * 2**20


class Ask(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request."""

    number: int


class Hello(Ask, tag="hello", frozen=True):
    """The first of a connection: who speaks. An older connection of the same session is over."""

    session: str


class Reserve(Ask, tag="res", frozen=True):
    """`Holds.reserve`."""

    hold: Hold
    wait_ns: int


class Withdraw(Ask, tag="wdr", frozen=True):
    """Whatever has become of a `Reserve` (its number, its hold's id): it is to have had no effect."""

    reserve: int
    id: str


class Adjust(Ask, tag="adj", frozen=True):
    """`Holds.adjust`."""

    id: str
    held: tuple[int, ...]
    spent: tuple[int, ...]
    until_ns: int
    scopes: tuple[Scope, ...]


class Close(Ask, tag="cls", frozen=True):
    """`Holds.close`."""

    id: str
    spent: tuple[int, ...]
    scopes: tuple[Scope, ...]


class Levels(Ask, tag="lvl", frozen=True):
    """`Holds.levels`."""

    scopes: tuple[Scope, ...]


class ListStanding(Ask, tag="std", frozen=True):
    """`Holds.standing`."""

    owner: str
    overdue_ns: int | None


class Take(Ask, tag="tak", frozen=True):
    """`Rates.take`."""

    rates: tuple[Rate, ...]


class Give(Ask, tag="giv", frozen=True):
    """`Rates.give`."""

    rates: tuple[Rate, ...]


class Get(Ask, tag="get", frozen=True):
    """`Blobs.get`."""

    key: str


class Put(Ask, tag="put", frozen=True):
    """`Blobs.put`."""

    key: str
    value: bytes
    ttl_ns: int
    tags: tuple[str, ...]


class Delete(Ask, tag="del", frozen=True):
    """`Blobs.delete`."""

    keys: tuple[str, ...]


class DeleteTagged(Ask, tag="dlt", frozen=True):
    """`Blobs.delete_tagged`."""

    tag: str


class Keys(Ask, tag="key", frozen=True):
    """`Blobs.keys`."""

    prefix: str
    limit: int


class Claim(Ask, tag="clm", frozen=True):
    """`Claims.claim`."""

    duty: str
    owner: str
    ttl_s: float


class Resign(Ask, tag="rsg", frozen=True):
    """`Claims.resign`."""

    duty: str
    owner: str


class Publish(Ask, tag="pub", frozen=True):
    """`Feed.publish`."""

    topic: str
    message: bytes


class Follow(Ask, tag="fol", frozen=True):
    """`Feed.follow`."""

    topic: str
    after: str | None


class Unfollow(Ask, tag="unf", frozen=True):
    """No more messages for the `Follow` of this number."""

    follow: int


class Ping(Ask, tag="png", frozen=True):
    """`Store.ping`."""


Request = (
    Hello
    | Reserve
    | Withdraw
    | Adjust
    | Close
    | Levels
    | ListStanding
    | Take
    | Give
    | Get
    | Put
    | Delete
    | DeleteTagged
    | Keys
    | Claim
    | Resign
    | Publish
    | Follow
    | Unfollow
    | Ping
)


class Queued(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """The hold waits in line: another answer comes."""


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An answer as it is sent. `error`: `lost`, or what was wrong with the request."""

    number: int
    value: Any = None
    error: str = ""


class Heard(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An answer as it is read: only the caller knows the type of its value."""

    number: int
    value: msgspec.Raw
    error: str = ""


_encode: Final = msgspec.msgpack.Encoder().encode
requests: Final = msgspec.msgpack.Decoder(list[Request]).decode
replies: Final = msgspec.msgpack.Decoder(list[Heard]).decode


def encode(message: Ask | Reply) -> bytes:
    """One message of a batch. Raises ValueError for what can't be said (integers of more than 64 bits)."""
    try:
        return _encode(message)
    except OverflowError as error:
        raise ValueError(str(error)) from error


def frame(messages: Collection[bytes]) -> bytes:
    """A batch as it is sent: encoded one by one, so that one that can't be doesn't take the others with it."""
    payload = b"".join((_ARRAY.pack(0xDD, len(messages)), *messages))
    return _LENGTH.pack(len(payload)) + payload


class Frames:
    """Cuts what arrives into payloads."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that are whole now. Raises ValueError where no peer of ours can be speaking."""
        data = self._rest + data if self._rest else data
        at = 0
        while len(data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > MOST_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            if len(data) - at - _LENGTH.size < length:
                break
            at += _LENGTH.size + length
            yield data[at - length : at]
        self._rest = data[at:]
