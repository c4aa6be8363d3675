"""The simulator's own tokeniser: small, deterministic and exact, so that every bill can be checked by hand.

A token is a run of at most eight word characters with the space before it, or one other character. A text of more than
`LONG` characters counts one token per four UTF-8 bytes instead, so that long prompts cost the simulator nothing.
Every generated piece of text is one token, hence `count("".join(pieces)) == len(pieces)` up to `LONG`.
"""

from __future__ import annotations

import re

LONG = 16_384
MESSAGE_OVERHEAD = 3
PRIMING = 3
IMAGE_LOW = 85
IMAGE_HIGH = 765
AUDIO_BYTES_PER_TOKEN = 1000

_PIECE = re.compile(r" ?\w{1,8}|[^\w\s]|\s")


def pieces(text: str) -> list[str]:
    """The tokens of a text, in order; joined they are the text."""
    return _PIECE.findall(text)


def count(text: str) -> int:
    """How many tokens a text has."""
    if len(text) > LONG:
        return -(-len(text.encode()) // 4)
    return len(_PIECE.findall(text))
