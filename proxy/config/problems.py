"""What is wrong with the files, and where.

Rules: a `Problem` names its file, line and column (counted from 1; 0 when it comes from the command line or the
environment), the path of the setting, what is wrong and what would be right. Problems are gathered, never raised one
by one: one `ConfigurationError` carries all of them. Nothing in a problem may show a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from proxy.config.strict import Strict

Location = tuple[str | int, ...]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Problem(Strict):
    """One finding in one place of one file."""

    file: str
    """The file as it was named, or the option or variable that the setting came from."""
    line: int
    """Counted from 1; 0 where there is no line."""
    column: int
    """Counted from 1; 0 where there is no line."""
    path: str
    """The setting, as `upstreams.openai.key` or `policies[0].match.team[1]`."""
    message: str
    """What is wrong."""
    hint: str = ""
    """What would be right."""
    severity: Literal["error", "warning"] = "error"
    """A warning does not stop anything."""

    @property
    def where(self) -> str:
        """`file:line:column`, which terminals and editors turn into a link."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def __str__(self) -> str:
        subject = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.where}: {self.severity}: {subject}{self.message}{hint}"


class ConfigurationError(Exception):
    """The files can't be used. `problems` holds every finding, warnings included, in the order of the files.

    `watched` names the files that were read, so that correcting one of them can be noticed.
    """

    def __init__(self, problems: Sequence[Problem], watched: Sequence[Path] = ()) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
        self.watched = tuple(watched)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The findings that stopped it."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def written(location: Iterable[str | int]) -> str:
    """A location as people write it; keys that hold dots or spaces are quoted."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _PLAIN.fullmatch(part) else f'"{part}"')
    return text


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant: letter case and the choice of - or _ don't count."""
    folded = {_folded(candidate): candidate for candidate in names}
    found = get_close_matches(_folded(name), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def suggestion(name: str, names: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest one, else the ones there are (where they are few)."""
    known = sorted(set(names))
    close = nearest(name, known)
    if close is not None:
        return f"did you mean {close}?"
    if not known:
        return "there are none"
    return f"known: {', '.join(known)}" if len(known) <= 24 else ""


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")
