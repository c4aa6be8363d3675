"""One model's prices at one moment, on every service tier.

Rules:
1. A card is frozen: its prices don't change while it is held. A tier's prices are worked out when they are first
   needed.
2. A tier costs what is published for it; else as many times the standard price as the provider takes for all its models
   (`proxy.pricing.known`); else, where the provider charges more for it, it isn't known how much: None. Any other tier
   costs the standard price.
3. Prices of the deployment file move every tier by as much as they move the standard price.
4. A tier followed by `@` and a region, as `standard@us`, costs more by the published uplift where data residency does.
5. A bound is the dearest of: every tier that the answer may name, every region, every price that holds within a day.
   None where that can't be said: no cap known, use by the provider's own tools, no price.
"""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from typing import Final

import msgspec

from proxy.dialects.usage import Usage
from proxy.pricing.known import UPLIFT, tier_price
from proxy.pricing.overrides import change_at, changed, ratio, uplifted
from proxy.pricing.sheet import Rate, Sheet, rebased, scaled
from proxy.pricing.tables import Change, Dated, Override, Priced, unpack
from proxy.pricing.units import BY_NAME

_DEARER: Final = {
    "aws": frozenset(("priority",)),
    "azure": frozenset(("priority",)),
    "openai": frozenset(("priority", "fast", "ultrafast")),
}
# Tiers that nobody is served who didn't ask for them by name.
_ASKED_FOR: Final = {"anthropic": frozenset(("fast",)), "google": frozenset(("priority",))}
_SAYS_REGION: Final = "anthropic"  # in its answers; elsewhere the address tells
_ANYWHERE: Final = frozenset(("", "global", "not_available"))  # regions that are none
_SEARCHES_UNASKED: Final = frozenset(("perplexity",))
_SEARCH: Final = BY_NAME["search"]
_TIERS: Final = 32  # remembered: an upstream may answer with any word


