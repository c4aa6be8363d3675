"""Whose prices apply, and to which model a name belongs.

Rules: pure. Clauses are those of the price database in a compact form, `[kind, text]` or `[kind, [clauses]]`; names are
compared in lower case. `provider_of` knows the hosts of the public APIs and nothing else: for any other address the
deployment file says `provider`.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any, Final
from urllib.parse import urlsplit

STARTS, ENDS, CONTAINS, REGEX, EQUALS, OR, AND = range(7)

# Providers whose models nobody else serves under the same name: asked when an upstream's provider isn't known. Makers
# of open weights aren't among them, since a server of one's own uses those names at other prices.
FIRST_PARTIES: Final = ("anthropic", "cohere", "google", "openai", "perplexity", "voyageai", "x-ai")
OPEN_WEIGHTS: Final = re.compile(r"gpt-oss|gemma|whisper|moderation")

# Hosts, with everything below them.
_HOSTS: Final = {
    "amazonaws.com": "aws",
    "api.anthropic.com": "anthropic",
    "api.arcee.ai": "arcee",
    "api.avian.io": "avian",
    "api.cerebras.ai": "cerebras",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
    "api.cursor.com": "cursor",
    "api.deepseek.com": "deepseek",
    "api.doubleword.ai": "doubleword",
    "api.elevenlabs.io": "elevenlabs",
    "api.fireworks.ai": "fireworks",
    "api.githubcopilot.com": "github-copilot",
    "api.groq.com": "groq",
    "api.meta.ai": "meta",
    "api.minimax.com": "minimax",
    "api.minimax.io": "minimax",
    "api.minimaxi.com": "minimax",
    "api.mistral.ai": "mistral",
    "api.moonshot.ai": "moonshotai",
    "api.moonshot.cn": "moonshotai",
    "api.novita.ai": "novita",
    "api.openai.com": "openai",
    "eu.api.openai.com": "openai",
    "us.api.openai.com": "openai",
    "api.perplexity.ai": "perplexity",
    "api.quicksilverpro.io": "quicksilverpro",
    "api.together.ai": "together",
    "api.together.xyz": "together",
    "api.typesafe.ai": "typesafe",
    "api.voyageai.com": "voyageai",
    "api.x.ai": "x-ai",
    "api.z.ai": "zai",
    "azure-api.net": "azure",
    "azuredatabricks.net": "databricks",
    "cloud.databricks.com": "databricks",
    "gcp.databricks.com": "databricks",
    "cognitiveservices.azure.com": "azure",
    "googleapis.com": "google",
    "inference.baseten.co": "baseten",
    "modal.direct": "modal",
    "modal.run": "modal",
    "oai.endpoints.kepler.ai.cloud.ovh.net": "ovhcloud",
    "open.bigmodel.cn": "zhipuai",
    "openai.azure.com": "azure",
    "openrouter.ai": "openrouter",
    "residency.elevenlabs.io": "elevenlabs",
    "services.ai.azure.com": "azure",
}
_ROUTED: Final = frozenset(
    [
        "cerebras",
        "fireworks-ai",
        "groq",
        "hyperbolic",
        "nebius",
        "novita",
        "nscale",
        "ovhcloud",
        "publicai",
        "sambanova",
        "together",
    ]
)
_CLOUDFLARE: Final = re.compile(r"/client/v4/accounts/[^/]+/ai(?:/|$)")
_VERSION: Final = re.compile(r"[-@](?:(?P<day>20\d{2}-\d{2}-\d{2}|20\d{6})|\d{3,4})$")
_COMPACT_DATE: Final = re.compile(r"-(20\d{2})(\d{2})(\d{2})(?=[-:]|$)")


def provider_of(url: str) -> str | None:
    """Whose prices apply at this address; None if it isn't one of the public APIs."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    host = (parts.hostname or "").rstrip(".")
    if host == "router.huggingface.co":
        backend = parts.path.split("/")[1] if "/" in parts.path else ""
        return f"huggingface_{backend}" if backend in _ROUTED else None
    if host == "api.cloudflare.com":
        return "cloudflare" if _CLOUDFLARE.match(parts.path) else None
    if host.endswith("amazonaws.com") and not host.startswith("bedrock"):
        return None
    while host:
        if (found := _HOSTS.get(host)) is not None:
            return found
        host = host.partition(".")[2]
    return None


def matches(clause: Any, name: str) -> bool:
    """Whether a name, in lower case, satisfies a clause."""
    kind, argument = clause
    if kind == EQUALS:
        return bool(name == argument)
    if kind == STARTS:
        return name.startswith(argument)
    if kind == CONTAINS:
        return argument in name
    if kind == ENDS:
        return name.endswith(argument)
    if kind == REGEX:
        return re.search(argument, name) is not None
    return (any if kind == OR else all)(matches(inner, name) for inner in argument)


def dashed(name: str) -> str:
    """A name with a compact date, as `gpt-5.2-20251211`, written `gpt-5.2-2025-12-11`; any other name as it is."""
    return _COMPACT_DATE.sub(_with_dashes, name)


def stems(name: str) -> list[tuple[str, bool]]:
    """The names of which this one may be a version, as `gpt-4o` of `gpt-4o-2024-08-06`, and whether its ending says so.

    A day behind a name is a version of it. A short number (`gpt-4-0613`) may as well be a size, and `-latest` another
    version by now: of these only a price list can tell.
    """
    found = _VERSION.search(name)
    if found is None:
        return []
    stem = name[: found.start()]
    return [(stem, found["day"] is not None), (f"{stem}-latest", False)]


def _with_dashes(found: re.Match[str]) -> str:
    try:
        return "-" + date(*(int(part) for part in found.groups())).isoformat()
    except ValueError:
        return found[0]
