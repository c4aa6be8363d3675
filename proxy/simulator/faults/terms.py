"""The terms of faults: what they know of the request that they spoil, and where in its answering they act."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from proxy.simulator.reply import Reply, Script
from proxy.simulator.speech.terms import UsageForm


class Dialect(enum.Enum):
    """Whose errors and ends of stream an answer has."""

    OPENAI = "openai"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class Case:
    """One request that meets a fault: the fault's arguments and what the request asked for."""

    arguments: tuple[str, ...]
    dialect: Dialect
    streamed: bool
    stream_options: bool

    def text(self, default: str, at: int = 0) -> str:
        """The argument at a position."""
        return self.arguments[at] if len(self.arguments) > at and self.arguments[at] else default

    def number(self, default: float, at: int = 0) -> float:
        """The argument as a number. Raises ValueError."""
        return float(self.text(str(default), at))

    def count(self, default: int, at: int = 0) -> int:
        """The argument as a whole number. Raises ValueError."""
        return int(self.text(str(default), at))


Refuse = Callable[[Case], Reply | None]
Edit = Callable[[Reply, Case], Reply]
Spoil = Callable[[Script, Case], Script]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table. At most one of `refuse` (instead of an answer), `usage`, `edit` (of the answer) and `spoil`
    (of its bytes and times) is set; none for what happens before or without a request, as `how` tells."""

    row: str
    name: str
    text: str
    argument: str = ""
    refuse: Refuse | None = None
    usage: UsageForm | None = None
    edit: Edit | None = None
    spoil: Spoil | None = None
    how: str = ""
