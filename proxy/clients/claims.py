"""What a token's claims say of a client: team, project, tags, role. Pure; the signature was checked before.

Rules: what isn't declared in the teams file is nobody's: a team or project that it doesn't name is refused (403), so
that no cost goes to an account that finance doesn't know. Names that a client's issuer chose freely are cut to what
fits into a header and a log line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from proxy.clients.keys import Role
from proxy.clients.names import group_name
from proxy.config.globs import globs
from proxy.config.issuers import Issuer
from proxy.config.teams import TeamsFile
from proxy.errors import PERMISSION, WeirError
from proxy.exchange import Identity

ROLES: Final[tuple[Role, ...]] = ("viewer", "finance", "operator")
_NAME: Final = re.compile(r"[\w.@:+/|=~-]{1,128}", re.ASCII)
_TAG: Final = re.compile(r"[^,;\x00-\x1f\x7f]{0,256}")


def claimed(claims: Mapping[str, Any], name: str) -> list[str]:
    """The values of a claim, as text: its name as it is, else the path to it."""
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    values = found if isinstance(found, list) else [found]
    return [_text(value) for value in values if isinstance(value, str | int | float)]


def identity_of(name: str, teams: TeamsFile, claims: Mapping[str, Any]) -> Identity:
    """Who the bearer of a good token is. Raises WeirError 403 where that is nobody here."""
    issuer = teams.issuers[name]
    _required(issuer, claims)
    project = _project(issuer, teams, claims)
    team = _team(issuer, teams, claims, project)
    account = teams.account(team, project)
    key = f"{name}:{_named(claimed(claims, issuer.claims.key))}"
    tags = {tag: value[0] for tag, path in issuer.claims.tags.items() if (value := claimed(claims, path))}
    good = {tag: value for tag, value in tags.items() if _TAG.fullmatch(value)}
    return Identity(
        tenant=group_name(account.org or "", team or "", project or "") or key,
        key=key,
        team=team,
        project=project,
        org=account.org,
        tags={**good, **issuer.tags, **account.tags},
        models=issuer.models,
    )


def role_of(issuer: Issuer, claims: Mapping[str, Any]) -> Role | None:
    """What the bearer may do on the admin listener: the most that a value of the claim may."""
    if issuer.claims.role is None:
        return None
    found = {issuer.roles[value] for value in claimed(claims, issuer.claims.role) if value in issuer.roles}
    return next((role for role in reversed(ROLES) if role in found), None)


def bearer_of(name: str, issuer: Issuer, claims: Mapping[str, Any]) -> str:
    """What the bearer is called."""
    return f"{name}:{_named(claimed(claims, issuer.claims.key))}"


def _required(issuer: Issuer, claims: Mapping[str, Any]) -> None:
    for path, wanted in issuer.require.items():
        matches = globs(wanted)
        if not any(matches(value) for value in claimed(claims, path)):
            raise _nobody(f"The token's claim `{path}` isn't what is required here.")


def _project(issuer: Issuer, teams: TeamsFile, claims: Mapping[str, Any]) -> str | None:
    values = claimed(claims, issuer.claims.project) if issuer.claims.project else []
    if not values:
        return None
    for value in values:
        if value in teams.projects:
            return value
    raise _nobody("The token's project isn't one of those that are known here.")


def _team(issuer: Issuer, teams: TeamsFile, claims: Mapping[str, Any], project: str | None) -> str | None:
    owner = teams.team_of(None, project)
    values = claimed(claims, issuer.claims.team) if issuer.claims.team else []
    if issuer.teams:
        meant = [team for value, team in issuer.teams.items() if value in values]
    else:
        meant = [value for value in values if value in teams.teams]
    if owner is not None and (not meant or owner in meant):
        return owner
    if owner is not None:
        raise _nobody("The token's project belongs to another team than its own.")
    if not meant and issuer.team is None and issuer.claims.team is not None:
        raise _nobody("The token's team isn't one of those that are known here.")
    return meant[0] if meant else issuer.team


def _named(values: list[str]) -> str:
    """A name that fits into logs; a hash of any other."""
    if not values or not values[0]:
        raise _nobody("The token doesn't say whom it is for.")
    if _NAME.fullmatch(values[0]):
        return values[0]
    return hashlib.sha256(values[0].encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _text(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nobody(message: str) -> WeirError:
    return WeirError(403, message, type=PERMISSION, code="identity_not_mapped")
