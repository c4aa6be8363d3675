"""One run over the files: reads each, notes what is wrong, remembers which files the result depends on.

Rules: the only place that opens configuration files. A file that can't be read is a problem where it was named.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from proxy.config.files import with_links
from proxy.config.findings import note
from proxy.config.problems import Location, Problem, nearest
from proxy.config.scalars import FROM_FILE
from proxy.config.source import Source, read

M = TypeVar("M", bound=BaseModel)


class Reading:
    """The files read so far, their problems, and all paths to watch."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.sources: list[Source] = []
        self.watched: dict[Path, None] = {}

    def file(
        self,
        path: Path,
        shown: str,
        asked_by: tuple[Source, Location] | None = None,
        *,
        before: Source | None = None,
        places: bool = False,
    ) -> Source:
        """Read one YAML file, which errors will call `shown`; `before` if it says what that said."""
        self.watch(path)
        try:
            content = path.read_bytes()
            same = (
                before is not None and before.file == shown and before.plain == content.decode("utf-8-sig", "replace")
            )
            source = before if before is not None and same else read(shown, content, self.env, places=places)
        except OSError as error:
            source = Source(shown)
            place, location = asked_by or (source, ())
            place.report(location, f"can't read {shown}: {reason(error)}", similar(path))
        self.sources.append(source)
        return source

    def text(self, path: Path, shown: str, source: Source, location: Location) -> str | None:
        """The text of a small file, such as a key's."""
        self.watch(path)
        try:
            return path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            source.report(location, f"can't read {shown}: {reason(error)}", similar(path))
            return None

    def existing(self, path: Path, shown: str, source: Source, location: Location) -> None:
        """A file that something else will read later must be there already."""
        self.watch(path)
        if not path.is_file():
            source.report(location, f"there is no file {shown}", similar(path))

    def watch(self, path: Path) -> None:
        """Changes of this file change the configuration."""
        self.watched.update(dict.fromkeys(with_links(path)))

    def problems(self) -> list[Problem]:
        """What was found, file by file, from the top; each finding once."""
        found: dict[Problem, None] = {}
        for source in self.sources:
            found.update(dict.fromkeys(sorted(source.problems, key=lambda problem: (problem.line, problem.column))))
        return list(found)


def validated(model: type[M], source: Source, data: Any, location: Location = (), also: Iterable[str] = ()) -> M | None:
    """The model, or None where it has errors; those are noted."""
    try:
        return model.model_validate(data, context=FROM_FILE)
    except ValidationError as error:
        note(error, source, model, location, also)
        return None


def absolute(base: Path, name: str) -> Path:
    """The path of a name in a file of `base`; links are kept, since they may be swapped."""
    return Path(os.path.normpath(Path.cwd() / base / Path(name).expanduser()))


def reason(error: Exception) -> str:
    """Why a file can't be read."""
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return "it isn't UTF-8 text"


def similar(path: Path) -> str:
    """A file beside it that was probably meant."""
    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        return ""
    close = nearest(path.name, names)
    return f"did you mean {close}?" if close and close != path.name else ""
