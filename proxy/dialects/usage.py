"""Token usage, normalised over dialects, with the upstream's own words kept beside it.

Rules: numbers that no upstream can mean (negative, above 2^53, not a number) count as 0 and set `clamped`, so that
the cost is marked as estimated. `input_tokens` is always the total, whichever way the dialect counts cached tokens.
Parts fit into their wholes, which the bound of a price relies on: tokens read from and written to a cache are together
at most the input, so are audio and images; reasoning, citations, audio and images at most the output.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

_LARGEST: Final = 2**53


class Usage(msgspec.Struct, frozen=True):
    """What one answer used, in tokens.

    `input_tokens` includes cached and cache-written tokens; `output_tokens` includes reasoning. Audio and image
    tokens are parts of them. `audio_ms` is audio that is measured by its duration instead. `searches`,
    `file_searches` and `code_sessions` (containers that code ran in) are what the provider's own tools did;
    `preview_searches` are those of the searches that the tool's preview made.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_write_12h_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    cached_audio_tokens: int = 0
    input_image_tokens: int = 0
    cached_image_tokens: int = 0
    output_image_tokens: int = 0
    citation_tokens: int = 0
    audio_ms: int = 0
    characters: int = 0
    searches: int = 0
    preview_searches: int = 0
    file_searches: int = 0
    code_sessions: int = 0
    given: dict[str, Any] | msgspec.Raw = {}  # the upstream's own words; Raw where they needn't be parsed
    clamped: bool = False

    def counts(self) -> dict[str, int]:
        """The counts that aren't 0, and always input and output."""
        counts = {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens}
        if self.cached_tokens:
            counts["cached_tokens"] = self.cached_tokens
        if self.reasoning_tokens:
            counts["reasoning_tokens"] = self.reasoning_tokens
        if (self.given.__class__) is dict:  # what was read from the plain form has no other counts but these
            counts.update({name: value for name in _OPTIONAL if (value := getattr(self, name))})
        elif self.cache_write_tokens:
            counts["cache_write_tokens"] = self.cache_write_tokens
        return counts


_OPTIONAL: Final = (
    "cached_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "cache_write_12h_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "cached_audio_tokens",
    "input_image_tokens",
    "cached_image_tokens",
    "output_image_tokens",
    "citation_tokens",
    "audio_ms",
    "characters",
    "searches",
    "preview_searches",
    "file_searches",
    "code_sessions",
)


class Counts:
    """Reads counts out of a usage object of any form, remembering whether one was absurd."""

    __slots__ = ("_given", "clamped")

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self.clamped = False

    def count(self, *names: str) -> int:
        """The first of these fields that is there."""
        for name in names:
            if (value := self._given.get(name)) is not None:
                return self._sane(value)
        return 0

    def detail(self, group: str, name: str) -> int:
        """A field of a nested object, such as `prompt_tokens_details.cached_tokens`."""
        inner = self._given.get(group)
        if not isinstance(inner, dict) or (value := inner.get(name)) is None:
            return 0
        return self._sane(value)

    def thousandths(self, name: str) -> int:
        """A duration in seconds, whole or not, as milliseconds."""
        value: Any = self._given.get(name)
        if value is None:
            return 0
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LARGEST:
            return round(value * 1000)
        self.clamped = True
        return 0

    def has(self, *names: str) -> bool:
        """Whether at least one of these fields is there."""
        return any(self._given.get(name) is not None for name in names)

    def _sane(self, value: Any) -> int:
        if type(value) is int and 0 <= value < _LARGEST:
            return value
        if type(value) is float and value.is_integer() and 0 <= value < _LARGEST:
            return int(value)
        self.clamped = True
        return 0
