"""What only shows in the files together, or in several settings at once.

Rules: each check reads values, reports problems at their places, and changes nothing. Names are checked on the raw data
too, so that a wrong setting elsewhere doesn't hide a wrong name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from proxy.config.deployment import DeploymentFile
from proxy.config.globs import is_glob
from proxy.config.policies import Honour, PolicyEntry
from proxy.config.problems import Location, nearest, suggestion
from proxy.config.registry import PolicyModule, order_of
from proxy.config.scalars import Address, address
from proxy.config.source import Source
from proxy.config.teams import TeamsFile


def empty_values(source: Source, under: Location = (), only: Collection[object] | None = None) -> None:
    """A key without a value is a slip: under `match` it would quietly match everything."""
    policies = isinstance(source.data, dict) and isinstance(source.data.get("policies"), list)
    for location in source.keys:
        if location[: len(under)] != under or _at(source.data, location) is not None:
            continue
        inner = location[len(under) :]
        if only is not None and inner[0] not in only:
            continue
        if only is None and policies and location[0] == "policies":
            continue  # options of a policy: its own Config knows whether null means something
        source.report(location, "has no value", "give it one, or leave the key out", at_key=True)


def key_mode(source: Source, data: Mapping[str, Any], teams: TeamsFile | None, env: Mapping[str, str]) -> Any:
    """`open` or `required` as written, else by what is declared; a public address never stays open."""
    written, declared = data.get("keys"), bool(teams and teams.keys)
    container = env.get("WEIR_CONTAINER") == "1"
    listen = _address(data.get("listen"))
    if listen is None or listen.loopback:
        return written or ("required" if declared else "open")
    if written == "open":
        source.report(
            ("keys",),
            f"{listen} can be reached from outside, and anyone could use it",
            "write keys: required, or listen on 127.0.0.1",
        )
    elif written is None and not declared and not container:
        source.report(
            ("listen",),
            f"{listen} can be reached from outside, and there are no keys",
            "write keys: required and make one with `weir keys create`, or listen on 127.0.0.1",
        )
    return written or "required"


def deployment(source: Source, data: dict[str, Any], checked: DeploymentFile | None) -> None:
    """Names of upstreams, and settings that don't go together."""
    upstreams = data.get("upstreams")
    if isinstance(upstreams, dict):
        used = _upstreams_named(source, data, upstreams)
        for name in upstreams.keys() - used if isinstance(data.get("models"), dict) else ():
            source.report(("upstreams", name), "no model uses it", at_key=True, warning=True)
    for name in ("state", "ledger"):
        _inline_password(source, data, name)
    if checked is not None:
        _listeners(source, checked)
        for name in checked.upstreams:
            _upstream(source, checked, name)
        _prices(source, checked)


def teams(source: Source, found: TeamsFile) -> None:
    """Organisations, teams and projects that are named exist; ids and hashes are there once."""
    for name, team in found.teams.items():
        if team.org is not None and team.org not in found.orgs:
            source.report(("teams", name, "org"), f"there is no org {team.org!r}", suggestion(team.org, found.orgs))
    for name, project in found.projects.items():
        if project.team not in found.teams:
            source.report(
                ("projects", name, "team"), f"there is no team {project.team!r}", suggestion(project.team, found.teams)
            )
    for kind in ("id", "sha256"):
        counts = Counter(getattr(key, kind) for key in found.keys)
        for index, key in enumerate(found.keys):
            if counts[getattr(key, kind)] > 1:
                source.report(("keys", index, kind), "is there more than once", "give each key its own")
    for index, key in enumerate(found.keys):
        _key(source, found, index, key.team, key.project)


def chain(
    sources: Sequence[Source],
    entries: Sequence[PolicyEntry],
    modules: Mapping[str, PolicyModule],
    data: Mapping[str, Any],
    teams: TeamsFile | None,
    honour: Honour,
) -> None:
    """Names are there once; the order does no harm; conditions can be met."""
    places = _places(sources)
    _unique_names(entries, places)
    _orders(entries, modules, places)
    _offered_models(entries, places, data)
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


def _offered_models(entries: Sequence[PolicyEntry], places: Places, data: Mapping[str, Any]) -> None:
    models = data.get("models")
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


