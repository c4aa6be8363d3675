"""What is priced, and how often each was used: the units of a price sheet as sums of `Usage` fields.

Rules: pure tables. A unit is a set of dimensions; a unit with more of them is a part of every unit whose dimensions it
includes, and is priced instead of it (cached input instead of input). Each unit's count is a sum of fields of `Usage`,
so a price sheet becomes one weight per field (`proxy.pricing.sheet`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

NANO: Final = 10**9


class Unit(NamedTuple):
    """`per` units cost the published price; `counts` are fields of `Usage` and how often each counts. `key` is empty
    where the price database doesn't know the unit.
    """

    name: str
    key: str
    per: int
    dimensions: frozenset[str]
    counts: tuple[tuple[str, int], ...]


def _unit(name: str, key: str, per: int, dimensions: str, **counts: int) -> Unit:
    return Unit(name, key, per, frozenset(dimensions.split()), tuple(counts.items()))


_MILLION: Final = 10**6

# `name` is the word of the deployment file's `prices`, `key` that of the price database. A field of `Usage` may be in
# several units.
UNITS: Final[tuple[Unit, ...]] = (
    _unit("input", "input_mtok", _MILLION, "tokens in", input_tokens=1),
    _unit("output", "output_mtok", _MILLION, "tokens out", output_tokens=1),
    _unit("cached_input", "cache_read_mtok", _MILLION, "tokens in read", cached_tokens=1),
    _unit(
        "cache_write",
        "cache_write_mtok",
        _MILLION,
        "tokens in write",
        cache_write_tokens=1,
        cache_write_1h_tokens=1,
        cache_write_12h_tokens=1,
    ),
    _unit("cache_write_1h", "cache_write_1h_mtok", _MILLION, "tokens in write 1h", cache_write_1h_tokens=1),
    _unit("cache_write_12h", "", _MILLION, "tokens in write 12h", cache_write_12h_tokens=1),
    _unit("input_audio", "input_audio_mtok", _MILLION, "tokens in audio", input_audio_tokens=1),
    _unit("cached_audio", "cache_audio_read_mtok", _MILLION, "tokens in audio read", cached_audio_tokens=1),
    _unit("output_audio", "output_audio_mtok", _MILLION, "tokens out audio", output_audio_tokens=1),
    _unit("input_image", "input_image_mtok", _MILLION, "tokens in image", input_image_tokens=1),
    _unit("cached_image", "cache_image_read_mtok", _MILLION, "tokens in image read", cached_image_tokens=1),
    _unit("output_image", "output_image_mtok", _MILLION, "tokens out image", output_image_tokens=1),
    _unit("reasoning", "output_reasoning_mtok", _MILLION, "tokens out reasoning", reasoning_tokens=1),
    _unit("citation", "output_citation_mtok", _MILLION, "tokens out citation", citation_tokens=1),
    _unit("characters", "input_mchars", _MILLION, "characters in", characters=1),
    _unit("audio_hours", "audio_hours", 3_600_000, "durations audio", audio_ms=1),
    _unit("input_audio_hours", "input_audio_hours", 3_600_000, "durations audio in", audio_ms=1),
    _unit("search", "web_searches_kcount", 1000, "searches", searches=1),
    _unit("search_preview", "", 1000, "searches preview", preview_searches=1),
    _unit("file_search", "storage_searches_kcount", 1000, "file-searches", file_searches=1),
    _unit("code_interpreter", "", 1, "code-sessions", code_sessions=1),
    _unit("request", "requests_kcount", 1000, "requests", one=1),
)

BY_NAME: Final = {unit.name: index for index, unit in enumerate(UNITS)}
BY_KEY: Final = {unit.key: index for index, unit in enumerate(UNITS) if unit.key}
REQUEST: Final = BY_NAME["request"]
TOKENS: Final = frozenset(index for index, unit in enumerate(UNITS) if "tokens" in unit.dimensions)
