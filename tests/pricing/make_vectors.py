"""Writes `vectors.csv` and `disputed.csv` from a second price map: `make_vectors.py MAP "source, version, date"`.

Rules: nothing of the proxy is imported. Prices are decimals as they stand in the map (BerriAI/litellm,
`model_prices_and_context_window.json`, US dollars a token); a cost is a plain sum over disjoint kinds of tokens,
rounded half up to a nano-dollar. Each model gets the uses that its prices distinguish. Where the map and the price
database are known to say different things, the line goes to `disputed.csv` with the reason; models that the price
database hasn't at all stand in `unpriced.txt` and get no lines.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = "provider,model,tier,region,at,usage,nanodollars"

PROVIDERS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "xai": "x-ai",
    "deepseek": "deepseek",
    "mistral": "mistral",
    "groq": "groq",
    "azure": "azure",
    "cohere_chat": "cohere",
    "perplexity": "perplexity",
    "cerebras": "cerebras",
    "moonshot": "moonshotai",
    "voyage": "voyageai",
    "bedrock_converse": "aws",
}
MODES = ("chat", "responses", "completion", "embedding", "audio_transcription", "audio_speech", "image_generation")
THRESHOLDS = (100_000, 128_000, 200_000, 256_000, 272_000)
TIERS = {"": "", "batch": "_batches", "flex": "_flex", "priority": "_priority"}
DATED = re.compile(r"-20\d\d-?\d\d-?\d\d")
NOON = "2026-11-18T12:00:00"
PEAK = "2026-11-18T02:00:00"  # what the map gives for models with hours of the day is the dear price
Row = tuple[str, str, str, str, str, str, int]
Prices = dict[str, Any]


class Use:
    """So many of each kind, none counted twice but by totals."""

    def __init__(self, **counts: int) -> None:
        self.counts = counts

    def of(self, kind: str) -> int:
        return self.counts.get(kind, 0)

    @property
    def text(self) -> int:
        parts = ("cached", "written", "written_1h", "written_12h", "audio", "image")
        return self.of("input") - sum(self.of(part) for part in parts)

    @property
    def text_out(self) -> int:
        return self.of("output") - self.of("audio_out") - self.of("image_out") - self.of("reasoning")


FIELDS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached": "cached_tokens",
    "written": "cache_write_tokens",
    "written_1h": "cache_write_1h_tokens",
    "written_12h": "cache_write_12h_tokens",
    "audio": "input_audio_tokens",
    "image": "input_image_tokens",
    "audio_out": "output_audio_tokens",
    "image_out": "output_image_tokens",
    "reasoning": "reasoning_tokens",
    "searches": "searches",
    "preview": "preview_searches",
    "milliseconds": "audio_ms",
    "characters": "characters",
}


def price(prices: Prices, name: str, tier: str, above: int | None) -> Decimal | None:
    """The most specific price of this name: of the tier above the threshold, of the tier, above it, plain."""
    long = "" if above is None else f"_above_{above // 1000}k_tokens"
    found = prices.get(f"{name}{long}{TIERS[tier]}")
    return found if found is not None else None


def cost(prices: Prices, use: Use, tier: str, above: int | None) -> Decimal | None:
    """US dollars; None where the map hasn't a price that this use needs."""

    def rate(name: str) -> Decimal | None:
        return price(prices, name, tier, above)

    per_input, per_output = rate("input_cost_per_token"), rate("output_cost_per_token")
    wanted = [
        (use.text, per_input),
        (use.text_out, per_output),
        (use.of("reasoning"), per_output if (own := rate("output_cost_per_reasoning_token")) is None else own),
        (use.of("cached"), rate("cache_read_input_token_cost")),
        (use.of("written"), rate("cache_creation_input_token_cost")),
        (use.of("written_1h"), rate("cache_creation_input_token_cost_above_1hr")),
        (use.of("written_12h"), rate("cache_creation_input_token_cost_above_12hr")),
        (use.of("audio"), rate("input_cost_per_audio_token")),
        (use.of("image"), rate("input_cost_per_image_token")),
        (use.of("audio_out"), rate("output_cost_per_audio_token")),
        (use.of("image_out"), rate("output_cost_per_image_token")),
        (use.of("characters"), prices.get("input_cost_per_character")),
    ]
    total = Decimal()
    for count, each in wanted:
        if count:
            if not each:
                return None
            total += count * each
    if use.of("searches") or use.of("always"):
        sizes = prices.get("search_context_cost_per_query")
        if not sizes:
            return None
        total += (use.of("searches") + use.of("always")) * sizes["search_context_size_high"]
    if use.of("milliseconds"):
        second = prices.get("input_cost_per_second")
        if second is None:
            return None
        total += Decimal(use.of("milliseconds")) / 1000 * second
    return total


