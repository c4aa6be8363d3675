"""Published prices, from the price database's offline data into tables.

Rules: cold. Only this module imports `genai_prices` (half a second, some 50 MB), inside its function, and only the
process that compiles the cards calls it. A price in a unit that the proxy can't count (pages, video) is left out; a
model with no other price is unpriced.
"""

from __future__ import annotations

from datetime import time
from fractions import Fraction
from typing import Any, Final

import msgspec

from proxy.pricing import known
from proxy.pricing.names import AND, CONTAINS, ENDS, EQUALS, FIRST_PARTIES, OR, REGEX, STARTS
from proxy.pricing.sheet import Rate
from proxy.pricing.tables import (
    EVERY_DAY,
    FORMAT,
    STANDARD,
    WEEKDAYS,
    Dated,
    Override,
    Priced,
    Provider,
    Tables,
    When,
    pack,
)
from proxy.pricing.units import BY_KEY, NANO, UNITS

_TEXT_CLAUSES: Final = {
    "starts_with": STARTS,
    "ends_with": ENDS,
    "contains": CONTAINS,
    "regex": REGEX,
    "equals": EQUALS,
}
_ENCODE: Final = msgspec.msgpack.Encoder(order="deterministic").encode

# Rules that the price database keeps in code or in prose. DeepSeek's dear hours are those of weekdays.
_PEAK_DAYS: Final = {"deepseek": WEEKDAYS}
_PEAKS: Final = ((3600, 4 * 3600), (6 * 3600, 10 * 3600))
_LEAST_AUDIO_MS: Final = {("groq", "whisper-large-v3"): 10_000, ("groq", "whisper-large-v3-turbo"): 10_000}

# Published as `processing: batch`, `speed: fast` or `service_tier: …`: in every case the tier that an answer names.
_TIER_WORDS: Final = {
    "processing": ("batch",),
    "speed": ("fast",),
    "service_tier": ("flex", "priority", "fast", "batch"),
}


def published(overrides: list[Override]) -> Tables:
    """All published prices with these overrides."""
    from genai_prices import __version__
    from genai_prices.data import providers

    return Tables(
        format=FORMAT,
        source=f"genai-prices {__version__}",
        providers={provider.id: msgspec.Raw(_ENCODE(_provider(provider))) for provider in providers},
        aliases=[(provider.id, _clause(clause)) for provider in providers if (clause := provider.provider_match)],
        makers=[
            (provider.id, _clause(clause))
            for provider in providers
            if provider.id in FIRST_PARTIES and (clause := provider.model_match)
        ],
        overrides=overrides,
    )


def _provider(provider: Any) -> Provider:
    exact: dict[str, int] = {}
    patterns: list[tuple[int, Any]] = []
    for index, model in enumerate(provider.models):
        for clause in _alternatives(_clause(model.match)):
            if clause[0] == EQUALS:
                exact.setdefault(clause[1], index)
            else:
                patterns.append((index, clause))
    models = [msgspec.Raw(_ENCODE(_model(provider.id, model))) for model in provider.models]
    return Provider(provider.id, exact, patterns, models, list(provider.fallback_model_providers or ()))


def _clause(clause: Any) -> list[Any]:
    for name, kind in _TEXT_CLAUSES.items():
        if (text := getattr(clause, name, None)) is not None:
            return [kind, text if kind == REGEX else text.lower()]
    if (inner := getattr(clause, "or_", None)) is not None:
        return [OR, [_clause(each) for each in inner]]
    return [AND, [_clause(each) for each in clause.and_]]


def _alternatives(clause: list[Any]) -> list[list[Any]]:
    return [found for inner in clause[1] for found in _alternatives(inner)] if clause[0] == OR else [clause]


def _model(provider: str, model: Any) -> Priced:
    prices = model.prices if isinstance(model.prices, list) else [model]
    said = [_rates(price.prices) for price in prices]
    whole = [known.completed(provider, model.id, rates, tier=False) if rates else rates for rates in said]
    standard = [
        Dated(STANDARD, _when(getattr(price, "constraint", None), provider), pack(rates))
        for price, rates in zip(prices, whole, strict=True)
    ]
    tiers = [
        Dated(
            tier,
            _when(variant.constraint, provider),
            pack(known.completed(provider, model.id, _rates(variant.prices), tier=True)),
        )
        for variant in model.price_variants or ()
        if (tier := _tier(variant.when)) is not None
    ]
    if not any(said):
        standard = []
    return Priced(
        model.id,
        standard,
        tiers,
        model.context_window,
        _LEAST_AUDIO_MS.get((provider, model.id), 0),
        known.max_output(model.id),
        known.has_regional_price(provider, model.id),
        sorted({index for ours, theirs in zip(whole, said, strict=True) for index in ours.keys() - theirs.keys()}),
    )


def _tier(when: dict[str, str]) -> str | None:
    if len(when) != 1:
        return None
    ((kind, word),) = when.items()
    return word if word in _TIER_WORDS.get(kind, ()) else None


def _rates(prices: Any) -> dict[int, Rate]:
    return {
        index: _rate(value, UNITS[index].per)
        for key, value in vars(prices).items()
        if value is not None and (index := BY_KEY.get(key)) is not None
    }


def _rate(value: Any, per: int) -> Rate:
    if not hasattr(value, "tiers"):
        return Fraction(value) * NANO / per, ()
    above = tuple((tier.start, Fraction(tier.price) * NANO / per) for tier in value.tiers)
    return Fraction(value.base) * NANO / per, above


def _when(constraint: Any, provider: str) -> When:
    if constraint is None:
        return When()
    if (day := getattr(constraint, "start_date", None)) is not None:
        return When(since=day.toordinal())
    hours = _seconds(constraint.start_time), _seconds(constraint.end_time)
    return When(0, *hours, _PEAK_DAYS.get(provider, EVERY_DAY) if hours in _PEAKS else EVERY_DAY)


def _seconds(of_day: time) -> int:
    if offset := of_day.utcoffset():
        raise ValueError(f"a time of day is {offset} from UTC; only UTC is known in the price database")
    return of_day.hour * 3600 + of_day.minute * 60 + of_day.second
