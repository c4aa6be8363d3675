"""The models on offer: names with published prices, and how good, long-winded and roomy each one is.

`accuracy` is the share of sums that a model gets right, so that a cascade from a small to a large model has something
to measure. `served` is the dated name that answers carry, as the real providers do. A name that is not listed is served
by `sim-small`'s behaviour under its own name, unless the simulator is strict about names.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from proxy.simulator.latency import Latency


class Model(msgspec.Struct, frozen=True):
    """One model: what it is called, what it can do, and how fast it is (None: as the simulator's default)."""

    name: str
    kind: str = "chat"
    served: str = ""
    accuracy: float = 0.9
    context: int = 128_000
    longest: int = 16_384
    talk: tuple[int, int] = (20, 90)
    reasoning: tuple[int, int] | None = None
    owner: str = "openai"
    dimensions: int = 1536
    ttft: Latency | None = None
    per_token: Latency | None = None
    unary: Latency | None = None


ROSTER = (
    Model("gpt-4o", served="gpt-4o-2024-08-06", accuracy=0.96),
    Model("gpt-4o-mini", served="gpt-4o-mini-2024-07-18", accuracy=0.85),
    Model("gpt-4.1", served="gpt-4.1-2025-04-14", accuracy=0.97, context=1_047_576, longest=32_768),
    Model("gpt-4.1-mini", served="gpt-4.1-mini-2025-04-14", accuracy=0.9, context=1_047_576, longest=32_768),
    Model("gpt-4.1-nano", served="gpt-4.1-nano-2025-04-14", accuracy=0.7, context=1_047_576, longest=32_768),
    Model("gpt-3.5-turbo-instruct", served="gpt-3.5-turbo-instruct:20230824-v2", accuracy=0.6, context=4096),
    Model("o4-mini", served="o4-mini-2025-04-16", accuracy=0.99, context=200_000, longest=100_000, reasoning=(64, 320)),
    Model("claude-sonnet-4-5", served="claude-sonnet-4-5-20250929", accuracy=0.98, context=200_000, owner="anthropic"),
    Model("claude-3-5-haiku", served="claude-3-5-haiku-20241022", accuracy=0.88, context=200_000, owner="anthropic"),
    Model("text-embedding-3-small", kind="embedding", context=8192, dimensions=1536),
    Model("text-embedding-3-large", kind="embedding", context=8192, dimensions=3072),
    Model("gpt-image-1", kind="image"),
    Model("tts-1", kind="speech"),
    Model("gpt-4o-mini-tts", kind="speech"),
    Model("whisper-1", kind="transcription"),
    Model("gpt-4o-transcribe", kind="transcription"),
    Model("omni-moderation-latest", kind="moderation", served="omni-moderation-2024-09-26"),
    Model("sim-small", accuracy=0.75, context=8192, longest=4096, owner="weir"),
    Model("sim-large", accuracy=0.99, context=32_768, longest=8192, owner="weir"),
)


class Roster:
    """Models by name; a dated or `-latest` name finds its family, the longest name first."""

    def __init__(self, models: tuple[Model, ...] = ROSTER, *, strict: bool = False) -> None:
        self.models = {model.name: model for model in models}
        self.strict = strict
        self._found: dict[str, Model | None] = {}

    def find(self, name: str) -> Model | None:
        """The model of that name, or None where the simulator is strict and does not offer it."""
        if name not in self._found:
            if len(self._found) > 10_000:
                self._found.clear()
            self._found[name] = self._look(name)
        return self._found[name]

    def _look(self, name: str) -> Model | None:
        if exact := self.models.get(name):
            return msgspec.structs.replace(exact, served=exact.served or name)
        family = [m for m in self.models.values() if name == m.served or fnmatchcase(name, m.name + "-[0-9l]*")]
        if family:
            return msgspec.structs.replace(max(family, key=lambda m: len(m.name)), served=name)
        if self.strict:
            return None
        return msgspec.structs.replace(self.models.get("sim-small") or Model(name), name=name, served=name)
