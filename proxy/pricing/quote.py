"""A rate card told: every price that applies, on every tier, since when, and where it is from.

Rules: pure, and for people: nothing here is on a request's path. Amounts are exact decimals of US dollars for as many
units as prices are published for (a million tokens, a thousand searches); what no decimal holds ends in an ellipsis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Context, Decimal
from difflib import get_close_matches
from fractions import Fraction
from typing import Final

import msgspec

from proxy.pricing.card import RateCard
from proxy.pricing.cards import RateCards
from proxy.pricing.known import UPLIFT, tier_price
from proxy.pricing.overrides import ratio
from proxy.pricing.sheet import Rate
from proxy.pricing.tables import EVERY_DAY, WEEKDAYS, Dated, When, unpack
from proxy.pricing.units import NANO, TOKENS, UNITS

TIERS: Final = ("batch", "flex", "priority", "fast")
_EXACT: Final = Context(prec=28)
_NEAR: Final = 5


class Line(msgspec.Struct, frozen=True):
    """One price: US dollars for `per` of a unit, and above so many tokens of input. `origin` is where it is from."""

    tier: str
    unit: str
    usd: str
    per: int
    above: dict[int, str]
    origin: str


class Quote(msgspec.Struct, frozen=True):
    """All that a card says."""

    provider: str | None
    model: str
    source: str
    cards: str
    effective_from: str | None
    hours: str | None
    override: str | None
    context_window: int | None
    max_output: int | None
    lines: list[Line]
    unpriced_tiers: list[str]


class Change(msgspec.Struct, frozen=True):
    """A price that two quotes tell differently; None where one of them has none. `ratio` is how many times as much."""

    tier: str
    unit: str
    before: str | None
    after: str | None
    per: int
    ratio: float | None


def quote(cards: RateCards, card: RateCard, tier: str | None = None, *, whole: bool = False) -> Quote:
    """Every price of a card, or those of one tier. Of other tiers only what differs from the standard, or the whole."""
    said = _tiers(card) if tier is None else [tier]
    lines = [
        *(_standard(card) if tier is None else ()),
        *(line for each in said for line in _of_tier(card, each, whole=whole or tier is not None)),
    ]
    held = card.dated.when if card.dated is not None else When()
    return Quote(
        provider=card.provider,
        model=card.model,
        source=cards.source,
        cards=cards.hash,
        effective_from=_day(card.change.since if card.change is not None and card.change.since else held.since),
        hours=_hours(held),
        override=card.override.pattern if card.override is not None and card.change is not None else None,
        context_window=card.context_window,
        max_output=card.max_output,
        lines=lines,
        unpriced_tiers=[each for each in said if card.sheet(each) is None],
    )


def compared(before: Quote | None, after: Quote | None) -> list[Change]:
    """What differs between two quotes, in the order of the later one."""
    old, new = (_by_unit(each.lines if each is not None else ()) for each in (before, after))
    return [
        Change(*key, _told(old.get(key)), _told(new.get(key)), (old.get(key) or new[key]).per, _times(old, new, key))
        for key in dict.fromkeys((*new, *old))
        if _told(old.get(key)) != _told(new.get(key))
    ]


def nearest(cards: RateCards, provider: str | None, model: str) -> list[str]:
    """Known names that this one may have meant."""
    names = cards.names(provider)
    name = model.strip().lower()
    begun = [each for each in names if each.startswith(name)]
    return list(dict.fromkeys([*get_close_matches(name, names, _NEAR, 0.6), *begun]))[:_NEAR]


def _tiers(card: RateCard) -> list[str]:
    published = {dated.tier for dated in card.tiers if dated.rates[1]}
    return [
        tier
        for tier in (*TIERS, *sorted(published - set(TIERS)))
        if tier in published or tier_price(card.provider, card.model, tier) is not None or card.sheet(tier) is None
    ]


def _standard(card: RateCard) -> Iterable[Line]:
    named = unpack(card.change.rates) if card.change is not None else {}
    for index, rate in card.standard.rates.items():
        yield _line(card, "", index, rate, _origin(card, index, index in named))


def _origin(card: RateCard, index: int, named: bool) -> str:
    if named or index not in card.published:
        found = "deployment file"
    else:
        found = "price page" if index in card.priced_as.added else "published"
        if card.change is not None and card.change.factor != (1, 1):
            found += f" × {_plain(Fraction(*card.change.factor))}"
        if index in TOKENS and card.regional:
            found += f" × {_plain(UPLIFT)} for its region"
    if index in TOKENS and card.change is not None and card.change.residency != (1, 1):
        found += f" × {_plain(Fraction(*card.change.residency))} for residency"
    return found


def _of_tier(card: RateCard, tier: str, *, whole: bool) -> Iterable[Line]:
    sheet = card.sheet(tier)
    if sheet is None:
        return
    published = _rates_of(card.tiers, tier)
    for index, rate in sheet.rates.items():
        standard = card.standard.rates.get(index)
        if rate == standard and not whole:
            continue
        if index in published:
            moved = ratio(card.published, card.standard.rates, index)
            origin = "published" if moved == 1 else f"published × {_plain(moved)}"
        elif rate != standard and standard is not None and standard[0]:
            origin = f"standard × {_plain(rate[0] / standard[0])}"
        else:
            origin = "standard"
        yield _line(card, tier, index, rate, origin)


def _rates_of(tiers: Iterable[Dated], tier: str) -> set[int]:
    return {index for dated in tiers if dated.tier == tier for index in unpack(dated.rates)}


def _line(card: RateCard, tier: str, index: int, rate: Rate, origin: str) -> Line:
    unit = UNITS[index]
    usd, above = _usd(index, rate[0]), {start: _usd(index, more) for start, more in rate[1]}
    return Line(tier, unit.name, usd, unit.per, above, origin)


def _usd(index: int, rate: Fraction) -> str:
    return _plain(rate * UNITS[index].per / NANO)


def _plain(number: Fraction) -> str:
    """A number as a decimal, with an ellipsis if it is none."""
    found = _EXACT.divide(Decimal(number.numerator), Decimal(number.denominator))
    if Fraction(found) == number:
        text = f"{found:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{float(number):.6f}…"


def _by_unit(lines: Iterable[Line]) -> dict[tuple[str, str], Line]:
    fees = {unit.name for index, unit in enumerate(UNITS) if index not in TOKENS}  # the same on every tier
    return {(line.tier, line.unit): line for line in lines if not line.tier or line.unit not in fees}


def _told(line: Line | None) -> str | None:
    if line is None:
        return None
    return " ".join((line.usd, *(f"(above {start:,}: {usd})" for start, usd in line.above.items())))


def _times(
    old: Mapping[tuple[str, str], Line], new: Mapping[tuple[str, str], Line], key: tuple[str, str]
) -> float | None:
    if key not in old or key not in new or not (before := float(old[key].usd.rstrip("…"))):
        return None
    return round(float(new[key].usd.rstrip("…")) / before, 4)


def _day(ordinal: int) -> str | None:
    return date.fromordinal(ordinal).isoformat() if ordinal else None


def _hours(when: When) -> str | None:
    if when.start == when.end:
        return None
    days = {EVERY_DAY: "", WEEKDAYS: " Monday to Friday"}.get(when.days, " on some days")
    return f"{_clock(when.start)}-{_clock(when.end)} UTC{days}"


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds % 3600 // 60:02}"


def moment(text: str, now: datetime) -> datetime:
    """A date, which means noon of it (UTC), or a date and time. Raises ValueError."""
    if text == "now":
        return now
    at = datetime.fromisoformat(text)
    at = at.replace(hour=12) if len(text) == len("2026-11-18") else at
    return at if at.tzinfo is not None else at.replace(tzinfo=now.tzinfo)