class RateCard:
    """What a model costs. Made by `RateCards.card`."""

    __slots__ = (
        "_least_audio_ms",
        "_served",
        "_sheets",
        "_uplift",
        "change",
        "context_window",
        "dated",
        "later",
        "max_output",
        "model",
        "override",
        "priced_as",
        "provider",
        "published",
        "standard",
        "tiers",
    )

    def __init__(
        self, provider: str | None, priced: Priced, at: datetime, change: Change | None, uplift: Fraction
    ) -> None:
        self.provider = provider
        self.model = priced.id
        self.priced_as = priced
        self.dated = _standard(priced, at)
        self.published = uplifted(unpack(self.dated.rates), uplift) if self.dated is not None else {}
        self.change = change
        self.override: Override | None = None
        self.standard = Sheet(self.published if change is None else changed(self.published, change))
        self.tiers = [dated for dated in priced.tiers if dated.when.holds(at)]
        self.later: tuple[RateCard, ...] = ()
        self.context_window = priced.context_window
        self.max_output = (change and change.max_output) or priced.max_output
        self._uplift = uplift
        self._least_audio_ms = priced.least_audio_ms
        self._served: dict[str | None, list[Sheet]] = {}
        self._sheets: dict[str | None, Sheet | None] = {None: self.standard, "default": self.standard}

    @classmethod
    def of(
        cls,
        provider: str | None,
        priced: Priced,
        at: datetime,
        override: Override | None = None,
        regional: bool = False,
    ) -> RateCard:
        """The prices that hold at a time, with the deployment file's own, at an address that may be regional."""
        uplift = UPLIFT if regional and priced.regional else Fraction(1)
        card = cls(provider, priced, at, change_at(override, at), uplift)
        card.override = override
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

    def bound(
        self,
        input_tokens: int,
        output_cap: int | None,
        n: int = 1,
        service_tier: str | None = None,
        *,
        media: bool = True,
        tools: bool = False,
        characters: int | None = None,
    ) -> int | None:
        """Nano-dollars that no answer to this request can exceed; None where nothing bounds it.

        `input_tokens` must be a bound itself. A cap of None means the model's own maximum. `service_tier` is the one
        asked for. `media` says whether audio or images may come in or out, `tools` whether the provider's own tools
        may run (which cost by the call, and add input), `characters` how many are to be read out, for speech.
        """
        most = self.max_output or self.context_window
        cap = most if output_cap is None else output_cap
        if tools or (self.provider in _SEARCHES_UNASKED and _SEARCH in self.standard.rates):
            return None
        if service_tier is not None and self._on(service_tier) is None:
            return None
        output = None if cap is None else n * cap
        found = [
            sheet.bound(input_tokens, output, characters, media=media)
            for card in (self, *self.later)
            for sheet in card._may_be_served(service_tier)
        ]
        known = [each for each in found if each is not None]
        return max(known) if len(known) == len(found) else None

    def _may_be_served(self, asked: str | None) -> list[Sheet]:
        """The prices of every tier that an answer may name; those that have none aren't sold."""
        found = self._served.get(asked)
        if found is None:
            found = self._which_may_be_served(asked)
            if len(self._served) < _TIERS:
                self._served[asked] = found
        return found

    def _which_may_be_served(self, asked: str | None) -> list[Sheet]:
        tier, _, region = (asked or "auto").partition("@")
        tiers: set[str] = {"", tier}
        if tier == "auto":
            tiers |= {dated.tier for dated in self.tiers} - _ASKED_FOR.get(self.provider or "", frozenset())
        if self.provider == _SAYS_REGION and not region:
            tiers |= {f"{each}@us" for each in tiers}
        return [sheet for each in tiers if (sheet := self._on(each)) is not None]

    @property
    def regional(self) -> bool:
        """Whether its published prices are those of one region."""
        return self._uplift != 1

    def sheet(self, tier: str | None) -> Sheet | None:
        """The prices of a service tier; None where they aren't known."""
        return self._on(tier)

    def _on(self, tier: str | None) -> Sheet | None:
        if tier in self._sheets:
            return self._sheets[tier]
        sheet = self._tier_sheet(tier or "")
        if len(self._sheets) < _TIERS:
            self._sheets[tier] = sheet
        return sheet

    def _tier_sheet(self, tier: str) -> Sheet | None:
        tier, at, region = tier.partition("@")
        if at:
            sheet = self._on(tier)
            if region in _ANYWHERE or not (self.priced_as.regional and self.provider == _SAYS_REGION) or sheet is None:
                return sheet
            return Sheet(uplifted(sheet.rates, UPLIFT))
        own = self.standard.rates
        published = _of_tier(self.tiers, tier)
        if published is not None:  # empty where the tier is said to cost no more and no less
            published = uplifted(published, self._uplift)
            moved = {index: scaled(rate, ratio(self.published, own, index)) for index, rate in published.items()}
            if self.provider == "azure":  # its long context costs more on every tier, where OpenAI's tiers have none
                moved = {i: rate if rate[1] or i not in own else rebased(own[i], rate[0]) for i, rate in moved.items()}
            return Sheet({**own, **moved})
        if (known := tier_price(self.provider, self.model, tier)) is not None:
            times, kept = known
            return Sheet({**uplifted(own, times), **{index: own[index] for index in kept if index in own}})
        return None if tier in _DEARER.get(self.provider or "", ()) else self.standard

    def __repr__(self) -> str:
        return f"<RateCard {self.provider}/{self.model} {self.standard!r}>"


def _standard(priced: Priced, at: datetime) -> Dated | None:
    """The last price that holds; the first where none does."""
    found = next((dated for dated in reversed(priced.standard) if dated.when.holds(at)), None)
    return found or (priced.standard[0] if priced.standard else None)


def _of_tier(tiers: list[Dated], tier: str) -> dict[int, Rate] | None:
    """What is published for a tier; of several prices of a unit the first."""
    found: dict[int, Rate] | None = None
    for dated in tiers:
        if dated.tier == tier:
            found = {**unpack(dated.rates), **(found or {})}
    return found
