"""What the supervisor itself has to report. Without prometheus_client: whoever knows a fact may import this."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.ledger.facts import LedgerFacts


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One worker as the supervisor knows it."""

    index: int
    ready: bool
    silent_s: float
    cpu_s: float
    resident_bytes: int
    lag_s: float = 0.0
    limit: int = 0
    tasks: int = 0


@dataclass(frozen=True, slots=True)
class IssuerFacts:
    """An issuer of tokens: its public keys, how old they are (-1: never fetched), and how often fetching failed."""

    name: str
    keys: int
    age_s: float
    failures: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What the supervisor itself has to report. Times are Unix seconds, 0 for never."""

    started_at_s: float = 0.0
    workers: tuple[WorkerFacts, ...] = ()
    workers_wanted: int = 0
    restarts: int = 0
    draining: bool = False
    bypass: bool = False
    config_hash: str = ""
    config_valid: bool = True
    config_loaded_at_s: float = 0.0
    reloads: int = 0
    reload_failures: int = 0
    keys: int = 0
    keys_valid: bool = True
    keys_shared: bool | None = None
    issuers: tuple[IssuerFacts, ...] = ()
    cards: str = field(default="")
    stepped_back: tuple[tuple[str, str], ...] = ()
    step_backs: int = 0
    ledger: LedgerFacts = field(default_factory=LedgerFacts)