USES = (
    Use(input=1234, output=567),
    Use(input=10_007, output=333, cached=4001),
    Use(input=12_011, output=77, cached=3001, written=5003),
    Use(input=12_011, output=77, cached=3001, written_1h=5003),
    Use(input=12_011, output=77, cached=3001, written=2003, written_1h=1001),
    Use(input=12_011, output=77, cached=3001, written=2003, written_12h=1001),
    Use(input=901, output=307, audio=503),
    Use(input=901, output=307, audio=503, audio_out=211),
    Use(input=901, output=307, image=503),
    Use(input=901, output=1307, image_out=1211),
    Use(input=2003, output=4001, reasoning=3507),
    Use(input=2003, output=401, searches=3),
)
EMBEDDED = (Use(input=8191),)
HEARD = (Use(milliseconds=61_500),)
READ = (Use(characters=4096),)


def threshold(prices: Prices) -> int | None:
    """Where the model's prices rise."""
    return next((at for at in THRESHOLDS if f"input_cost_per_token_above_{at // 1000}k_tokens" in prices), None)


def uses(prices: Prices) -> Iterator[tuple[Use, str, int | None]]:
    """The uses that this model's prices distinguish, the tier, and the threshold that each is above."""
    mode, edge = prices["mode"], threshold(prices)
    # xAI's own table says "at or above", the others' "above".
    first = 0 if prices["litellm_provider"] == "xai" else 1
    plain = EMBEDDED if mode == "embedding" else READ if mode == "audio_speech" else USES
    if mode == "audio_transcription" and "input_cost_per_second" in prices:
        plain = HEARD
    for use in plain:
        yield use, "", None
    if mode in ("embedding", "audio_speech", "audio_transcription"):
        return
    for tier in ("batch", "flex", "priority"):
        if f"input_cost_per_token{TIERS[tier]}" in prices:
            yield Use(input=1234, output=567), tier, None
            yield Use(input=10_007, output=333, cached=4001), tier, None
    if edge is not None:
        yield Use(input=edge + first - 1, output=1009), "", None
        yield Use(input=edge + first, output=1009), "", edge
        yield Use(input=edge + 28_001, output=1009, cached=100_003), "", edge
        for tier in ("batch", "flex", "priority"):
            if f"input_cost_per_token_above_{edge // 1000}k_tokens{TIERS[tier]}" in prices:
                yield Use(input=edge + 28_001, output=1009, cached=100_003), tier, edge


def nano(usd: Decimal) -> int:
    """Whole nano-dollars, half up."""
    return int((usd * 10**9).quantize(Decimal(1), ROUND_HALF_UP))


def vectors(table: dict[str, Prices]) -> Iterator[Row]:
    """(provider, model, tier, region, at, usage, nano-dollars)."""
    for key, prices in table.items():
        provider = PROVIDERS.get(prices.get("litellm_provider", ""))
        if provider is None or prices.get("mode") not in MODES or not told_once(provider, key):
            continue
        model = key.rpartition("/")[2]
        at = PEAK if prices.get("off_peak_pricing") else NOON
        for use, tier, above in uses(prices):
            if (asked := as_charged(provider, model, use, prices)) is None:
                continue
            found = cost(prices, asked, tier, above)
            if found:
                yield row(provider, model, tier, "", at, asked, found)
        yield from regional(provider, model, prices)
        yield from by_the_hour(provider, model, prices)


def told_once(provider: str, key: str) -> bool:
    """Whether to take this name of a model: of resellers and of models with many names only some."""
    if key.startswith("ft:") or (key.count("/") > 1 and provider != "groq"):
        return False
    if provider == "azure":
        return "/" in key and DATED.search(key) is None
    if provider == "aws":
        return key.startswith(("global.anthropic", "global.openai"))
    if provider == "openai" and DATED.search(key) is not None:
        return key in ("gpt-4o-2024-05-13", "gpt-4o-mini-2024-07-18", "gpt-5.4-2026-03-05")
    return provider in ("openai", "anthropic") or not key.endswith("-latest")


def as_charged(provider: str, model: str, use: Use, prices: Prices) -> Use | None:
    """The use as this model is charged for it: search models search for each request; where a search costs $25 a
    thousand, it is that of the tool's preview.
    """
    if provider == "openai" and ("search-preview" in model or "search-api" in model):
        return None if use.of("searches") else Use(**use.counts, always=1)
    sizes = prices.get("search_context_cost_per_query") or {}
    if provider == "openai" and use.of("searches") and sizes.get("search_context_size_high") == Decimal("0.025"):
        return Use(**use.counts, preview=use.of("searches"))
    return use


def regional(provider: str, model: str, prices: Prices) -> Iterator[Row]:
    """Data residency and Anthropic's fast mode: every token times a factor."""
    use = Use(input=10_007, output=333, cached=4001)
    base = cost(prices, use, "", None)
    if base is None:
        return
    if (times := prices.get("regional_processing_uplift_multiplier_eu")) is not None:
        yield row(provider, model, "", "eu", NOON, use, base * times)
    more = prices.get("provider_specific_entry") or {}
    if provider == "anthropic":
        if "us" in more:
            yield row(provider, model, "standard@us", "", NOON, use, base * more["us"])
        if "fast" in more:
            yield row(provider, model, "fast", "", NOON, use, base * more["fast"])
        if "us" in more and "fast" in more:
            yield row(provider, model, "fast@us", "", NOON, use, base * more["us"] * more["fast"])


