"""Which vectors a policy compares by: who makes them, and what must not be mixed by that."""

from __future__ import annotations

from pathlib import Path

from policies.cache.options import Semantic
from policies.cache.semantic.sentence import Sentence
from policies.cache.semantic.static import Static


def sentence_of(config: Semantic) -> Sentence | None:
    """The small transformer, where it is asked for."""
    return Sentence(Path(config.model)) if config.embedder == "minilm" and config.model is not None else None


def embedder_of(static: Static, config: Semantic, sentence: Sentence | None) -> str:
    """The name and version of what makes the vectors: part of every partition."""
    if sentence is not None:
        return sentence.name
    return static.name if config.embedder == "static" else f"upstream:{config.model}"


def kind_of(embedder: str, config: Semantic) -> str:
    """What entries and labels of different kinds must not be mixed by."""
    return f"{embedder}/{config.equal}/{config.max_error:g}"
