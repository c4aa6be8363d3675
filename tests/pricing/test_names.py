"""Whose prices apply at an address."""

from __future__ import annotations

import re

import pytest
from genai_prices.data import providers

from proxy.pricing import provider_of
from proxy.pricing.names import dashed

ADDRESSES = {
    "anthropic": "https://api.anthropic.com/v1",
    "arcee": "https://api.arcee.ai/api/v1",
    "avian": "https://api.avian.io/v1",
    "aws": "https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1",
    "azure": "https://contoso.openai.azure.com/openai/v1",
    "baseten": "https://inference.baseten.co/v1",
    "cerebras": "https://api.cerebras.ai/v1",
    "cloudflare": "https://api.cloudflare.com/client/v4/accounts/0123/ai/v1",
    "cohere": "https://api.cohere.com/compatibility/v1",
    "cursor": "https://api.cursor.com/v1",
    "databricks": "https://dbc-1.cloud.databricks.com/serving-endpoints",
    "deepseek": "https://api.deepseek.com",
    "doubleword": "https://api.doubleword.ai/v1",
    "elevenlabs": "https://api.elevenlabs.io/v1",
    "fireworks": "https://api.fireworks.ai/inference/v1",
    "github-copilot": "https://api.githubcopilot.com",
    "google": "https://generativelanguage.googleapis.com/v1beta/openai",
    "groq": "https://api.groq.com/openai/v1",
    **{
        f"huggingface_{name}": f"https://router.huggingface.co/{name}/v1"
        for name in (
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
    },
    "meta": "https://api.meta.ai/v1",
    "minimax": "https://api.minimax.io/v1",
    "mistral": "https://api.mistral.ai/v1",
    "modal": "https://team--serve.modal.run/v1",
    "moonshotai": "https://api.moonshot.ai/v1",
    "novita": "https://api.novita.ai/v3/openai",
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "ovhcloud": "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1",
    "perplexity": "https://api.perplexity.ai",
    "quicksilverpro": "https://api.quicksilverpro.io/v1",
    "together": "https://api.together.xyz/v1",
    "typesafe": "https://api.typesafe.ai/v1",
    "voyageai": "https://api.voyageai.com/v1",
    "x-ai": "https://api.x.ai/v1",
    "zai": "https://api.z.ai/api/paas/v4",
    "zhipuai": "https://open.bigmodel.cn/api/paas/v4",
}
SAME_ADDRESS = {"openai-decisions"}  # OpenAI's, for an endpoint that isn't understood


def test_all_providers_have_an_address() -> None:
    """Every provider of the price database is known by an address that its own pattern accepts too."""
    assert {provider.id for provider in providers} - SAME_ADDRESS == ADDRESSES.keys()
    for provider in providers:
        if provider.id not in SAME_ADDRESS:
            assert re.match(provider.api_pattern, ADDRESSES[provider.id]), provider.id


@pytest.mark.parametrize(("provider", "url"), ADDRESSES.items())
def test_address(provider: str, url: str) -> None:
    """The address tells the provider, whatever follows it or however its host is written."""
    assert provider_of(url) == provider
    assert provider_of(url + "/more?api-version=1") == provider
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    assert provider_of(f"{scheme}://{host.upper()}:443{slash}{path}") == provider


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "http://localhost:11434",
        "https://llm.example.com/api.openai.com/v1",
        "https://api.openai.com.example.com/v1",
        "https://notapi.openai.com.evil.test",
        "https://s3.us-east-1.amazonaws.com/v1",
        "https://api.cloudflare.com/client/v4/zones",
        "https://router.huggingface.co/v1",
        "",
    ],
)
def test_other_addresses(url: str) -> None:
    """An address that isn't one of theirs is nobody's."""
    assert provider_of(url) is None


def test_regions() -> None:
    """Hosts below a provider's own are its regions."""
    assert provider_of("https://eu.api.openai.com/v1") == "openai"
    assert provider_of("https://us-east5-aiplatform.googleapis.com/v1") == "google"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-5.2-20251211", "gpt-5.2-2025-12-11"),
        ("gpt-5.2-20251211-fast", "gpt-5.2-2025-12-11-fast"),
        ("gpt-5.2-20251341", "gpt-5.2-20251341"),
        ("gpt-5.2-2025-12-11", "gpt-5.2-2025-12-11"),
    ],
)
def test_compact_dates(name: str, expected: str) -> None:
    """Dates written without dashes are spelled as providers spell them, where they are dates."""
    assert dashed(name) == expected
