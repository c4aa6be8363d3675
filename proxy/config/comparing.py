"""What one configuration does otherwise than another, in words.

Rules: pure; reads two checked configurations as people see them (`shown()`), so no secret can appear. Policies are told
apart by their names: one that is renamed is removed and added. Of an order that changed, as few policies as possible
are said to have moved.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from proxy.config.conditions import Conditions
from proxy.config.configuration import Configuration
from proxy.config.globs import globs
from proxy.config.policies import PolicyEntry

Kind = Literal["added", "removed", "moved", "changed", "setting"]
_IDENTITY: Final = ("team", "project", "key")
_SHARES: Final = ("rollout", "holdout")
_NAMED: Final = 8
_ELSEWHERE: Final = frozenset({"policies", "overlays", "teams", "home"})
"""Settings that only say where files are."""


class Change(NamedTuple):
    """One difference: of a policy, or of a setting (`name` is its path). `lines` say more."""

    kind: Kind
    name: str
    where: str
    lines: tuple[str, ...]


def compare(old: Configuration, new: Configuration) -> list[Change]:
    """All differences: policies from the outermost, then settings."""
    before, after = _Side(old), _Side(new)
    found = [_removed(before, name) for name in before.entries if name not in after.entries]
    moved = _moved([*before.entries], [*after.entries])
    for name in after.entries:
        if name not in before.entries:
            found.append(_added(after, name))
        else:
            found += _changed(before, after, name, moved.get(name, ()))
    return [*found, *_settings(old, new)]


class _Side:
    """A configuration with its policies by name."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.entries = {entry.name: entry for entry in configuration.policies}
        shown = configuration.shown()["policies"]
        self.shown: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in shown}

    def neighbours(self, name: str) -> str:
        """Where a policy stands."""
        names = [*self.entries]
        at = names.index(name)
        outer = f"inside {names[at - 1]}" if at else ""
        inner = f"outside {names[at + 1]}" if at + 1 < len(names) else ""
        return " and ".join(part for part in (outer, inner) if part) or "the only one"


def _added(side: _Side, name: str) -> Change:
    entry = side.entries[name]
    lines = [f"{entry.use}, {side.neighbours(name)}", *_values(side.shown[name]), *_whom(entry, side.configuration)]
    return Change("added", name, entry.source, tuple(lines))


def _removed(side: _Side, name: str) -> Change:
    entry = side.entries[name]
    lines = [f"{entry.use}, was {side.neighbours(name)}", *_whom(entry, side.configuration)]
    return Change("removed", name, entry.source, tuple(lines))


def _changed(before: _Side, after: _Side, name: str, passed: Sequence[str]) -> Iterator[Change]:
    old, new = before.entries[name], after.entries[name]
    if passed:
        yield Change("moved", name, new.source, tuple(passed))
    lines = [*_differences(_flat(before.shown[name]), _flat(after.shown[name]))]
    if not lines:
        return
    affected = [*_whom(new, after.configuration)]
    if (was := [*_whom(old, before.configuration)]) != affected:
        affected += [f"before: {line}" for line in was]
    yield Change("changed", name, new.source, (*lines, *affected))


def _moved(before: Sequence[str], after: Sequence[str]) -> dict[str, list[str]]:
    """Which policies changed places, and which others they passed."""
    common = [name for name in after if name in before]
    rank = {name: before.index(name) for name in common}
    found: dict[str, list[str]] = {}
    for name in set(common) - _longest_rising(common, rank):
        at = common.index(name)
        now_outside = [other for other in common[at + 1 :] if rank[other] < rank[name]]
        now_inside = [other for other in common[:at] if rank[other] > rank[name]]
        found[name] = [f"now outside {', '.join(now_outside)}, was inside"] * bool(now_outside)
        found[name] += [f"now inside {', '.join(now_inside)}, was outside"] * bool(now_inside)
    return found


def _longest_rising(names: Sequence[str], rank: Mapping[str, int]) -> set[str]:
    """The most names whose order is as it was (patience sorting)."""
    ends: list[int] = []
    piles: list[str] = []
    below: dict[str, str | None] = {}
    for name in names:
        pile = bisect_left(ends, rank[name])
        below[name] = piles[pile - 1] if pile else None
        ends[pile : pile + 1] = [rank[name]]
        piles[pile : pile + 1] = [name]
    kept: set[str] = set()
    last = piles[-1] if piles else None
    while last is not None:
        kept.add(last)
        last = below[last]
    return kept


