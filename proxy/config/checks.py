"""What only shows in the files together, or in several settings at once.

Rules: each check reads values, reports problems at their places, and changes nothing. Names are checked on the raw
data too, so that a wrong setting elsewhere doesn't hide a wrong name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from proxy.config.deployment import DeploymentFile
from proxy.config.issuers import Issuer
from proxy.config.problems import Location, suggestion
from proxy.config.scalars import Address, address
from proxy.config.source import Source
from proxy.config.teams import TeamsFile


def empty_values(
    source: Source, under: Location = (), only: Collection[object] | None = None, but: str | None = None
) -> None:
    """A key without a value is a slip: under `match` it would quietly match everything.

    `only` names the keys at `under` that are looked into, `but` one that isn't.
    """
    for location in _empty(_at(source.data, under), under):
        inner = location[len(under)]
        if inner != but and (only is None or inner in only):
            source.report(location, "has no value", "give it one, or leave the key out", at_key=True)


def _empty(data: Any, location: Location) -> Iterator[Location]:
    """Where a key has none, in the order of the file."""
    if isinstance(data, dict):
        for name, value in data.items():
            if value is None:
                yield (*location, name)
            elif isinstance(value, dict | list):
                yield from _empty(value, (*location, name))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            if isinstance(value, dict | list):
                yield from _empty(value, (*location, index))


def key_mode(source: Source, data: Mapping[str, Any], teams: TeamsFile | None, env: Mapping[str, str]) -> Any:
    """`open` or `required` as written, else by what is declared; a public address never stays open."""
    written, declared = data.get("keys"), bool(teams and (teams.keys or teams.issuers))
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
    for name, issuer in found.issuers.items():
        _issuer(source, found, name, issuer)
    for kind in ("id", "sha256"):
        counts = Counter(getattr(key, kind) for key in found.keys)
        for index, key in enumerate(found.keys):
            if counts[getattr(key, kind)] > 1:
                source.report(("keys", index, kind), "is there more than once", "give each key its own")
    for index, key in enumerate(found.keys):
        _key(source, found, index, key.team, key.project)


def _issuer(source: Source, found: TeamsFile, name: str, issuer: Issuer) -> None:
    location: Location = ("issuers", name)
    if find_spec("jwt") is None or find_spec("cryptography") is None:
        source.report(location, "tokens can't be checked here", "pip install 'weir-proxy[oidc]'", at_key=True)
    if any(other.url == issuer.url for key, other in found.issuers.items() if key != name):
        source.report((*location, "url"), "is there more than once", "give each issuer its own")
    if issuer.team is not None and issuer.team not in found.teams:
        source.report((*location, "team"), f"there is no team {issuer.team!r}", suggestion(issuer.team, found.teams))
    for value, team in issuer.teams.items():
        if team not in found.teams:
            source.report((*location, "teams", value), f"there is no team {team!r}", suggestion(team, found.teams))
    if issuer.teams and issuer.claims.team is None:
        source.report((*location, "teams"), "no claim says the team", "name it: claims: {team: groups}", at_key=True)
    if issuer.roles and issuer.claims.role is None:
        source.report((*location, "roles"), "no claim says the role", "name it: claims: {role: groups}", at_key=True)


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
    far = parts.scheme == "https" and not Address(parts.hostname or "", 0).loopback
    if found.keys == "required" and far and upstream.auth != "none" and not upstream.secrets:
        source.report(
            location,
            "it gets no key: with `keys: required` those of clients stay here",
            'write key: "${NAME}", or auth: none',
            at_key=True,
            warning=True,
        )
    if upstream.auth == "none" and upstream.secrets:
        source.report((*location, "auth"), "none sends no key, but there is one", "leave out one of the two")
    if parts.scheme == "http" and upstream.secrets and not Address(parts.hostname or "", 0).loopback:
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
            location = source.settle(("prices", name, index))
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
