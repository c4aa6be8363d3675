"""How the commands speak: plain text, coloured only on a terminal that wants it.

`NO_COLOR` (https://no-color.org) and `TERM=dumb` switch colours off, a pipe or a file does too.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]

_WIDE = 1000
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


class CommandError(Exception):
    """An expected failure: its text is the whole message, its status the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class UsageError(CommandError):
    """A command line that can't be right, though each of its options is."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=2)


def coloured(stream: TextIO) -> bool:
    """Whether to colour what is written to `stream`."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """`text` in a colour or weight, or as it is where colours aren't wanted."""
    if not coloured(stream or sys.stdout):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def say(text: str) -> None:
    """One line for the person at the terminal: on stderr, so that pipes see only answers."""
    print(text, file=sys.stderr, flush=True)


def console() -> Console:
    """A console for tables on stdout, as wide as needed when nobody looks at its edges."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(
        highlight=False, soft_wrap=not terminal, no_color=not coloured(sys.stdout), width=None if terminal else _WIDE
    )


def dollars(nanodollars: int | None, *, estimated: bool = False) -> str:
    """Nano-dollars as US dollars with the digits that matter; nothing is `unpriced`, an estimate bears a `~`."""
    from proxy.why import dollars as exact

    text = exact(nanodollars)
    return "unpriced" if text is None else f"{'~' * estimated}{'-' * text.startswith('-')}${text.lstrip('-')}"


def span(nanoseconds: int | None) -> str:
    """A duration with three digits and its unit."""
    if nanoseconds is None:
        return "-"
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if nanoseconds >= size:
            value = nanoseconds / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{nanoseconds} ns"
