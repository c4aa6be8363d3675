"""What the simulator says, one file a family of endpoints: each reads its request and words its answers and events."""

from __future__ import annotations

from collections.abc import Callable

from proxy.simulator.speech import chat
from proxy.simulator.speech.terms import Call, Prepared

PREPARE: dict[str, Callable[[Call], Prepared]] = {"chat/completions": chat.prepare}
