"""One model's prices at one moment, on every service tier.

Rules:
1. A card is frozen: its prices don't change while it is held. A tier's prices are worked out when they are first
   needed.
2. A tier costs what is published for it; else half, where the provider sells it at half for all its models; else, where
   the provider charges more for it, it isn't known how much: None. Any other tier costs the standard price.
3. Prices of the deployment file move every tier by as much as they move the standard price.
"""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from typing import Final

import msgspec

from proxy.dialects.usage import Usage
from proxy.pricing.overrides import changed, ratio
from proxy.pricing.sheet import Rate, Sheet, scaled
from proxy.pricing.tables import Change, Dated, Priced, unpack
from proxy.pricing.units import TOKENS

_HALF: Final = {
    "anthropic": frozenset(("batch",)),
    "azure": frozenset(("batch",)),
    "google": frozenset(("batch", "flex")),
    "groq": frozenset(("batch",)),
    "mistral": frozenset(("batch",)),
    "openai": frozenset(("batch", "flex")),
}
_DEARER: Final = {
    "azure": frozenset(("priority",)),
    "google": frozenset(("priority",)),
    "openai": frozenset(("priority", "fast")),
}
_TIERS: Final = 32  # remembered: an upstream may answer with any word


class RateCard:
    """What a model costs. Made by `RateCards.card`."""

    __slots__ = (
        "_least_audio_ms",
        "_published",
        "_sheets",
        "_tiers",
        "context_window",
        "model",
        "provider",
        "standard",
    )

    def __init__(self, provider: str | None, model: str, published: dict[int, Rate], standard: Sheet) -> None:
        self.provider = provider
        self.model = model
        self.standard = standard
        self.context_window: int | None = None
        self._published = published
        self._tiers: list[Dated] = []
        self._least_audio_ms = 0
        self._sheets: dict[str | None, Sheet | None] = {None: standard, "default": standard}

    @classmethod
    def of(cls, provider: str | None, priced: Priced, at: datetime, change: Change | None) -> RateCard:
        """The prices that hold at a time, with the deployment file's own."""
        published = _standard(priced, at)
        card = cls(provider, priced.id, published, Sheet(published if change is None else changed(published, change)))
        card.context_window = priced.context_window
        card._tiers = [dated for dated in priced.tiers if dated.when.holds(at)]
        card._least_audio_ms = priced.least_audio_ms
        return card

    @property
    def priced(self) -> bool:
        """Whether it says any price at all."""
        return bool(self.standard.rates)

    def cost(self, usage: Usage, service_tier: str | None = None) -> int | None:
        """Nano-dollars, rounded half up; None where this use has no known price."""
        sheet = self._sheets[service_tier] if service_tier in self._sheets else self._on(service_tier)
        if sheet is None:
            return None
        if self._least_audio_ms and 0 < usage.audio_ms < self._least_audio_ms:
            usage = msgspec.structs.replace(usage, audio_ms=self._least_audio_ms)
        return sheet.cost(usage)

    def reserve(self, input_tokens: int, output_cap: int, n: int = 1, service_tier: str | None = None) -> int:
        """Nano-dollars of this much uncached input and `n` answers of up to `output_cap` tokens.

        A tier whose price isn't known counts as standard.
        """
        return (self._on(service_tier) or self.standard).reserve(input_tokens, output_cap, n)

    def _on(self, tier: str | None) -> Sheet | None:
        if tier in self._sheets:
            return self._sheets[tier]
        sheet = self._tier_sheet(tier or "")
        if len(self._sheets) < _TIERS:
            self._sheets[tier] = sheet
        return sheet

    def _tier_sheet(self, tier: str) -> Sheet | None:
        own = self.standard.rates
        published = _of_tier(self._tiers, tier)
        if published is not None:  # empty where the tier is said to cost no more and no less
            moved = {index: scaled(rate, ratio(self._published, own, index)) for index, rate in published.items()}
            return Sheet({**own, **moved})
        if tier in _HALF.get(self.provider or "", ()):
            half = Fraction(1, 2)
            return Sheet({index: scaled(rate, half) if index in TOKENS else rate for index, rate in own.items()})
        return None if tier in _DEARER.get(self.provider or "", ()) else self.standard

    def __repr__(self) -> str:
        return f"<RateCard {self.provider}/{self.model} {self.standard!r}>"


def _standard(priced: Priced, at: datetime) -> dict[int, Rate]:
    """The last price that holds; the first where none does."""
    found = next((dated for dated in reversed(priced.standard) if dated.when.holds(at)), None)
    if found is None and priced.standard:
        found = priced.standard[0]
    return unpack(found.rates) if found is not None else {}


def _of_tier(tiers: list[Dated], tier: str) -> dict[int, Rate] | None:
    """What is published for a tier; of several prices of a unit the first."""
    found: dict[int, Rate] | None = None
    for dated in tiers:
        if dated.tier == tier:
            found = {**unpack(dated.rates), **(found or {})}
    return found
