"""What the files say about whom a cost belongs to, and what a provider's invoice calls the account that pays.

Rules: it is plain data, so that it can be told to another process; what inherits from what is worked out here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from proxy.ledger.labels import Accounts, Billing

if TYPE_CHECKING:
    from proxy.config.configuration import Configuration


class Owner(msgspec.Struct, frozen=True):
    """Who pays for a team or a project; a project's `team` pays for what it leaves open."""

    cost_centre: str | None = None
    gl_account: str | None = None
    team: str | None = None


NOBODY = Owner()


class Said(msgspec.Struct, frozen=True):
    """What the files say, by name."""

    teams: dict[str, Owner] = {}
    projects: dict[str, Owner] = {}
    upstreams: dict[str, Billing] = {}

    def owner(self, key: str | None, team: str | None, project: str | None) -> tuple[str | None, str | None]:
        """Cost centre and GL account."""
        own = self.projects.get(project or "", NOBODY)
        above = self.teams.get((own.team if team is None else team) or "", NOBODY)
        return own.cost_centre or above.cost_centre, own.gl_account or above.gl_account

    def upstream(self, name: str | None) -> Billing:
        """Whose invoice it comes on."""
        return self.upstreams.get(name or "", Billing())

    def accounts(self) -> Accounts:
        """For the ledger. A new one each time, whose labels are worked out anew."""
        return Accounts(self.owner, self.upstream)


def said_by(configuration: Configuration) -> Said:
    """Cost centres and GL accounts of the teams file; providers, accounts and projects of the upstreams."""
    from proxy.pricing import provider_of

    deployment, teams = configuration.deployment, configuration.teams
    bills = {
        name: Billing(one.provider or provider_of(one.url), one.account, one.project)
        for name, one in deployment.upstreams.items()
    }
    if teams is None:
        return Said(upstreams=bills)
    of_team = {name: teams.account(name) for name in teams.teams}
    return Said(
        {name: Owner(account.cost_centre, account.gl_account) for name, account in of_team.items()},
        {name: Owner(one.cost_centre, one.gl_account, one.team) for name, one in teams.projects.items()},
        bills,
    )


def accounts_of(configuration: Configuration) -> Accounts:
    """The same, for the ledger."""
    return said_by(configuration).accounts()
