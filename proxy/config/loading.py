"""Loads the files: reads, checks, resolves; all problems of all files at once.

Rules: only the supervisor and the command line come here. The order is: deployment file, teams file, policy files,
then what only shows in all of them together (`proxy.config.checks`, `proxy.config.neighbours`). A file with errors
doesn't hide those of the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from proxy.config import checks, neighbours
from proxy.config.configuration import Configuration
from proxy.config.deployment import DeploymentFile
from proxy.config.entries import ENVELOPE, Entries
from proxy.config.neighbours import Placed
from proxy.config.policies import Honour, PolicyEntry, PolicyFile, digest
from proxy.config.problems import ConfigurationError, Location
from proxy.config.reading import Reading, absolute, validated
from proxy.config.registry import Registry, installed
from proxy.config.resolving import Resolving
from proxy.config.source import Source
from proxy.config.teams import TeamsFile
from proxy.config.together import Together

OPENAI = "https://api.openai.com/v1"


def find(env: Mapping[str, str], directory: Path | None = None) -> Path | None:
    """The deployment file where none was named: $WEIR_CONFIG, ./weir.yaml, /etc/weir/weir.yaml; None without any."""
    if named := env.get("WEIR_CONFIG"):
        return Path(named)
    candidates = [(directory or Path()) / "weir.yaml", Path("/etc/weir/weir.yaml")]
    return next((path for path in candidates if path.is_file()), None)


def load(
    path: Path | str | None,
    env: Mapping[str, str] | None = None,
    *,
    registry: Registry | None = None,
    overrides: Mapping[str, Any] | None = None,
    kept: Kept | None = None,
) -> Configuration:
    """The configuration of a deployment file, or the default one without a file.

    `overrides` replace top-level settings and win over $WEIR_LISTEN, $WEIR_OPS, $WEIR_ADMIN and $WEIR_WORKERS, which
    win over the file. Of `kept`, which the load before has left, what is as it was is taken over. Raises
    `ConfigurationError` with every problem of every file.
    """
    if path is None:
        return default_configuration(env, registry=registry, overrides=overrides)
    reading = Reading(os.environ if env is None else env)
    source = reading.file(Path(path), str(path))
    return _finish(reading, source, str(path), registry, overrides or {}, kept)


def default_configuration(
    env: Mapping[str, str] | None = None,
    upstream_url: str | None = None,
    demo_url: str | None = None,
    *,
    registry: Registry | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Configuration:
    """Without a file: everything goes to `demo_url`, else `upstream_url`, else $UPSTREAM, else OpenAI.

    The client's own key passes through, unless $UPSTREAM_API_KEY is set.
    """
    reading = Reading(os.environ if env is None else env)
    url = demo_url or upstream_url or reading.env.get("UPSTREAM") or OPENAI
    name = "demo" if demo_url else "openai" if url == OPENAI else "upstream"
    upstream = {"url": url}
    source = Source("(no file)", data={"version": 1, "upstreams": {name: upstream}})
    if reading.env.get("UPSTREAM_API_KEY") and not demo_url:
        upstream["key"] = reading.env["UPSTREAM_API_KEY"]
        source.raw["upstreams", name, "key"] = "${UPSTREAM_API_KEY}"
    source.elsewhere["upstreams"] = "--upstream" if upstream_url else "UPSTREAM"
    reading.sources.append(source)
    return _finish(reading, source, None, registry, overrides or {})


class Teams(NamedTuple):
    """A teams file, and what it was made of."""

    file: TeamsFile
    source: Source
    digest: str


@dataclass
class Kept:
    """What one load leaves to the next: the policies that are installed, and a teams file in which nothing is wrong,
    since thousands of keys that are as they were need not be read again."""

    registry: Registry | None = None
    teams: Teams | None = None


class _Chain(NamedTuple):
    entries: list[PolicyEntry]
    honour: Honour
    time_zone: str


def _finish(
    reading: Reading,
    source: Source,
    file: str | None,
    registry: Registry | None,
    overrides: Mapping[str, Any],
    kept: Kept | None = None,
) -> Configuration:
    kept = Kept() if kept is None else kept
    kept.registry = registry or kept.registry or installed()
    base = Path(file).parent if file else Path()
    if isinstance(source.data, dict):  # files that the command line names are read like those that the file names
        source.data |= {name: named for name, named in overrides.items() if name in ("policies", "teams")}
    checks.empty_values(source)
    resolved = Resolving(reading, source, base).deployment(overrides)
    found = _teams(reading, source, base, kept)
    teams = found and found.file
    entries = Entries(kept.registry, reading)
    chain = _chain(reading, source, base, entries)
    resolved["keys"] = checks.key_mode(source, resolved, teams, reading.env)
    written = isinstance(source.data, dict)
    deployment = validated(DeploymentFile, source, resolved if written else source.data) if source.readable else None
    if written:
        checks.deployment(source, source.data, deployment)
        neighbours.check(entries.placed, entries.modules, resolved.get("models"), teams)
    problems = reading.problems()
    if deployment is None or any(problem.severity == "error" for problem in problems):
        raise ConfigurationError(problems, tuple(reading.watched))
    return _configuration(reading, deployment, chain, entries.placed, found, file)


def _teams(reading: Reading, deployment: Source, base: Path, kept: Kept) -> Teams | None:
    before, kept.teams = kept.teams, None
    named = deployment.data.get("teams") if isinstance(deployment.data, dict) else None
    if not isinstance(named, str):
        return None
    asked_by: tuple[Source, Location] = (deployment, ("teams",))
    old = None if before is None else before.source
    source = reading.file(absolute(base, named), str(base / named), asked_by, before=old)
    if before is not None and source is before.source:
        kept.teams = before
        return before
    checks.empty_values(source)
    found = validated(TeamsFile, source, source.data) if source.data is not None else None
    if found is None:
        return None
    checks.teams(source, found)
    teams = Teams(found, source, digest(found.model_dump(mode="json")))
    kept.teams = None if source.problems else teams
    return teams


def _chain(reading: Reading, deployment: Source, base: Path, entries: Entries) -> _Chain:
    """The entries of all policy files in their order, as overlays leave them."""
    together = Together(reading)
    for location, named in _files(deployment.data, "policies"):
        together.file(absolute(base, named), str(base / named), (deployment, location))
    for location, named in _files(deployment.data, "overlays"):
        together.overlay(absolute(base, named), str(base / named), (deployment, location))
    entries.place(together.written)
    found = together.heads
    return _Chain(
        [placed.entry for placed in entries.placed],
        _honour(found, entries),
        found[0][1].time_zone if found else "UTC",
    )


def _honour(found: Sequence[tuple[Source, PolicyFile]], entries: Entries) -> Honour:
    """What one of the files says; they may not differ."""
    said = [(source, file.honour) for source, file in found if file.honour is not None]
    for source, honour in said:
        neighbours.honoured(source, entries.placed, honour)
        if honour != said[0][1]:
            source.report(("honour",), "differs from an earlier policy file's", "say it in one file", at_key=True)
    return said[0][1] if said else Honour()


def _files(data: Any, key: str) -> Sequence[tuple[Location, str]]:
    named = data.get(key) if isinstance(data, dict) else None
    if isinstance(named, str):
        return [((key,), named)]
    listed = named if isinstance(named, list) else []
    return [((key, index), name) for index, name in enumerate(listed) if isinstance(name, str)]


def _configuration(
    reading: Reading,
    deployment: DeploymentFile,
    chain: _Chain,
    placed: Sequence[Placed],
    teams: Teams | None,
    file: str | None,
) -> Configuration:
    policies = [entry.model_dump(mode="json") for entry in chain.entries]
    rest = [chain.honour.model_dump(mode="json"), chain.time_zone]
    return Configuration(
        deployment=deployment,
        policies=tuple(chain.entries),
        honour=chain.honour,
        time_zone=chain.time_zone,
        teams=teams and teams.file,
        file=file,
        hash=digest([deployment.model_dump(mode="json"), policies, rest, teams and teams.digest]),
        policy_hash=digest([policies, rest]),
        watched=tuple(reading.watched),
        warnings=tuple(reading.problems()),
        references=_references(reading.sources, placed),
    )


def _references(sources: Sequence[Source], placed: Sequence[Placed]) -> dict[str, str]:
    """Where the resolved configuration holds text from the environment, and how that was written."""
    positions = {(id(one.source), one.location): index for index, one in enumerate(placed)}
    found: dict[str, str] = {}
    for number, source in enumerate(sources):
        for location, raw in source.raw.items():
            position = positions.get((id(source), location[:2]))
            if number and position is None and location[0] == "policies":
                continue  # of an overlay: it stands with the entry that it changes
            found["\0".join(map(str, _resolved_location(location, number == 0, position)))] = raw
    return found


def _resolved_location(location: Location, deployment: bool, position: int | None) -> Location:
    if deployment:
        return ("deployment", *location)
    if position is not None and len(location) > 2:
        _, _, name, *rest = location
        inner: Location = (name, *rest) if name in ENVELOPE else ("options", name, *rest)
        return ("policies", position, *inner)
    return ("teams", *location)
