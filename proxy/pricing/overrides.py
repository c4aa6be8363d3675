"""Prices of the deployment file: contracts, discounts, residency, servers of one's own.

Rules: pure; what a price means is decided here and nowhere else.
1. The most specific pattern counts, alone: `provider/model`, then `model`, then globs, the longest first. Of its
   prices, the last begun.
2. A named rate replaces the published one. Long-context bands and service tiers keep their ratio to it.
3. `multiplier` applies to every rate that isn't named.
4. `residency` applies after all that to whatever is counted in tokens, named or not.
5. Cached audio or image tokens without a price cost as much as those not cached.
6. A pattern may begin with the name of an upstream in place of its provider, and then counts before one that begins
   with the provider: two regions, two prices.
7. A name counts for the versions of its model as well (`gpt-4o-mini` for `gpt-4o-mini-2024-07-18`, as answers name it);
   so what was reserved by the name asked for is settled by the same price. It gives way to a version's own name, and
   to a glob that spells more than the name. Which versions there are, `RateCards` says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from proxy.pricing.sheet import Rate, rebased, scaled
from proxy.pricing.tables import Change, Override, When, pack, unpack
from proxy.pricing.units import BY_NAME, NANO, TOKENS, UNITS

if TYPE_CHECKING:
    from proxy.config.upstreams import Price

_MARK: Final = re.compile(r"[*?[]")
_NAMED: Final = (
    "input",
    "output",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "cache_write_12h",
    "input_audio",
    "cached_audio",
    "output_audio",
    "input_image",
    "cached_image",
    "output_image",
    "reasoning",
    "citation",
    "characters",
    "search",
    "search_preview",
    "file_search",
    "code_interpreter",
    "request",
)
_PER: Final = {"request": 1}  # said by the request, though published by the thousand
_JOINED: Final = (("cached_audio", "input_audio"), ("cached_image", "input_image"))


def overrides_of(prices: Mapping[str, Iterable[Price]]) -> list[Override]:
    """The deployment file's `prices`, packed, the most specific pattern first."""
    patterns = sorted(prices, key=lambda pattern: (_is_glob(pattern), -pattern.count("/"), -len(pattern), pattern))
    return [
        Override(pattern.lower(), sorted(map(_change, prices[pattern]), key=lambda c: c.since)) for pattern in patterns
    ]


def _form(pattern: str) -> str:
    """Patterns alike count alike: a name or a glob, with or without a seller."""
    return f"{'*' if _is_glob(pattern) else ''}{'/' if '/' in pattern else ''}"


def _is_glob(pattern: str) -> bool:
    return _MARK.search(pattern) is not None


def _change(price: Price) -> Change:
    rates = {
        BY_NAME[name]: _rate(usd, _PER.get(name, UNITS[BY_NAME[name]].per))
        for name in _NAMED
        if (usd := getattr(price, name)) is not None
    }
    if price.audio_hour is not None:
        rates[BY_NAME["audio_hours"]] = _rate(price.audio_hour, UNITS[BY_NAME["audio_hours"]].per)
    if price.gpu_hour is not None and price.tokens_per_gpu_hour is not None:
        a_token = Fraction(price.gpu_hour) * NANO / Fraction(price.tokens_per_gpu_hour)
        for name in ("input", "output"):
            rates.setdefault(BY_NAME[name], (a_token, ()))
    since = price.effective_from.toordinal() if price.effective_from is not None else 0
    return Change(since, _factor(price.multiplier), pack(rates), _factor(price.residency), price.max_output)


def _factor(given: Decimal | None) -> tuple[int, int]:
    return (1, 1) if given is None else given.as_integer_ratio()


def _rate(usd: Decimal, per: int) -> Rate:
    return Fraction(usd) * NANO / per, ()


def override_for(
    overrides: list[Override],
    provider: str | None,
    model: str,
    upstream: str | None = None,
    version_of: Callable[[], Sequence[str]] = tuple,
) -> Override | None:
    """The prices of the deployment file that are this model's, whenever they hold.

    `version_of` is asked for the names of which this model's is a version, where no price has its own.
    """
    found = _most_specific(overrides, provider, model, upstream)
    if found is not None and not _is_glob(found.pattern):
        return found
    for stem in version_of():
        named = _most_specific([each for each in overrides if not _is_glob(each.pattern)], provider, stem, upstream)
        if named is not None:
            return found if found is not None and _spells_more(found.pattern, stem, provider, upstream) else named
    return found


def _most_specific(
    overrides: list[Override], provider: str | None, model: str, upstream: str | None
) -> Override | None:
    of_upstream = f"{upstream}/{model}" if upstream is not None else model
    names = {model, of_upstream, f"{provider}/{model}" if provider is not None else model}
    matching = [found for found in overrides if any(fnmatchcase(name, found.pattern) for name in names)]
    if not matching:
        return None
    best = _form(matching[0].pattern)
    alike = [found for found in matching if _form(found.pattern) == best]
    return next((found for found in alike if "/" in best and fnmatchcase(of_upstream, found.pattern)), matching[0])


def _spells_more(glob: str, stem: str, *sellers: str | None) -> bool:
    """Whether a glob begins with a name and something behind it, as `gpt-4o-2024-*` with `gpt-4o`."""
    spelled = _MARK.split(glob, maxsplit=1)[0]
    return any(spelled.startswith(name) and spelled != name for name in (stem, *(f"{one}/{stem}" for one in sellers)))


def change_at(override: Override | None, at: datetime) -> Change | None:
    """The last of its prices that has begun."""
    if override is None:
        return None
    return next((change for change in reversed(override.changes) if When(change.since).holds(at)), None)


def changed(published: Mapping[int, Rate], change: Change) -> dict[int, Rate]:
    """Published rates with a price of the deployment file applied."""
    factor = Fraction(*change.factor)
    rates = {index: scaled(rate, factor) for index, rate in published.items()}
    for index, (base, _) in unpack(change.rates).items():
        rates[index] = rebased(published[index], base) if index in published else (base, ())
    for joined, apart in _JOINED:
        if BY_NAME["cached_input"] in rates and BY_NAME[apart] in rates:
            rates.setdefault(BY_NAME[joined], rates[BY_NAME[apart]])
    return uplifted(rates, Fraction(*change.residency))


def uplifted(rates: Mapping[int, Rate], factor: Fraction) -> dict[int, Rate]:
    """Rates with whatever is counted in tokens times a factor."""
    return {index: scaled(rate, factor) if index in TOKENS else rate for index, rate in rates.items()}


def ratio(published: Mapping[int, Rate], rates: Mapping[int, Rate], index: int) -> Fraction:
    """How much more or less than published a unit costs here: applied to a service tier's published rate as well."""
    if index in published and published[index][0] and index in rates:
        return rates[index][0] / published[index][0]
    return Fraction(1)
