"""The configuration: everything that the files say, checked and resolved.

Rules: the supervisor makes it (`proxy.config.loading`); a worker gets its JSON and reads no file. `model_dump_json()`
and `model_validate_json()` give the same configuration, keys of upstreams included, so that JSON goes to workers and
nowhere else: people see `shown()`, in which keys and everything that came from the environment appear as they were
written.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import Field

from proxy.config.deployment import DeploymentFile
from proxy.config.globs import globs
from proxy.config.policies import Honour, PolicyEntry, Zone
from proxy.config.problems import Problem
from proxy.config.strict import Strict
from proxy.config.teams import TeamsFile
from proxy.config.upstreams import Model

MASK = "•••"


class Configuration(Strict):
    """What the files say. Equal content has an equal `hash`."""

    deployment: DeploymentFile
    """Where things are."""
    policies: tuple[PolicyEntry, ...] = ()
    """The chain, outermost first."""
    honour: Honour = Honour()
    """Which request headers of clients have a say."""
    time_zone: Zone = "UTC"
    """The zone of calendar days and months: that of the first policy file."""
    teams: TeamsFile | None = None
    """Who is who."""
    file: str | None = None
    """The deployment file as it was named; None where there is none."""
    hash: str = ""
    """Changes when anything changes that the program acts on."""
    policy_hash: str = ""
    """Changes when the chain changes."""
    watched: tuple[Path, ...] = ()
    """Every file that was read, links on the way to it included."""
    warnings: tuple[Problem, ...] = ()
    """What works but probably isn't meant."""
    references: dict[str, str] = Field(default={}, repr=False)
    """Settings that came from the environment, as they were written."""

    @property
    def zone(self) -> ZoneInfo:
        """The zone of calendar days and months."""
        return ZoneInfo(self.time_zone)

    @cached_property
    def _patterns(self) -> tuple[tuple[str, Any], ...]:
        return tuple((pattern, globs([pattern])) for pattern in self.deployment.patterns())

    def model_for(self, name: str) -> tuple[str, Model] | None:
        """The offered name or pattern that a client's model falls under, and where it runs: an exact name first,
        then the pattern with the longest fixed beginning."""
        models = self.deployment.models
        if name in models:
            return name, models[name]
        for pattern, matches in self._patterns:
            if matches(name):
                return pattern, models[pattern]
        return None

    def shown(self) -> dict[str, Any]:
        """All of it for people, without secrets."""
        shown = self.model_dump(mode="json", exclude={"references", "watched", "warnings"})
        for upstream in shown["deployment"]["upstreams"].values():
            if upstream["key"] is not None:
                upstream["key"] = _source_of(upstream["key"])
            upstream["keys"] = [_source_of(key) for key in upstream["keys"]]
            upstream["headers"] = dict.fromkeys(upstream["headers"], MASK)
        for path, text in self.references.items():
            _put(shown, path.split("\0"), text)
        return shown

    def __repr__(self) -> str:
        policies = ", ".join(entry.name for entry in self.policies)
        upstreams = ", ".join(self.deployment.upstreams)
        return f"<Configuration {self.hash} {self.file or '(no file)'} upstreams=[{upstreams}] policies=[{policies}]>"

    __str__ = __repr__


def _source_of(key: dict[str, Any]) -> Any:
    return f"${{{key['env']}}}" if key["env"] else {"file": key["file"]}


def _put(tree: Any, path: list[str], text: str) -> None:
    for part in path[:-1]:
        tree = tree[int(part)] if isinstance(tree, list) else tree.get(part, {})
    if isinstance(tree, list):
        tree[int(path[-1])] = text
    elif path[-1] in tree:
        tree[path[-1]] = text
