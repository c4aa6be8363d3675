"""The teams file: organisations, teams, projects, the keys that belong to them, and who else may vouch for a client.

Rules: models only. Keys appear as the SHA-256 of a key made of 256 random bits, never as themselves. What a project
doesn't say, its team says; what a team doesn't say, its organisation says.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from proxy.config.issuers import Issuer
from proxy.config.scalars import Names, Version, wrong
from proxy.config.strict import Strict


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise wrong("expected 64 hexadecimal digits", "make a key with `weir keys create`; never write the key itself")
    return text.lower()


def _expiry(value: object) -> object:
    """A day stays valid until it ends (UTC); a time without a zone is UTC."""
    if not isinstance(value, str):
        return value
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            return datetime.combine(datetime.fromisoformat(value) + timedelta(days=1), time(), UTC)
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise wrong("expected a day such as 2027-12-31 or a time such as 2027-12-31T18:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Sha256 = Annotated[str, AfterValidator(_sha256), WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"})]
Expiry = Annotated[datetime, BeforeValidator(_expiry), WithJsonSchema({"type": "string", "examples": ["2027-12-31"]})]


class Account(NamedTuple):
    """Whom a cost belongs to, after inheritance."""

    org: str | None
    cost_centre: str | None
    gl_account: str | None
    tags: dict[str, str]


class Org(Strict):
    """An organisation."""

    cost_centre: str | None = None
    """The cost centre of everything in it that names none."""
    gl_account: str | None = None
    """The general ledger account of everything in it that names none."""
    tags: dict[str, str] = {}
    """Tags of every request of it."""


class Team(Org):
    """A team."""

    org: str | None = None
    """The organisation that it belongs to."""


class Project(Org):
    """A project of a team."""

    team: str
    """The team that it belongs to."""


class Key(Strict):
    """A key that clients may use."""

    id: str
    """Its public name, in logs, reports and `match.key`."""
    sha256: Sha256
    """The SHA-256 of the key, hexadecimal."""
    previous: Sha256 | None = None
    """The SHA-256 of the key before this one, while it is being replaced."""
    previous_expires: Expiry | None = None
    """The last day (UTC) or the exact time at which the one before is accepted; without it, as long as it is named."""
    team: str | None = None
    """The team that it belongs to."""
    project: str | None = None
    """The project that it belongs to; its team then follows."""
    expires: Expiry | None = None
    """The last day (UTC) or the exact time of its validity."""
    tags: dict[str, str] = {}
    """Tags of every request made with it."""
    models: Names | None = None
    """The models it may ask for, by name or pattern; all that are offered, unless named."""
    role: Literal["viewer", "finance", "operator"] | None = None
    """It is a key of the admin listener with this role, and opens nothing on the data port."""


class TeamsFile(Strict):
    """Who is who, and which keys they hold."""

    version: Version
    """The form of this file; write 1."""
    orgs: dict[str, Org] = {}
    """Organisations, by name."""
    teams: dict[str, Team] = {}
    """Teams, by name."""
    projects: dict[str, Project] = {}
    """Projects, by name."""
    keys: tuple[Key, ...] = ()
    """Keys, by their hashes. `weir keys create` makes them."""
    issuers: dict[str, Issuer] = {}
    """Who issues tokens (JWT, OpenID Connect) that are accepted beside keys, by a name of yours."""

    def team_of(self, team: str | None, project: str | None) -> str | None:
        """The team, also where only the project is known."""
        if team is not None or project is None or project not in self.projects:
            return team
        return self.projects[project].team

    def account(self, team: str | None, project: str | None = None) -> Account:
        """Whom the cost of this team or project belongs to."""
        team = self.team_of(team, project)
        own = self.teams.get(team) if team else None
        org = own.org if own else None
        levels = [self.orgs.get(org) if org else None, own, self.projects.get(project) if project else None]
        found = Account(org, None, None, {})
        for level in levels:
            if level is not None:
                centre, account = level.cost_centre or found.cost_centre, level.gl_account or found.gl_account
                found = Account(org, centre, account, {**found.tags, **level.tags})
        return found
