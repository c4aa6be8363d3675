"""The most that a request can cost, proven: no usage within its bounds costs more.

Rules: pure arithmetic over the integers of a sheet. The proof, for each band of input that the request can be in:

1. A cost is a sum of (count x weight) over the fields of `Usage` (`proxy.pricing.sheet`); input and output have weights
   of their own, their parts only what they cost more or less than the whole.
2. Tokens read from and written to caches are together at most the input, so what they add is at most the input times
   the largest of their weights, or nothing. The same for audio and images in, for both of these read from a cache, and
   for the kinds of output (`proxy.dialects.usage` keeps these sums).
3. Input is at most the bound, and at most where the band ends; output at most the bound.
4. What is counted in another way (seconds of audio, calls of the provider's tools) has no bound here: None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

_CACHED: Final = ("cached_tokens", "cache_write_tokens", "cache_write_1h_tokens", "cache_write_12h_tokens")
_MEDIA_IN: Final = ("input_audio_tokens", "input_image_tokens")
_CACHED_MEDIA: Final = ("cached_audio_tokens", "cached_image_tokens")
_TEXT_OUT: Final = ("reasoning_tokens", "citation_tokens")
_MEDIA_OUT: Final = ("output_audio_tokens", "output_image_tokens")


class Dearest(NamedTuple):
    """The most that one of each can cost in a band: pairs are (text alone, media too)."""

    request: int
    input: tuple[int, int]
    output: tuple[int, int]
    character: int
    by_time: bool


def dearest(weights: Mapping[str, int]) -> Dearest:
    """Of the weights of a band."""
    text_in = weights.get("input_tokens", 0) + _largest(weights, _CACHED)
    media_in = text_in + _largest(weights, _MEDIA_IN) + _largest(weights, _CACHED_MEDIA)
    out = weights.get("output_tokens", 0)
    text_out, media_out = out + _largest(weights, _TEXT_OUT), out + _largest(weights, (*_TEXT_OUT, *_MEDIA_OUT))
    characters, by_time = weights.get("characters", 0), bool(weights.get("audio_ms"))
    return Dearest(weights.get("one", 0), (text_in, media_in), (text_out, media_out), characters, by_time)


def most(
    bands: Iterable[tuple[int, int | None, Dearest]],
    denominator: int,
    input_tokens: int,
    output_tokens: int | None,
    characters: int | None,
    *,
    media: bool,
) -> int | None:
    """Nano-dollars, rounded up. `bands` are (above, up to, weights); an output of None is unknown, and only harmless
    where output costs nothing.
    """
    highest = 0
    for above, up_to, band in bands:
        if input_tokens <= above:
            break
        dearest_out = band.output[media]
        if band.by_time or (dearest_out and output_tokens is None) or (band.character and characters is None):
            return None
        inside = input_tokens if up_to is None or input_tokens < up_to else up_to
        total = band.request + inside * band.input[media]
        total += (output_tokens or 0) * dearest_out + (characters or 0) * band.character
        if total > highest:
            highest = total
    return -(-highest // denominator)


def _largest(weights: Mapping[str, int], fields: Sequence[str]) -> int:
    return max(0, *(weights.get(field, 0) for field in fields))
