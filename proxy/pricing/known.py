"""What moves a price or bounds it, and isn't in the price database: each figure with its source.

Rules: pure tables over ids of providers and models, applied once, when the cards are compiled; whatever the price
database says itself counts before them. Figures are of November 2026, as the pages named are quoted in price lists.

1. Cache lifetimes: an hour costs twice the input at Anthropic and where its models are resold at its prices; twelve
   hours cost 2.5 times the input at OpenAI, from gpt-5.6 on.
   https://platform.claude.com/docs/en/build-with-claude/prompt-caching#pricing
   https://developers.openai.com/api/docs/pricing
2. Search models of the chat API look something up for every request, whatever they are called by. Others are charged
   by the search, most of which the price database has; older models pay more for it with the tool's preview. Azure has
   a price of its own. https://developers.openai.com/api/docs/pricing#built-in-tools
   https://docs.x.ai/developers/pricing#tools-pricing
   https://www.microsoft.com/en-us/bing/apis/grounding-pricing
3. Code runs in containers charged by the session: $0.03 for one of the usual size at OpenAI, 10 % more at Azure.
4. Data residency: what is kept in one region costs 10 % more, for the models named here, where the provider has another
   address for it (OpenAI, Google), or says so in the answer (Anthropic's `inference_geo`).
   https://developers.openai.com/api/docs/guides/your-data#data-residency-controls
   https://platform.claude.com/docs/en/about-claude/pricing#data-residency-pricing
   https://cloud.google.com/vertex-ai/generative-ai/pricing
5. Sound of the first audio models. https://developers.openai.com/api/docs/models/gpt-4o-audio-preview
6. Service tiers that a provider sells for all its models at as many times the standard price.
   https://ai.google.dev/gemini-api/docs/pricing https://aws.amazon.com/bedrock/pricing/
   https://docs.x.ai/developers/pricing#batch-api-pricing
7. The most that one answer can have, from the models' own pages. A family's largest counts for all of it, so that a
   bound holds; what isn't named can have as much as its context holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final
from urllib.parse import urlsplit

from proxy.pricing.sheet import Rate, scaled
from proxy.pricing.units import BY_NAME, NANO

_INPUT: Final = BY_NAME["input"]
_RESELLERS: Final = frozenset(("anthropic", "aws", "azure", "google", "openrouter"))
_LIFETIMES: Final = (
    ("cache_write_1h", _RESELLERS, re.compile(r"claude"), Fraction(2)),
    ("cache_write_12h", frozenset(("openai", "azure")), re.compile(r"^gpt-(5\.6|6)"), Fraction(5, 2)),
)
# (unit, providers, model, USD a unit)
_FEES: Final = (
    ("search", frozenset(("openai",)), re.compile(r"^(gpt-[56]|o[34])"), Fraction(10, 1000)),
    ("search_preview", frozenset(("openai",)), re.compile(r"^gpt-4(o|\.1)(-mini)?(-20|$)"), Fraction(25, 1000)),
    ("input_audio", frozenset(("openai",)), re.compile(r"^gpt-4o-audio-preview"), Fraction(40, 10**6)),
    ("output_audio", frozenset(("openai",)), re.compile(r"^gpt-4o-audio-preview"), Fraction(80, 10**6)),
    ("input_audio", frozenset(("openai",)), re.compile(r"^gpt-4o-mini-audio-preview"), Fraction(10, 10**6)),
    ("output_audio", frozenset(("openai",)), re.compile(r"^gpt-4o-mini-audio-preview"), Fraction(20, 10**6)),
    ("search", frozenset(("x-ai",)), re.compile(r"^grok-[4-9]"), Fraction(5, 1000)),
    ("file_search", frozenset(("openai",)), re.compile(r"^(gpt-[56]|gpt-4o|gpt-4\.1|o[34])"), Fraction(25, 10_000)),
)
_SEARCH_MODELS: Final = (
    (re.compile(r"^gpt-4o-(mini-)?search-preview"), Fraction(25, 1000)),
    (re.compile(r"^gpt-5-search-api"), Fraction(10, 1000)),
)
_CONTAINER: Final = Fraction(3, 100)
_AZURE: Final = {
    "code_interpreter": Fraction(33, 1000),
    "search": Fraction(14, 1000),
    "search_preview": Fraction(14, 1000),
}

_REGIONAL: Final = (
    ("anthropic", re.compile(r"claude-(fable|mythos|opus-([5-9]|4-[6-9])|sonnet-([5-9]|4-6)|haiku-[5-9])")),
    ("google", re.compile(r"claude-(fable|(opus|sonnet|haiku)-([5-9]|4-[5-9]))")),
    ("google", re.compile(r"^gemini-(3\.1-flash-(image|lite)|3\.[5-8]-flash|4-argon)")),
    ("openai", re.compile(r"^gpt-(5\.[4-9]|6|realtime-2)")),
)
UPLIFT: Final = Fraction(11, 10)
_REGION_HOSTS: Final = re.compile(
    r"^[a-z]{2}\.api\.openai\.com$|^[a-z]+-[a-z]+\d+-aiplatform\.googleapis\.com$|^aiplatform\.[a-z]+\.rep\.googleapis\.com$"
)

_HALF: Final = Fraction(1, 2)
_TIERS: Final[dict[str, dict[str, Fraction]]] = {
    "anthropic": {"batch": _HALF},
    "aws": {"batch": _HALF, "flex": _HALF},
    "azure": {"batch": _HALF, "flex": _HALF},
    "google": {"batch": _HALF, "flex": _HALF, "priority": Fraction(9, 5)},
    "groq": {"batch": _HALF},
    "mistral": {"batch": _HALF},
    "openai": {"batch": _HALF, "flex": _HALF},
    "x-ai": {"batch": Fraction(4, 5)},
}
# Reading from a cache costs these the same on the cheaper tiers.
_FULL_PRICE_CACHE: Final = re.compile(r"^gemini-(2|3-(flash|pro)-preview|3\.1-pro)")
_CACHED: Final = frozenset(BY_NAME[name] for name in ("cached_input", "cached_audio", "cached_image"))

_OUTPUT: Final = (
    (re.compile(r"^(gpt-4o-2024-05-13|gpt-4-turbo|gpt-4-1|gpt-3\.?5)"), 4096),
    (re.compile(r"^gpt-4(-0|$)"), 8192),
    (re.compile(r"^(gpt-4o|chatgpt-4o|gpt-audio|gpt-5(\.\d)?-chat)"), 16_384),
    (re.compile(r"^gpt-4\.1"), 32_768),
    (re.compile(r"^gpt-5-pro"), 272_000),
    (re.compile(r"^o[134](-|$)"), 100_000),
    (re.compile(r"^gpt-5(-|\.|$)"), 128_000),
    (re.compile(r"^gpt-6(-|\.|$)"), 131_072),
    (re.compile(r"^claude-(2|3-opus|3-sonnet|3-haiku)"), 4096),
    (re.compile(r"^claude-3-5"), 8192),
    (re.compile(r"^claude-(opus-4-[01]|4-opus|opus-4-2025)"), 32_000),
    (re.compile(r"^claude-((opus|sonnet|haiku)-4-[05]|4-sonnet|sonnet-4-2025)"), 64_000),
    (re.compile(r"^claude-"), 128_000),
    (re.compile(r"^gemini-([12]\.\d|pro|flash-1|3)"), 65_536),
)


def completed(provider: str, model: str, rates: dict[int, Rate], *, tier: bool) -> dict[int, Rate]:
    """These rates with what is known besides; a service tier has its own cache prices and the fees of the standard
    one.
    """
    found = {}
    for name, providers, pattern, times in _LIFETIMES:
        if _INPUT in rates and BY_NAME["cache_write"] in rates and provider in providers and pattern.search(model):
            found[BY_NAME[name]] = scaled(rates[_INPUT], times)
    if not tier:
        for name, providers, pattern, usd in _FEES:
            if provider in providers and pattern.search(model):
                found[BY_NAME[name]] = usd * NANO, ()
        if provider == "openai" and BY_NAME["search"] in {**found, **rates}:
            found[BY_NAME["code_interpreter"]] = _CONTAINER * NANO, ()
    return {**found, **rates}


def by_request(provider: str, name: str) -> Rate | None:
    """What each request of a search model costs, under whatever name it is asked for."""
    if provider != "openai":
        return None
    return next(((usd * NANO, ()) for pattern, usd in _SEARCH_MODELS if pattern.search(name)), None)


def resold(provider: str, rates: Mapping[int, Rate]) -> dict[int, Rate]:
    """Another's rates at a provider that sells its models, with that provider's own fees."""
    own = {BY_NAME[name]: usd for name, usd in _AZURE.items()} if provider == "azure" else {}
    return {index: (own[index] * NANO, ()) if index in own else rate for index, rate in rates.items()}


def tier_price(provider: str | None, model: str, tier: str) -> tuple[Fraction, frozenset[int]] | None:
    """How many times the standard price a tier costs here, and the units that keep it."""
    times = _TIERS.get(provider or "", {}).get(tier)
    if times is None or (provider == "google" and times > 1 and not model.startswith("gemini")):
        return None
    return times, _CACHED if times < 1 and _FULL_PRICE_CACHE.search(model) else frozenset()


def has_regional_price(provider: str, model: str) -> bool:
    """Whether keeping the data in one region costs more for this model."""
    return any(provider == seller and pattern.search(model) for seller, pattern in _REGIONAL)


def is_regional(url: str) -> bool:
    """Whether what is sent to this address of a provider stays in one region."""
    return _REGION_HOSTS.match((urlsplit(url if "//" in url else f"//{url}").hostname or "").rstrip(".")) is not None


def max_output(model: str) -> int | None:
    """The most tokens that one answer of this model can have, as its maker says."""
    name = re.sub(r"^.*[/.](?=(gpt|claude|gemini|o\d)-?)", "", model)
    return next((most for pattern, most in _OUTPUT if pattern.search(name)), None)
