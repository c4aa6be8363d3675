"""What is read out of an answer, whatever its dialect."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, Protocol

import msgspec
import orjson

from proxy.dialects.tools import Calls
from proxy.dialects.usage import Usage


class Reading(msgspec.Struct):
    """What an answer said about itself; fields fill as it comes in."""

    usage: Usage | None = None
    model: str | None = None
    service_tier: str | None = None
    finish_reason: str | None = None
    response_id: str | None = None
    error: dict[str, Any] | None = None
    calls: Calls | None = None  # of the provider's own tools, in a stream


class Verdict(IntEnum):
    """What one event of a stream is."""

    PASS = 0
    USAGE = 1  # nothing but usage (`choices: []`): taken out if the proxy asked for it
    END = 2  # the stream's own last event
    ERROR = 3  # an error instead of an answer
    MALFORMED = 4  # not what the dialect allows


# What decoding raises for bytes that aren't JSON: an upstream may send anything, nested to any depth.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class StreamReader(Protocol):
    """Reads one stream, event by event."""

    reading: Reading

    def event(self, data: bytes) -> Verdict:
        """Looks at the payload of one event."""


def whole(data: bytes) -> dict[str, Any]:
    """An event as an object; empty if it isn't one that can be read whole."""
    try:
        told = orjson.loads(data)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def as_error(value: Any) -> dict[str, Any]:
    """An error in whatever form it came, as an object with `message`."""
    if isinstance(value, dict):
        return value
    return {"message": str(value)[:500]}
