"""How a mistake in a file is shown: where it is, the line itself with a caret under it, and what would be right."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from proxy.cli.output import CommandError, paint


class Located(Protocol):
    """What a problem of `proxy.config` offers."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int | None: ...
    @property
    def column(self) -> int | None: ...
    @property
    def message(self) -> str: ...
    @property
    def hint(self) -> str | None: ...


class BadFilesError(CommandError):
    """All that is wrong with the files, ready to be read by a person."""

    def __init__(self, problems: Sequence[Located]) -> None:
        count = f"{len(problems)} error{'s' * (len(problems) != 1)}"
        super().__init__(f"the configuration is bad: {count}\n{listing(problems, 'error')}")


def listing(problems: Iterable[Located], severity: str) -> str:
    """All problems, one after the other, in the order of the files."""
    return "\n".join(show(problem, severity, _lines(problem.file)) for problem in problems)


def show(problem: Located, severity: str, lines: Sequence[str]) -> str:
    """One problem: `file:line:column: error: message; hint`, then the line of the file with a caret."""
    style = "red" if severity == "error" else "yellow"
    place = ":".join(str(part) for part in (problem.file, problem.line, problem.column) if part)
    hint = f"; {problem.hint}" if problem.hint else ""
    head = f"{paint(place, 'bold', sys.stderr)}: {paint(severity, style, sys.stderr)}: {problem.message}{hint}"
    return "\n".join([head, *_excerpt(problem, lines, style)])


def _excerpt(problem: Located, lines: Sequence[str], style: str) -> list[str]:
    if not problem.line or problem.line > len(lines):
        return []
    line = lines[problem.line - 1].expandtabs(1)
    number = str(problem.line)
    caret = " " * (max(problem.column or 1, 1) - 1) + paint("^", style, sys.stderr)
    return [f"  {number} | {line}", f"  {' ' * len(number)} | {caret}"]


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
