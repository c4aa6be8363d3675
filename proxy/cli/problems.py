"""How a mistake in a file is shown: where it is, the line itself with a caret under it, and what would be right."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.cli.output import CommandError, paint

if TYPE_CHECKING:
    from proxy.config import ConfigurationError, Problem


_SECRETS: Final = (
    re.compile(
        r"""((?:key|keys|secret|password|token|value)["']?\s*:\s*\[?\s*["']?)"""
        r"""(?!required|open|true|false|null)([^\s"'{}\[\],$&*|>][^\s"'}\],]*)""",
        re.I,
    ),
    re.compile(r"(://[^\s/:@]*:)([^\s/@${}]+)(?=@)"),
    re.compile(r"""((?:^|[\s"'\[,])(?:sk|wk|pk|key)-)([A-Za-z0-9_-]{6,})"""),
)


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
    number, line = str(problem.line), masked(lines[problem.line - 1].expandtabs(1))
    caret = " " * (max(problem.column, 1) - 1) + paint("^", _style(problem), sys.stderr)
    return [f"  {number} | {line}", f"  {' ' * len(number)} | {caret}"]


def masked(line: str) -> str:
    """A line without what may be a key or a password that doesn't belong there: logs keep what is shown."""
    for pattern in _SECRETS:
        line = pattern.sub(lambda match: match[1] + "•" * len(match[2]), line)
    return line


def _style(problem: Problem) -> str:
    return "red" if problem.severity == "error" else "yellow"


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
