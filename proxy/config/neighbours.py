"""How the policies of a chain go together, and with the models and teams that they name.

Rules: most of it is warnings, since a condition that no request can meet harms nobody. No policy is named here:
harmful orders are known by the policies themselves (`ORDER`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from proxy.config.globs import is_glob
from proxy.config.policies import Honour, PolicyEntry
from proxy.config.problems import Location, suggestion
from proxy.config.registry import PolicyModule, order_of
from proxy.config.source import Source
from proxy.config.teams import TeamsFile
from proxy.endpoints import all_endpoints


class Placed(NamedTuple):
    """An entry of the chain and where it is written."""

    entry: PolicyEntry
    source: Source
    location: Location

    def warn(self, message: str, hint: str, inner: Location = ()) -> None:
        """Note what is probably not meant."""
        self.source.report((*self.location, *inner), message, hint, warning=True)


def check(chain: Sequence[Placed], modules: Mapping[str, PolicyModule], models: Any, teams: TeamsFile | None) -> None:
    """Names are there once; the order does no harm; conditions can be met. `modules` are the policies', by `use`."""
    _unique_names(chain)
    _orders(chain, modules)
    _known(chain, "endpoint", [endpoint.name for endpoint in all_endpoints()], "there is no endpoint {!r}")
    if isinstance(models, dict) and "*" not in models:
        _known(chain, "model", models, "no model is offered as {!r}")
        _chosen(chain, modules, models)
    if teams is not None:
        _known(chain, "team", teams.teams, "there is no team {!r}")
        _known(chain, "project", teams.projects, "there is no project {!r}")


def honoured(source: Source, chain: Sequence[Placed], honour: Honour) -> None:
    """Only policies of the chain can be skipped."""
    names = {placed.entry.name for placed in chain}
    for index, name in enumerate(honour.bypass):
        if name not in names:
            hint = suggestion(name, names)
            source.report(("honour", "bypass", index), f"there is no policy named {name!r}", hint, warning=True)


def _unique_names(chain: Sequence[Placed]) -> None:
    first: dict[str, PolicyEntry] = {}
    for entry, source, location in chain:
        if entry.name in first:
            hint = f"give one of them another, as name: {entry.name}-2"
            source.report(location, f"the name {entry.name} is taken by {first[entry.name].source}", hint)
        first.setdefault(entry.name, entry)


def _orders(chain: Sequence[Placed], modules: Mapping[str, PolicyModule]) -> None:
    for position, placed in enumerate(chain):
        order = order_of(modules[placed.entry.use])
        for other in chain[:position]:
            if other.entry.use in order.outside:
                _misplaced(placed, "before", other, order.why)
        for other in chain[position + 1 :]:
            if other.entry.use in order.inside:
                _misplaced(placed, "after", other, order.why)


def _misplaced(placed: Placed, side: str, other: Placed, why: str) -> None:
    reason = f": {why}" if why else ""
    message = f"{placed.entry.use} belongs {side} {other.entry.use} ({other.entry.source}){reason}"
    placed.warn(message, "the first is the outermost")


def _known(chain: Sequence[Placed], kind: str, names: Iterable[str], message: str) -> None:
    """Patterns of a condition that none of the names can meet."""
    plain = frozenset(names)
    met: dict[str, bool] = {}  # hundreds of policies may name hundreds of teams
    for placed in chain:
        for side in ("match", "unless"):
            for index, pattern in enumerate(getattr(getattr(placed.entry, side), kind) or ()):
                if pattern not in met:
                    met[pattern] = pattern in plain or any(_meet(pattern, name) for name in names)
                if not met[pattern]:
                    placed.warn(message.format(pattern), suggestion(pattern, names), (side, kind, index))


def _chosen(chain: Sequence[Placed], modules: Mapping[str, PolicyModule], models: Iterable[str]) -> None:
    """Models that a policy's options send requests to: its module's `names(config)` says which, and where."""
    for placed in chain:
        module = modules[placed.entry.use]
        named = getattr(module, "names", None)
        for inner, model in () if named is None else named(module.Config.model_validate(placed.entry.options)):
            if not any(_meet(pattern, model) for pattern in models):
                placed.warn(f"no model is offered as {model!r}", suggestion(model, models), inner)


def _meet(pattern: str, offered: str) -> bool:
    """Whether some name falls under both; two patterns are given the benefit of the doubt."""
    if is_glob(pattern) and is_glob(offered):
        return True
    return fnmatchcase(offered, pattern) or fnmatchcase(pattern, offered)
