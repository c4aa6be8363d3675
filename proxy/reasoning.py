"""Which requests are for models that think before they answer, and so may take longer. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

MODELS: Final = ("o1*", "o3*", "o4*", "gpt-5*", "*thinking*", "*reasoner*", "deepseek-r1*", "qwq*")
"""What such models are called, where nothing else is configured."""
_FIELDS: Final = ("reasoning_effort", "reasoning", "thinking")


def asked(field: Callable[[str], Any]) -> bool:
    """Whether a request asks for it by a field of its own. `field` reads a top-level field of the body."""
    return any(_asks(field(name)) for name in _FIELDS)


def _asks(value: Any) -> bool:
    """An effort, or a mapping that doesn't disable it."""
    if isinstance(value, dict):
        return value.get("type") != "disabled" and value.get("effort") != "none"
    return value not in (None, "none")
