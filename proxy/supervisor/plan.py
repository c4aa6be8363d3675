"""What the supervisor needs to know of a configuration: the only place here that reads `proxy.config`.

Rules: a plan is made once for each load and never changes. Its `text` goes to the workers over their channel and
nowhere else, since it carries the upstreams' keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proxy.clients.keys import KeyRecord
from proxy.ledger.accounts import Said, said_by
from proxy.ledger.keeping import Closing, Keep
from proxy.ledger.reporting.budgets import budgets_of
from proxy.logs import Form, Level
from proxy.supervisor.stepping import Guarded

if TYPE_CHECKING:
    from proxy.config.configuration import Configuration
    from proxy.config.issuers import Issuer
    from proxy.config.policies import PolicyEntry
    from proxy.config.teams import TeamsFile


class LoadError(Exception):
    """The files can't be used. `problems` are lines for people; `watched` are the files that were read."""

    def __init__(self, problems: tuple[str, ...], watched: tuple[Path, ...] = ()) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.watched = watched


Inherit = Callable[[KeyRecord], KeyRecord]
"""A key that was made by `weir keys`, with what it inherits from the teams file."""


def _as_made(record: KeyRecord) -> KeyRecord:
    return record


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration as the supervisor acts on it. Addresses are `host:port`; `ops` and `admin` are None where off.

    `state` is the URL of what workers share; empty for none.
    """

    hash: str
    text: str = field(repr=False)
    home: Path
    listen: tuple[str, ...] = ("127.0.0.1:8787",)
    ops: str | None = "127.0.0.1:9090"
    admin: str | None = "127.0.0.1:8788"
    workers: int = 1
    drain_s: float = 30.0
    drain_idle_s: float = 1.0
    log_form: Form = "human"
    log_level: Level = "info"
    keys_required: bool = False
    declared_keys: tuple[KeyRecord, ...] = ()
    inherit: Inherit = field(default=_as_made, compare=False)
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    watched: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    prices: str = "{}"
    ledger: str = field(default="", repr=False)
    accounts: Said = field(default_factory=Said)
    keep: Keep = field(default_factory=Keep)
    state: str = field(default="", repr=False)
    policies: tuple[PolicyEntry, ...] = field(default=(), repr=False)
    guarded: tuple[Guarded, ...] = ()

    def needs_restart(self, newer: Plan) -> list[str]:
        """The settings that differ and that a reload can't change."""
        fixed = ("listen", "ops", "admin", "home", "workers", "state", "ledger")
        return [name for name in fixed if getattr(self, name) != getattr(newer, name)]


_COLD: Final[dict[str, Any]] = {"teams": {"keys"}, "watched": True, "warnings": True}
"""What workers don't read: keys are told apart from the rest, and thousands of them would hold up a worker's loop."""

Load = Callable[[], Plan]
"""Reads the files again. Blocking. Raises `LoadError`."""


def plan_of(configuration: Configuration, before: Plan | None = None) -> Plan:
    """The plan of a checked configuration. One `before` it, of the very same teams file, leaves it their keys."""
    deployment = configuration.deployment
    return Plan(
        hash=configuration.hash,
        text=configuration.model_dump_json(exclude=_COLD),
        home=deployment.home.absolute(),
        listen=(str(deployment.listen),),
        ops=None if deployment.ops is None else str(deployment.ops),
        admin=None if deployment.admin is None else str(deployment.admin),
        workers=deployment.workers,
        drain_s=deployment.timeouts.drain_s,
        drain_idle_s=deployment.timeouts.drain_idle_s,
        log_form=deployment.log.format,
        log_level=deployment.log.level,
        keys_required=deployment.keys == "required",
        declared_keys=_declared(configuration) if before is None else before.declared_keys,
        inherit=_inherit(configuration) if before is None else before.inherit,
        issuers={} if configuration.teams is None else configuration.teams.issuers,
        watched=configuration.watched,
        warnings=tuple(str(problem) for problem in configuration.warnings),
        prices=prices_of(configuration),
        ledger=deployment.ledger,
        accounts=said_by(configuration),
        keep=_keep(configuration),
        state=deployment.state,
        policies=tuple(configuration.policies),
        guarded=tuple(
            Guarded(entry.name, entry.fingerprint, entry.guardrail)
            for entry in configuration.policies
            if entry.guardrail is not None and entry.mode == "on"
        ),
    )


def prices_of(configuration: Configuration) -> str:
    """The price overrides as JSON, for the process that compiles the rate cards."""
    return configuration.deployment.model_dump_json(include={"prices"})


def loader(read: Callable[[], Configuration]) -> Load:
    """`read` as the supervisor uses it."""
    from proxy.config import ConfigurationError

    before: list[tuple[TeamsFile | None, Plan]] = []

    def load() -> Plan:
        try:
            configuration = read()
            plan = plan_of(configuration, next((plan for teams, plan in before if teams is configuration.teams), None))
            before[:] = [(configuration.teams, plan)]
            return plan
        except ConfigurationError as error:
            raise LoadError(tuple(str(problem) for problem in error.problems), error.watched) from error

    return load


def _keep(configuration: Configuration) -> Keep:
    deployment = configuration.deployment
    after_s, closing = deployment.closing.after_s, None
    if after_s is not None:
        closing = Closing(after_s, configuration.time_zone, budgets_of(configuration))
    return Keep(deployment.journal.keep_s, deployment.journal.keep_bytes, deployment.retention.detail_days, closing)


def _declared(configuration: Configuration) -> tuple[KeyRecord, ...]:
    """The keys of the teams file in the form in which made keys are stored, with what they inherit."""
    teams, inherit = configuration.teams, _inherit(configuration)
    records = []
    for key in () if teams is None else teams.keys:
        record = inherit(
            KeyRecord(
                id=key.id,
                sha256=key.sha256,
                team=key.team or "",
                project=key.project or "",
                tags=key.tags,
                expires=key.expires.timestamp() if key.expires else None,
                models=None if key.models is None else [*key.models],
                source="teams",
                role=key.role,
            )
        )
        records.append(record)
        if key.previous is not None:
            ends = [at.timestamp() for at in (key.expires, key.previous_expires) if at is not None]
            records.append(msgspec.structs.replace(record, sha256=key.previous, expires=min(ends, default=None)))
    return tuple(records)


def _inherit(configuration: Configuration) -> Inherit:
    teams = configuration.teams
    if teams is None:
        return _as_made
    account_of = cache(teams.account)  # of hundreds of teams, asked for by thousands of keys

    def inherit(record: KeyRecord) -> KeyRecord:
        account = account_of(record.team or None, record.project or None)
        return msgspec.structs.replace(
            record,
            org=record.org or account.org or "",
            team=teams.team_of(record.team or None, record.project or None) or "",
            tags={**account.tags, **record.tags},
            cost_centre=account.cost_centre or "",
        )

    return inherit
