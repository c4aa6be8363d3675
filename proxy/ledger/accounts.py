"""What the files say about whom a cost belongs to, and what a provider's invoice calls the account that pays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.ledger.labels import Accounts, Billing
from proxy.pricing import provider_of

if TYPE_CHECKING:
    from proxy.config.configuration import Configuration


def accounts_of(configuration: Configuration) -> Accounts:
    """Cost centres and GL accounts of the teams file; providers, accounts and projects of the upstreams."""
    teams, upstreams = configuration.teams, configuration.deployment.upstreams

    def owner(key: str | None, team: str | None, project: str | None) -> tuple[str | None, str | None]:
        if teams is None:
            return None, None
        account = teams.account(team, project)
        return account.cost_centre, account.gl_account

    def billing(name: str | None) -> Billing:
        upstream = upstreams.get(name or "")
        if upstream is None:
            return Billing()
        return Billing(upstream.provider or provider_of(upstream.url), upstream.account, upstream.project)

    return Accounts(owner, billing)