def by_the_hour(provider: str, model: str, prices: Prices) -> Iterator[Row]:
    """Prices that change with the time of day and the day of the week: dear and cheap, at each edge."""
    cheap = prices.get("off_peak_pricing")
    if not cheap:
        return
    use = Use(input=10_007, output=333, cached=4001)
    peak, rest = cost(prices, use, "", None), cost({**prices, **cheap}, use, "", None)
    assert peak is not None and rest is not None
    for hour, dear in ((0, False), (1, True), (3, True), (4, False), (6, True), (9, True), (10, False), (23, False)):
        yield row(provider, model, "", "", f"2026-11-18T{hour:02}:00:00", use, peak if dear else rest)
    yield row(provider, model, "", "", "2026-11-18T03:59:59", use, peak)
    yield row(provider, model, "", "", "2026-11-21T02:00:00", use, rest)  # a Saturday
    yield row(provider, model, "", "", "2026-11-22T07:00:00", use, rest)


def row(provider: str, model: str, tier: str, region: str, at: str, use: Use, usd: Decimal) -> Row:
    """One line of the table."""
    usage = " ".join(f"{FIELDS[kind]}={count}" for kind, count in use.counts.items() if kind in FIELDS)
    return provider, model, tier, region, at, usage, nano(usd)


# (what the line begins with, `provider/model tier usage`; why the two differ)
DISPUTED = (
    (r"aws/.*claude-sonnet-4-(2025|5)\S*  input_tokens=(200001|228001)", "the map keeps prices that are retired"),
    (r"aws/.*claude.* searches", "the price database has no search at Amazon"),
    (r"azure/(ada|gpt-4-turbo|text-embedding|tts-1-hd)", "the map adds the 10 % of a regional deployment"),
    (r"azure/(o3|o4-mini)  .* searches", "the price database has no search at Azure for this model"),
    (r"azure/gpt-5\.[45]-pro .* cached", "the map has a price of cached input that OpenAI doesn't publish"),
    (r"azure/gpt-audio  .*audio", "the map has Azure's older price of sound"),
    (r"azure/gpt-5\.5 priority .*=300001", "the map raises Azure's priority in another ratio"),
    (r"deepseek/deepseek-(chat|reasoner|v3\.2)", "names retired in July 2026: the price database has older prices"),
    (r"google/gemini-2\.5-flash-image .*(cached|audio|searches)", "the price database has no such unit for this model"),
    (r"google/gemini-2\.5-pro-preview-tts .*(cached|audio|searches)", "the price database has no such unit here"),
    (r"google/gemini-robotics\S* .*searches", "the price database has no search for this model"),
    (r"google/gemini-3\.5-flash flex .*cached", "the map has the price of cached input rounded"),
    (r"google/gemini-3\.5-flash-lite (flex|priority) .*cached", "the map has the price of cached input rounded"),
    (r"(groq|mistral)/\S+(-large-v3|-turbo|transcribe\S*-3-0) .*audio_ms", "by the hour; the map rounds by the second"),
    (r"mistral/mistral-large-4(-0)? ", "the map has the price that held until 2026-10-29"),
    (r"mistral/open-mistral-nemo ", "the map has an older price"),
    (r"mistral/mistral-medium ", "names that the two resolve differently"),
    (r"mistral/mistral-tiny .*cached", "names that the two resolve differently"),
    (r"openai/gpt-4o(-mini)?-transcribe\S* .*audio_ms", "billed by tokens; the map has an estimate by the second too"),
    (r"openai/chatgpt-image-latest batch .*cached", "half a price that OpenAI publishes rounded"),
    (r"openai/gpt-4o-search-preview\S* .*cached", "the price database has no cached input for this model"),
    (r"openai/gpt-5\.6-cyber .*=(272001|300001)", "the map has a long-context price that OpenAI doesn't publish"),
    (r"perplexity/sonar(-pro|-reasoning|-reasoning-pro)? ", "the map leaves out the fee of each request"),
    (r"x-ai/grok-code-fast", "the map has the price of its successor"),
)


def disputed(line: Row) -> str | None:
    """Why the price database says otherwise, if it is known to."""
    provider, model, tier, _, _, usage, _ = line
    return next((why for found, why in DISPUTED if re.match(found, f"{provider}/{model} {tier} {usage}")), None)


def main() -> None:
    """All lines, each once, as CSV."""
    with open(sys.argv[1], encoding="utf-8") as file:
        table = json.load(file, parse_float=Decimal, parse_int=Decimal)
    unpriced = set((HERE / "unpriced.txt").read_text().split())
    lines = [line for line in dict.fromkeys(vectors(table)) if f"{line[0]}/{line[1]}" not in unpriced]
    agreed = [",".join(map(str, line)) for line in lines if disputed(line) is None]
    others = [",".join((*map(str, line), why)) for line in lines if (why := disputed(line)) is not None]
    head = f"# Computed by make_vectors.py from {sys.argv[2]}\n{HEAD}"
    (HERE / "vectors.csv").write_text("\n".join((head, *agreed, "")))
    (HERE / "disputed.csv").write_text("\n".join((f"{head},why", *others, "")))


if __name__ == "__main__":
    main()
