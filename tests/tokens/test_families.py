"""Whose tokenizer a name means."""

from __future__ import annotations

import pytest

from proxy.tokens.families import family_of, most_of_image


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-mini", "gpt-4o"),
        ("azure/gpt-4.1-2025-04-14", "gpt-4o"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", "gpt-4o"),
        ("gpt-5.1", "gpt-4o"),
        ("o3-mini", "gpt-4o"),
        ("openai/o1", "gpt-4o"),
        ("gpt-4", "gpt-4"),
        ("gpt-4-turbo", "gpt-4"),
        ("gpt-35-turbo", "gpt-4"),
        ("text-embedding-3-small", "gpt-4"),
        ("gpt-oss-20b", "gpt-oss"),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "claude"),
        ("models/gemini-2.5-flash", "gemini"),
        ("Meta-Llama-3.1-8B-Instruct", "llama"),
        ("qwen2.5-7b-instruct", "qwen"),
        ("deepseek-r1-distill-llama-70b", "deepseek"),
        ("codestral-latest", "mistral"),
        ("solo1-large", "unknown"),
        ("", "unknown"),
    ],
)
def test_names(model: str, family: str) -> None:
    """A family is found whatever stands around a name; what nobody knows is unknown."""
    assert family_of(model).name == family


def test_only_openais_own_are_counted_exactly() -> None:
    """A vocabulary that is shared isn't a framing that is shared: gpt-oss is not counted by the rules of gpt-4o."""
    assert [family_of(name).encoding for name in ("gpt-4o", "gpt-4", "gpt-oss-20b", "claude-3")] == [
        "o200k_base",
        "cl100k_base",
        None,
        None,
    ]


def test_images() -> None:
    """Maxima are the providers': 8 tiles, 1,536 patches; where no page says, there is none."""
    assert most_of_image("gpt-4o-2024-08-06") == 85 + 170 * 8
    assert most_of_image("gpt-4o-mini") == 2833 + 5667 * 8
    assert most_of_image("gpt-4.1-mini") == 2489
    assert most_of_image("claude-sonnet-4-5") == 1640
    assert most_of_image("llava-7b") is None
    assert most_of_image("gpt-9") is None
