"""How old an answer may be: by the policy, and by the request's own Cache-Control (RFC 9111, section 5.2.1). Pure."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from proxy.wire.headers import Headers

Verdict = Literal["fresh", "stale", "expired"]
_ENDLESS: Final = float("inf")


class Wish(msgspec.Struct, frozen=True):
    """A request's wishes; seconds. The defaults are those of a request that says nothing."""

    read: bool = True  # may be answered from the cache
    store: bool = True  # its answer may be kept
    only: bool = False  # only from the cache
    max_age_s: float = _ENDLESS
    min_fresh_s: float = 0.0
    max_stale_s: float | None = None  # None: as the policy says


NOTHING: Final = Wish()


def wish_of(headers: Headers) -> Wish:
    """Reads `cache-control` and the old `pragma: no-cache`. What can't be read is ignored, as the RFC asks."""
    said = [value for name, value in headers if name == b"cache-control"]
    if not said:
        plain = any(name == b"pragma" and value.strip().lower() == b"no-cache" for name, value in headers)
        return Wish(read=False) if plain else NOTHING
    told: dict[str, str] = {}
    for part in b",".join(said).decode("latin-1").lower().split(","):
        name, _, value = part.strip().partition("=")
        told[name] = value.strip('" ')
    return Wish(
        read="no-cache" not in told and "no-store" not in told,
        store="no-store" not in told,
        only="only-if-cached" in told,
        max_age_s=_seconds(told.get("max-age"), _ENDLESS),
        min_fresh_s=_seconds(told.get("min-fresh"), 0.0),
        max_stale_s=_seconds(told["max-stale"], _ENDLESS) if "max-stale" in told else None,
    )


def _seconds(text: str | None, otherwise: float) -> float:
    return float(text) if text is not None and text.isascii() and text.isdigit() else otherwise


def judged(age_s: float, ttl_s: float, stale_s: float, wish: Wish) -> Verdict:
    """Whether an answer of this age may be given: as it is, or while it is being renewed."""
    if age_s > wish.max_age_s:
        return "expired"
    left = ttl_s - age_s
    if left >= wish.min_fresh_s and left > 0:
        return "fresh"
    allowed = stale_s if wish.max_stale_s is None else min(stale_s, wish.max_stale_s)
    return "stale" if -left <= allowed and allowed > 0 and not wish.min_fresh_s else "expired"
