"""How the policies of a chain go together, and with the models and teams that they name.

Rules: most of it is warnings, since a condition that no request can meet harms nobody. No policy is named here:
harmful orders are known by the policies themselves (`ORDER`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from proxy.config.globs import is_glob
from proxy.config.policies import Honour, PolicyEntry
from proxy.config.problems import Location, suggestion
from proxy.config.registry import PolicyModule, order_of
from proxy.config.source import Source
from proxy.config.teams import TeamsFile


def check(
    sources: Sequence[Source],
    entries: Sequence[PolicyEntry],
    modules: Mapping[str, PolicyModule],
    models: Any,
    teams: TeamsFile | None,
    honour: Honour,
) -> None:
    """Names are there once; the order does no harm; conditions can be met.

    `sources` are all files, the deployment file first; `modules` the policies' modules by `use`.
    """
    places = _places(sources)
    _unique_names(entries, places)
    _orders(entries, modules, places)
    _offered_models(entries, places, models)
    if teams is not None:
        _known_teams(entries, places, teams)
    for source in sources:
        _honoured(source, entries, honour)


Places = dict[str, tuple[Source, Location]]


def _places(sources: Sequence[Source]) -> Places:
    """Where each entry stands, by its `source`."""
    found: Places = {}
    for source in sources[1:]:
        listed = source.data.get("policies") if isinstance(source.data, dict) else None
        for index in range(len(listed) if isinstance(listed, list) else 0):
            location: Location = ("policies", index)
            found.setdefault(f"{source.file}:{source.values[location].line}", (source, location))
    return found


def _unique_names(entries: Sequence[PolicyEntry], places: Places) -> None:
    first: dict[str, PolicyEntry] = {}
    for entry in entries:
        if entry.name in first:
            source, location = places[entry.source]
            hint = f"give one of them another, as name: {entry.name}-2"
            source.report(location, f"the name {entry.name} is taken by {first[entry.name].source}", hint)
        first.setdefault(entry.name, entry)


def _orders(entries: Sequence[PolicyEntry], modules: Mapping[str, PolicyModule], places: Places) -> None:
    for position, entry in enumerate(entries):
        order = order_of(modules[entry.use])
        outer = {other.use: other for other in entries[:position]}
        inner = {other.use: other for other in entries[position + 1 :]}
        for use in order.outside:
            if use in outer:
                _misplaced(places, entry, "before", outer[use], order.why)
        for use in order.inside:
            if use in inner:
                _misplaced(places, entry, "after", inner[use], order.why)


def _misplaced(places: Places, entry: PolicyEntry, side: str, other: PolicyEntry, why: str) -> None:
    source, location = places[entry.source]
    reason = f": {why}" if why else ""
    source.report(
        location,
        f"{entry.use} belongs {side} {other.use} ({other.source}){reason}",
        "the first is the outermost",
        warning=True,
    )


def _offered_models(entries: Sequence[PolicyEntry], places: Places, models: Any) -> None:
    if not isinstance(models, dict) or "*" in models:
        return
    for entry in entries:
        for side in ("match", "unless"):
            for index, pattern in enumerate(getattr(entry, side).model or ()):
                if not any(_meet(pattern, name) for name in models):
                    source, location = places[entry.source]
                    source.report(
                        (*location, side, "model", index),
                        f"no model is offered as {pattern!r}",
                        suggestion(pattern, models),
                        warning=True,
                    )


def _known_teams(entries: Sequence[PolicyEntry], places: Places, teams: TeamsFile) -> None:
    known: dict[str, Iterable[str]] = {
        "team": teams.teams,
        "project": teams.projects,
    }
    for entry in entries:
        for side in ("match", "unless"):
            for kind, names in known.items():
                for index, pattern in enumerate(getattr(getattr(entry, side), kind) or ()):
                    if not any(fnmatchcase(name, pattern) for name in names):
                        source, location = places[entry.source]
                        source.report(
                            (*location, side, kind, index),
                            f"there is no {kind} {pattern!r}",
                            suggestion(pattern, names),
                            warning=True,
                        )


def _honoured(source: Source, entries: Sequence[PolicyEntry], honour: Honour) -> None:
    if ("honour", "bypass") not in source.keys:
        return
    names = {entry.name for entry in entries}
    for index, name in enumerate(honour.bypass):
        if name not in names:
            source.report(
                ("honour", "bypass", index), f"there is no policy named {name!r}", suggestion(name, names), warning=True
            )


def _meet(pattern: str, offered: str) -> bool:
    """Whether some name falls under both; two patterns are given the benefit of the doubt."""
    if is_glob(pattern) and is_glob(offered):
        return True
    return fnmatchcase(offered, pattern) or fnmatchcase(pattern, offered)
