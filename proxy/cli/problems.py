"""How a mistake in a file is shown: where it is, the line itself with a caret under it, and what would be right."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli.output import CommandError, paint

if TYPE_CHECKING:
    from proxy.config import ConfigurationError, Problem


class BadFilesError(CommandError):
    """All that is wrong with the files, ready to be read by a person."""

    def __init__(self, error: ConfigurationError) -> None:
        count = len(error.errors)
        super().__init__(f"{count} error{'s' * (count != 1)} in the configuration\n{listing(error.problems)}")


def listing(problems: Iterable[Problem]) -> str:
    """All problems, one after the other, in the order of the files."""
    return "\n".join(show(problem, _lines(problem.file)) for problem in problems)


def show(problem: Problem, lines: Sequence[str]) -> str:
    """One problem: `file:line:column: error: path: message`, the line with a caret, and what would be right."""
    severity = paint(problem.severity, _style(problem), sys.stderr)
    subject = f"{problem.path}: " if problem.path else ""
    head = f"{paint(problem.where, 'bold', sys.stderr)}: {severity}: {subject}{problem.message}"
    hint = [f"  {problem.hint}"] if problem.hint else []
    return "\n".join([head, *_excerpt(problem, lines), *hint])


def _excerpt(problem: Problem, lines: Sequence[str]) -> list[str]:
    if not 0 < problem.line <= len(lines):
        return []
    number = str(problem.line)
    caret = " " * (max(problem.column, 1) - 1) + paint("^", _style(problem), sys.stderr)
    return [f"  {number} | {lines[problem.line - 1].expandtabs(1)}", f"  {' ' * len(number)} | {caret}"]


def _style(problem: Problem) -> str:
    return "red" if problem.severity == "error" else "yellow"


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