def _whom(entry: PolicyEntry, configuration: Configuration) -> Iterator[str]:
    """Whom it applies to, in words; by the teams file also which teams those are."""
    if entry.mode == "off":
        yield "applies to nobody: mode is off"
        return
    words = [f"with {_conditions(entry.match)}"] * (not entry.match.empty)
    words += [f"except those with {_conditions(entry.unless)}"] * (not entry.unless.empty)
    share = f"{100 * entry.rollout:g}% of " if entry.rollout < 1 else ""
    held = f", {100 * entry.holdout:g}% held out" if entry.holdout else ""
    verb = "only observes" if entry.mode == "observe" else "applies to"
    yield f"{verb} {share}{'requests ' + ', '.join(words) if words else 'all requests'}{held}"
    if configuration.teams is not None and any(getattr(entry.match, name) for name in _IDENTITY):
        yield from _teams(entry.match, configuration)


def _teams(match: Conditions, configuration: Configuration) -> Iterator[str]:
    teams = configuration.teams
    assert teams is not None
    wanted = {name: globs(patterns) for name in _IDENTITY if (patterns := getattr(match, name)) is not None}
    met = [
        (teams.team_of(key.team, key.project), key.id)
        for key in teams.keys
        if all(
            holds(
                teams.team_of(key.team, key.project)
                if name == "team"
                else getattr(key, "id" if name == "key" else name)
            )
            for name, holds in wanted.items()
        )
    ]
    names = sorted(
        {team for team, _ in met if team}
        | {team for team in teams.teams if wanted.keys() == {"team"} and wanted["team"](team)}
    )
    listed = ", ".join(names[:_NAMED]) + f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)
    told = f"{len(names)} of {len(teams.teams)} teams{': ' + listed if names else ''}"
    yield f"that is {told}; {len(met)} of {len(teams.keys)} keys"


def _conditions(conditions: Conditions) -> str:
    named = {name: getattr(conditions, name) for name in type(conditions).model_fields}
    return " and ".join(
        f"{name.replace('_', ' ')} {_words(value)}" for name, value in named.items() if value is not None
    )


def _words(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " or ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _values(entry: Mapping[str, Any]) -> Iterator[str]:
    for path, value in _flat(entry).items():
        if path not in ("mode", *_SHARES) and not path.startswith(("match", "unless")):
            yield f"{path}: {_value(path, value)}"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for path in {**old, **new}:
        if old.get(path) != new.get(path):
            now = f"{_value(path, new[path])}" if path in new else "no longer given"
            yield f"{path}: {now} (was {_value(path, old[path]) if path in old else 'not given'})"


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's settings by their paths; those of the policy itself as they stand in the file."""
    envelope = {name: value for name, value in entry.items() if name not in ("options", "source", "name", "use")}
    found = _paths({"use": entry["use"], **envelope, **entry["options"]})
    found.pop("use")
    if found.get("time_zone") == "UTC" or not (entry["match"].get("time") or entry["unless"].get("time")):
        found.pop("time_zone", None)
    return {path: value for path, value in found.items() if value is not None}


def _paths(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        path = f"{above}.{name}" if above else str(name)
        if isinstance(inner, Mapping) and inner:
            found |= _paths(inner, path)
        elif inner != {}:
            found[path] = inner
    return found


def _value(path: str, value: Any) -> str:
    if path in _SHARES:
        return str(value).replace(".0%", "%")
    if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
        return ", ".join(map(str, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _settings(old: Configuration, new: Configuration) -> Iterator[Change]:
    sides = []
    for configuration in (old, new):
        shown = configuration.shown()
        deployment = {name: value for name, value in shown["deployment"].items() if name not in _ELSEWHERE}
        sides.append(_paths({"honour": shown["honour"], "time_zone": shown["time_zone"], **deployment}))
    before, after = ({path: value for path, value in side.items() if value is not None} for side in sides)
    for path in {**before, **after}:
        lines = [*_differences(_only(before, path), _only(after, path))]
        if lines:
            yield Change("setting", path, "", (lines[0].removeprefix(f"{path}: "),))


def _only(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {path: values[path]} if path in values else {}
