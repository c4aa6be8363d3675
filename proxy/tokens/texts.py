"""Which parts of a request's body the model will read: its texts, its media, and how it is framed. Pure.

Rules:
1. What is read is what the endpoint's dialect says is read; in parts of a message, every string that isn't a name, an
   id or encoded bytes. A field that nobody knows is no reason to fail.
2. A large body that wasn't parsed (an image) is not parsed here either: its strings are found from quote to quote.
3. Text that isn't in the body (a stored response, a file's id, a page to search) isn't guessed: `elsewhere` says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
import orjson

from proxy.body import WHOLE_BYTES, Body
from proxy.tokens.classes import PIECES, WHOLE

IMAGE, AUDIO, FILE = "image", "audio", "file"
_MEDIA: Final = {
    "image_url": IMAGE,
    "input_image": IMAGE,
    "image": IMAGE,
    "computer_screenshot": IMAGE,
    "input_audio": AUDIO,
    "audio": AUDIO,
    "input_video": FILE,
    "video_url": FILE,
    "file": FILE,
    "input_file": FILE,
    "document": FILE,
    "container_upload": FILE,
}
_UNREAD: Final = frozenset(
    {"role", "type", "id", "index", "status", "detail", "format", "media_type", "data", "file_data", "signature"}
    | {"call_id", "tool_call_id", "tool_use_id", "cache_control", "encrypted_content", "annotations", "logprobs"}
)
_ELSEWHERE: Final = ("previous_response_id", "conversation", "prompt", "web_search_options", "data_sources")
_PLAIN_TOOLS: Final = frozenset(("function", "custom"))
_LONG: Final = 2048
_HOPS: Final = 2000
_DENSE: Final = 256
_ESCAPE: Final = re.compile(rb"\\u([0-9a-fA-F]{4})")
_SPACES: Final = b" \n\t\\"


class Texts(msgspec.Struct):
    """What was found. `framing` are tokens that no text has: of messages and their roles."""

    pieces: list[str]
    samples: list[tuple[bytes, float]] = []
    framing: int = 0
    media: list[str] | None = None
    tools: bytes = b""
    elsewhere: bool = False
    scale: float = 1.0  # of a body that was looked at in part

    def medium(self, kind: str) -> None:
        """One image, sound or file more."""
        if self.media is None:
            self.media = []
        self.media.append(kind)


def texts(endpoint: str, body: Body) -> Texts:
    """The texts of a request to an endpoint that is understood."""
    read = _READERS.get(endpoint)
    if read is None:
        return Texts([])
    if len(body.raw) > WHOLE_BYTES and (unparsed := _unparsed(body)) is not None:
        return unparsed
    get = body.getter
    found = Texts([])
    read(get, found)
    if (tools := get("tools")) or (tools := get("functions")):
        _tools(tools, found)
    return found


def elsewhere(endpoint: str, body: Body) -> bool:
    """Whether the model reads something that isn't in the body, and so can't be bounded or learnt from."""
    for name in _ELSEWHERE:
        if name in body and body.get(name) is not None and (name != "prompt" or endpoint.startswith("responses")):
            return True
    return bool(body.get("mcp_servers")) or _has_built_in(body.get("tools"))


def _has_built_in(tools: Any) -> bool:
    if not isinstance(tools, list):
        return False
    return any(isinstance(tool, dict) and tool.get("type", "custom") not in _PLAIN_TOOLS for tool in tools)


# --- dialects


def _chat(get: Callable[[str], Any], found: Texts) -> None:
    messages = get("messages")
    if not isinstance(messages, list):
        return
    pieces = found.pieces
    for message in messages:
        if type(message) is not dict:
            continue
        content = message.get("content")
        if type(content) is str and len(message) == 2:
            pieces.append(content)
        else:
            _message(message, found)
    found.framing = 4 * len(messages) + 3
    if (shape := get("response_format")) and isinstance(shape, dict) and "json_schema" in shape:
        _walk(shape["json_schema"], found)


def _anthropic(get: Callable[[str], Any], found: Texts) -> None:
    _chat(get, found)
    _walk(get("system"), found)


def _responses(get: Callable[[str], Any], found: Texts) -> None:
    given = get("input")
    items = given if isinstance(given, list) else [given]
    for item in items:
        if isinstance(item, dict):
            _message(item, found)
        else:
            _walk(item, found)
    _walk(get("instructions"), found)
    if isinstance(text := get("text"), dict):
        _walk(text.get("format"), found)
    found.framing = 4 * (len(items) + (get("instructions") is not None)) + 3


def _message(message: dict[str, Any], found: Texts) -> None:
    kind = message.get("type")
    if type(kind) is str and kind in _MEDIA:
        _medium(kind, message, found)
        return
    for name, value in message.items():
        if name not in _UNREAD and value is not None:
            _walk(value, found)


def _plain(name: str) -> Callable[[Callable[[str], Any], Texts], None]:
    """A text, a list of texts, or texts that are tokens already (of which there may be thousands)."""

    def read(get: Callable[[str], Any], found: Texts) -> None:
        given = get(name)
        if not isinstance(given, list) or not given:
            _walk(given, found)
            return
        kinds = set(map(type, given))
        if kinds == {int}:
            found.framing += len(given)
        elif kinds == {str}:
            found.pieces.extend(given)
        elif kinds == {list}:
            found.framing += sum(map(len, given))
        else:
            _walk(given, found)

    return read


_READERS: Final[dict[str, Callable[[Callable[[str], Any], Texts], None]]] = {
    "chat.completions": _chat,
    "completions": _plain("prompt"),
    "embeddings": _plain("input"),
    "messages": _anthropic,
    "responses": _responses,
    "responses.compact": _responses,
    "images.generations": _plain("prompt"),
    "audio.speech": _plain("input"),
}


# --- within messages


def _walk(value: Any, found: Texts) -> None:
    """Every string that is read. Depth is bounded: the body was let in."""
    if type(value) is str:
        found.pieces.append(value)
    elif type(value) is list:
        for one in value:
            _walk(one, found)
    elif type(value) is dict:
        _message(value, found)


def _medium(kind: str, part: dict[str, Any], found: Texts) -> None:
    source = part.get("source")
    if kind == "document" and isinstance(source, dict) and source.get("type") in ("text", "content"):
        _walk(source.get("data") if source["type"] == "text" else source.get("content"), found)
    else:
        found.medium(_MEDIA[kind])


def _tools(tools: Any, found: Texts) -> None:
    if isinstance(tools, list):
        found.tools = orjson.dumps(tools)
        found.elsewhere = _has_built_in(tools)


# --- large bodies


def _unparsed(body: Body) -> Texts | None:
    """The texts of a large body of few strings; None where it was parsed."""
    if body.parsed:
        return None
    found, raw, at, size = Texts([]), body.raw, 0, 0
    for _ in range(_HOPS):
        start = raw.find(b'"', at) + 1
        end = raw.find(b'"', start)
        if not start or end < 0:
            break
        at = end + 1
        if end - start <= _LONG:
            size += end - start
        elif _is_encoded(raw[start + _DENSE : start + 2 * _DENSE]):
            found.medium(IMAGE)
        else:
            found.samples.append(_sampled(raw, start, end))
    else:
        found.scale = len(raw) / at
    found.framing = size // 8  # names, roles and short texts
    return found


def _is_encoded(sample: bytes) -> bool:
    """Whether a piece of a long string has nothing that text has."""
    return len(sample.translate(None, _SPACES)) == len(sample) and sample.isascii()


def _sampled(raw: bytes, start: int, end: int) -> tuple[bytes, float]:
    """Pieces of a long string, and how much longer it is than they are."""
    if end - start <= WHOLE:
        sample = raw[start:end]
    else:
        step = (end - start) // PIECES
        sample = b"".join([raw[at : at + WHOLE // PIECES] for at in range(start, start + step * PIECES, step)])
    factor = (end - start) / len(sample)
    return _ESCAPE.sub(_unescaped, sample) if b"\\u" in sample else sample, factor


def _unescaped(escape: re.Match[bytes]) -> bytes:
    """The character that an escape spells; of a pair that spells one, its share."""
    return chr(int(escape[1], 16)).encode("utf-8", "replace")
