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
_HEAD_BYTES: Final = 8192
_MOST_PARTS: Final = 256
# From the beginning of a line, so that a line is looked through once.
_NAME: Final = re.compile(
    rb'^content-disposition[ \t]*:[ \t]*form-data[ \t]*;.*?\bname="?model"?[ \t\r]*(?:;|$)', re.I | re.M
)


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
    """The value of the first part called `model` that `seen` holds whole. Raises 400 where too many come before it."""
    at = seen.find(boundary)
    for _ in range(_MOST_PARTS):
        if at < 0:
            return None
        following = seen.find(b"\r\n" + boundary, at + len(boundary))
        if following < 0:
            return None
        head, _, value = seen[at + len(boundary) : following].partition(b"\r\n\r\n")
        if _NAME.search(head, 0, _HEAD_BYTES):
            return _text(value)
        at = following + 2
    raise WeirError(400, f"The form's first {_MOST_PARTS} fields aren't `model`.", param="model", code="invalid_value")


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or len(value) > _VALUE_BYTES or not text.isprintable():
        raise WeirError(400, "`model` must be a short line of text.", param="model", code="invalid_value")
    return text
