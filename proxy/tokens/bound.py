"""The most tokens that a request's input can have, proven rather than estimated. Pure.

A token of text is at least one byte of UTF-8: byte-level vocabularies have no shorter one, and those with a byte
fall-back spend at most one on a byte. A vocabulary of normalised text may read more than was sent (U+FDFA becomes 18
characters): there the longer form counts. JSON's own framing of a message is longer than any template's, and what a
template says of itself fits into `FRAMING` and, with tools, `TOOLS`. Images have their provider's maximum.

What can't be bounded is None: built-in tools, what is stored at the upstream, sound, files, images of models whose
maximum nobody publishes.
"""

from __future__ import annotations

import unicodedata
from typing import Final

import orjson

from proxy.body import Body
from proxy.tokens.families import Family, most_of_image
from proxy.tokens.texts import IMAGE, elsewhere, texts

FRAMING: Final = 128
"""Beginnings, ends and a default system prompt (Llama 3: about 40 tokens; Qwen 2.5: about 20)."""
MEASURED: Final = 16
"""The same where the framing was measured: OpenAI's, which has neither."""
TOOLS: Final = 1024
"""What a template says about tools in general (Anthropic's page on tool use: 530 at most)."""


def bound(family: Family, model: str, endpoint: str, body: Body) -> int | None:
    """The most tokens that the input can have; None where there is no maximum."""
    if elsewhere(endpoint, body) or "search" in model:
        return None
    found = texts(endpoint, body)
    constant = (MEASURED if family.encoding else FRAMING) + (TOOLS if body.get("tools") or body.get("functions") else 0)
    if not found.media:
        return _most(body.raw, family) + constant
    most = most_of_image(model)
    if most is None or any(medium != IMAGE for medium in found.media):
        return None
    text = _most(_without_media(body), family)
    return text + constant + most * len(texts(endpoint, body).media or ())


def _most(raw: bytes, family: Family) -> int:
    """Bytes of the text that JSON spells, at least."""
    if b"\\u" in raw:
        raw = orjson.dumps(orjson.loads(raw))  # each escape of six bytes is three at most
    if raw.isascii() or not family.normalises:
        return len(raw)
    text = raw.decode("utf-8", "replace")
    forms = [unicodedata.normalize(form, text) for form in ("NFKC", "NFKD")]
    return max(len(raw), *[len(form.encode("utf-8", "replace")) for form in forms])


def _without_media(body: Body) -> bytes:
    """The body with each image's own bytes or address taken out."""
    return orjson.dumps(_stripped(orjson.loads(body.raw)))


def _stripped(value: object) -> object:
    if isinstance(value, list):
        return [_stripped(one) for one in value]
    if isinstance(value, dict):
        if value.get("type") in ("image_url", "input_image", "image"):
            return {"type": value["type"]}
        return {name: _stripped(one) for name, one in value.items()}
    return value
