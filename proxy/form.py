"""The `model` field of a form, found in its beginning, while the file in it goes on streaming.

Pure, but for waiting until enough of the body has come (RFC 7578; SDKs write plain fields before the file or after it).
What isn't found in the first `MOST_BYTES` isn't looked for: the file would have to be held.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.errors import WeirError
from proxy.wire.call import BodyReader
from proxy.wire.headers import Headers, get

MOST_BYTES: Final = 128 * 1024
_VALUE_BYTES: Final = 1024
_BOUNDARY: Final = re.compile(rb'multipart/form-data\s*;.*?boundary=(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))', re.I)
_NAME: Final = re.compile(rb'content-disposition\s*:\s*form-data\s*;.*?\bname="?model"?\s*(?:;|$)', re.I | re.M)


async def model_in(body: BodyReader, headers: Headers) -> tuple[str | None, bool]:
    """The form's `model`, and whether that is certain: False where too much stands before it."""
    kind = _BOUNDARY.match(get(headers, b"content-type") or b"")
    if kind is None:
        return None, True
    boundary = b"--" + (kind[1] or kind[2])
    seen = await body.peek(lambda seen: find(seen, boundary) is not None, MOST_BYTES)
    value = find(seen, boundary)
    if value is not None:
        return value, True
    return None, len(seen) < MOST_BYTES


def find(seen: bytes, boundary: bytes) -> str | None:
    """The value of the first part called `model` that `seen` holds whole."""
    at = seen.find(boundary)
    while at >= 0:
        following = seen.find(b"\r\n" + boundary, at + len(boundary))
        if following < 0:
            return None
        head, _, value = seen[at + len(boundary) : following].partition(b"\r\n\r\n")
        if _NAME.search(head):
            return _text(value)
        at = following + 2
    return None


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or len(value) > _VALUE_BYTES or not text.isprintable():
        raise WeirError(400, "`model` must be a short line of text.", param="model", code="invalid_value")
    return text