def _upstreams_named(source: Source, data: dict[str, Any], upstreams: dict[str, Any]) -> set[str]:
    used: set[str] = set()
    models = data.get("models")
    for name, model in models.items() if isinstance(models, dict) else ():
        for location, upstream in _references(name, model):
            used.add(upstream)
            if upstream not in upstreams:
                source.report(location, f"there is no upstream {upstream!r}", suggestion(upstream, upstreams))
    return used


def _references(name: str, model: Any) -> Iterable[tuple[Location, str]]:
    if not isinstance(model, dict):
        return
    if isinstance(model.get("upstream"), str):
        yield ("models", name, "upstream"), model["upstream"]
    listed = model.get("deployments")
    for index, one in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(one, dict) and isinstance(one.get("upstream"), str):
            yield ("models", name, "deployments", index, "upstream"), one["upstream"]


def _listeners(source: Source, found: DeploymentFile) -> None:
    if found.admin is not None and not found.admin.loopback:
        source.report(("admin",), f"{found.admin} can be reached from outside", "the admin address stays on 127.0.0.1")
    taken: dict[Address, str] = {}
    for name, bind in (("listen", found.listen), ("ops", found.ops), ("admin", found.admin)):
        if bind is None or bind.port == 0:
            continue
        if bind in taken:
            source.report((name,), f"{bind} is taken by {taken[bind]}", "give it another port")
        taken.setdefault(bind, name)


def _upstream(source: Source, found: DeploymentFile, name: str) -> None:
    upstream, location = found.upstreams[name], ("upstreams", name)
    parts = urlsplit(upstream.url)
    if not parts.path:
        source.report(
            (*location, "url"),
            "the address has no version",
            f"most servers answer under {upstream.url}/v1",
            warning=True,
        )
    if upstream.auth == "none" and upstream.key is not None:
        source.report((*location, "auth"), "none sends no key, but there is one", "leave out one of the two")
    if parts.scheme == "http" and upstream.key is not None and not Address(parts.hostname or "", 0).loopback:
        source.report((*location, "url"), "the key would travel unencrypted", "use https", warning=True)


def _inline_password(source: Source, data: Mapping[str, Any], name: str) -> None:
    value = data.get(name)
    if isinstance(value, str) and (name,) not in source.raw and "@" in value and urlsplit(value).password:
        source.report(
            (name,), "a password can't be written into the file", "take it from the environment: user:${NAME}@host"
        )


def _prices(source: Source, found: DeploymentFile) -> None:
    for name, prices in found.prices.items():
        for index, price in enumerate(prices):
            location: Location = ("prices", name, index)
            if (price.gpu_hour is None) != (price.tokens_per_gpu_hour is None):
                source.report(location, "gpu_hour and tokens_per_gpu_hour belong together", "give both")
            if not price.model_fields_set - {"effective_from"}:
                source.report(location, "says no price", "input: 2.50 is USD per million tokens")


def _key(source: Source, found: TeamsFile, index: int, team: str | None, project: str | None) -> None:
    location: Location = ("keys", index)
    if team is not None and team not in found.teams:
        source.report((*location, "team"), f"there is no team {team!r}", suggestion(team, found.teams))
    if project is not None and project not in found.projects:
        source.report((*location, "project"), f"there is no project {project!r}", suggestion(project, found.projects))
    elif project is not None and team is not None and found.projects[project].team != team:
        owner = found.projects[project].team
        source.report(
            (*location, "project"), f"the project {project} belongs to {owner}, not to {team}", "leave out the team"
        )


def _meet(pattern: str, offered: str) -> bool:
    """Whether some name falls under both; two patterns are given the benefit of the doubt."""
    if is_glob(pattern) and is_glob(offered):
        return True
    return fnmatchcase(offered, pattern) or fnmatchcase(pattern, offered)


def _address(value: Any) -> Address | None:
    """The listen address, or None where it is left out or wrong (which is reported elsewhere)."""
    try:
        found = address(value) if value is not None else None
    except (PydanticCustomError, ValidationError):
        return None
    return found if isinstance(found, Address) else None


def _at(data: Any, location: Location) -> Any:
    for part in location:
        if isinstance(data, dict):
            data = data.get(str(part))
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


__all__ = ["chain", "deployment", "empty_values", "key_mode", "nearest", "teams"]
