"""Policy files put together: each include in its place, then what overlays change.

Rules: nothing is checked here but the form of includes and overlays; entries are checked afterwards, whole
(`proxy.config.entries`). An included file is a policy file like any other; without a time zone of its own it has that
of the file that includes it. An overlay's key replaces the policy's key of that name, whole. An error of a part that
comes from another file is shown in that file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from proxy.config import checks
from proxy.config.policies import OverlayFile, PolicyFile
from proxy.config.problems import Location, suggestion
from proxy.config.reading import Reading, absolute, validated
from proxy.config.source import Source

KEPT = ("use", "name")
"""What an overlay can't change: which policy it is."""


class Written(NamedTuple):
    """An entry as it stands in a file."""

    source: Source
    number: int
    zone: str

    @property
    def value(self) -> Any:
        """What was written, with what overlays changed of it."""
        return self.source.data["policies"][self.number]

    @property
    def name(self) -> str:
        """What it will be called, if it is right."""
        named = (self.value.get("name") or self.value.get("use")) if isinstance(self.value, dict) else None
        return named if isinstance(named, str) else ""


class Together:
    """The files of one chain: what each says besides its entries, and all entries in their order."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.heads: list[tuple[Source, PolicyFile]] = []
        self.written: list[Written] = []

    def file(self, path: Path, shown: str, asked_by: tuple[Source, Location]) -> None:
        """Add a file that the deployment file names, and all that it includes."""
        self._file(path, shown, asked_by, "UTC", ())

    def overlay(self, path: Path, shown: str, asked_by: tuple[Source, Location]) -> None:
        """Change the entries that an overlay names. All files must have been added."""
        source = self.reading.file(path, shown, asked_by, places=True)
        if source.data is None or validated(OverlayFile, source, _given(source.data)) is None:
            return
        by_name: dict[str, list[Written]] = {}
        for one in self.written:
            by_name.setdefault(one.name, []).append(one)
        for name, changes in source.data.get("policies", {}).items():
            if name not in by_name:
                message, hint = f"there is no policy named {name!r}", suggestion(name, by_name)
                source.report(("policies", name), message, hint, at_key=True)
            for one in by_name.get(name, ()):
                _change(one, source, name, changes)

    def _file(
        self, path: Path, shown: str, asked_by: tuple[Source, Location], zone: str, above: tuple[Path, ...]
    ) -> None:
        source = self.reading.file(path, shown, asked_by, places=True)
        if source.data is None:
            return
        checks.empty_values(source, but="policies")
        listed = source.data.get("policies") if isinstance(source.data, dict) else None
        entries = listed if isinstance(listed, list) else []
        data = _given(source.data)
        head = validated(PolicyFile, source, {**data, "policies": []} if isinstance(listed, list) else data)
        if head is not None:
            self.heads.append((source, head))
            zone = head.time_zone if "time_zone" in head.model_fields_set else zone
        for index, value in enumerate(entries):
            if isinstance(value, dict) and "include" in value:
                self._include(source, index, value, zone, (*above, path.resolve()))
            else:
                self.written.append(Written(source, index, zone))

    def _include(self, source: Source, index: int, value: dict[str, Any], zone: str, above: tuple[Path, ...]) -> None:
        location: Location = ("policies", index, "include")
        for name in value.keys() - {"include"}:
            hint = "a file is included as it is; an overlay changes its policies"
            source.report((*location[:-1], name), "can't stand beside include", hint, at_key=True)
        named = value["include"]
        if not isinstance(named, str):
            source.report(location, "names no policy file", "write include: path", at_key=True)
            return
        base = Path(source.file).parent
        path = absolute(base, named)
        if path.resolve() in above:
            source.report(location, f"{named} includes itself: {_circle(above, path)}", "leave one of these out")
            return
        self._file(path, str(base / named), (source, location), zone, above)


def _circle(above: Sequence[Path], path: Path) -> str:
    around = [*above[above.index(path.resolve()) :], path]
    return " ▸ ".join(one.name for one in around)


def _change(written: Written, source: Source, name: str, changes: dict[str, Any]) -> None:
    for key in changes:
        there: Location = ("policies", name, key)
        if key in KEPT:
            source.report(there, "an overlay can't change it", "change it in the policy file", at_key=True)
        else:
            written.source.replace(("policies", written.number, key), source, there)


def _given(data: Any) -> Any:
    return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data
