"""What the ops and admin listeners may ask of the supervisor, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker process."""

    index: int
    pid: int
    ready: bool
    config_hash: str | None
    uptime_s: float


class DeploymentStatus(msgspec.Struct, frozen=True):
    """One place where a model runs: in how many workers it stands so."""

    model: str
    deployment: str
    states: dict[str, int]
    in_flight: int


class SteppedBack(msgspec.Struct, frozen=True):
    """A policy that left the band of its guardrail. `at_s` is Unix time, `why` the numbers, `host` who saw it."""

    policy: str
    mode: str
    at_s: float
    why: dict[str, Any] = {}
    host: str = ""


class Status(msgspec.Struct, frozen=True):
    """The answer of `GET /admin/status`. Addresses are as bound; `problems` are those of files that were refused.
    `restarts` counts workers that died and were replaced, `replaced` those that a rolling restart replaced."""

    version: str
    pid: int
    uptime_s: float
    ready: bool
    draining: bool
    bypass: bool
    config_hash: str
    config_valid: bool
    problems: tuple[str, ...]
    home: str
    listen: tuple[str, ...]
    ops: str | None
    admin: str | None
    workers_wanted: int
    workers: tuple[WorkerStatus, ...]
    restarts: int
    keys: int
    restarting: bool = False
    restart_problem: str = ""
    replaced: int = 0
    deployments: tuple[DeploymentStatus, ...] = ()
    stepped_back: tuple[SteppedBack, ...] = ()


class Reloaded(msgspec.Struct, frozen=True):
    """The outcome of a reload: with `ok` false the configuration before it stays in use."""

    ok: bool
    hash: str
    changed: bool
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Operated(Protocol):
    """The supervisor."""

    def ready(self) -> bool:
        """Whether to send clients here: started, at least one worker accepts, not draining."""

    def status(self) -> Status:
        """How it stands."""

    async def metrics(self) -> bytes:
        """The Prometheus text."""

    async def reload(self, why: str) -> Reloaded:
        """Read the files again."""

    def drain(self) -> None:
        """Finish what runs, then end; returns at once."""

    def restart(self) -> bool:
        """Replace the workers one after the other; returns at once, False where that isn't possible now."""

    def bypass(self, on: bool) -> None:
        """The kill switch: policies step aside."""

    async def bring_back(self, policy: str) -> bool:
        """Switch a policy on again that stepped back; False where it hasn't."""

    async def explain(self, exchange: str, tenant: str | None) -> Mapping[str, Any] | None:
        """What happened to an exchange (`proxy.why`); with a tenant, only if it is that tenant's."""

    async def operate(self, use: str, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask a policy (`proxy.operating`); raises WeirError."""
