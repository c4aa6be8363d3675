"""A prompt and a small model's answer as numbers, cheap enough for the request path. Pure; needs numpy.

Rules:
1. Numbers are dense and named (`PROMPT`, `ANSWER`); words are hashed (the same on every host and in every process).
2. The same text gives the same features everywhere, for ever: a change of anything here is a new `VERSION`, by which
   scores of the old one are refused.
3. Nothing here raises for any text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.int32]


class Features(msgspec.Struct, frozen=True):
    """`numbers`: dense; `words`: places in a hashed vocabulary."""

    numbers: Numbers
    words: Hashes

    def packed(self) -> bytes:
        """For the Store and the journal; `unpacked` reads it."""
        raise NotImplementedError


def unpacked(data: bytes) -> Features:
    """Raises ValueError where `data` is of another version."""
    raise NotImplementedError


def prompt_features(text: str, *, turns: int = 1, tools: int = 0, wants_json: bool = False) -> Features:
    """Of what is asked: all the text of the request that the answer depends on, the last user turn last."""
    raise NotImplementedError


def answer_features(
    text: str, logprobs: Sequence[float] | None, finish_reason: str | None, *, tool_calls: int = 0
) -> Features:
    """Of a small model's answer: `logprobs` of the tokens that it chose, where the upstream told them."""
    raise NotImplementedError


def joined(prompt: Features, answer: Features | None) -> Features:
    """Both, as a score takes them; without an answer: what can be known before one was generated."""
    raise NotImplementedError


def explained(features: Features) -> dict[str, Any]:
    """The named numbers, for people."""
    raise NotImplementedError
