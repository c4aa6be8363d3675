"""The deployment file: where things are. Its models are its documentation.

Rules: models only, no reading of files or variables (`proxy.config.loading` does that), so that a worker can import
them cheaply. Names end in their unit; values may be written with another (`total_s: 10m`, `body_bytes: 32 MiB`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from proxy.config.globs import specificity
from proxy.config.limits import Bytes, Limits, Positive, Seconds, Timeouts
from proxy.config.overload import Overload
from proxy.config.problems import suggestion
from proxy.config.scalars import (
    Address,
    Bind,
    Duration,
    Names,
    OneOrList,
    OptionalBind,
    Truth,
    Version,
    listed,
    wrong,
)
from proxy.config.strict import Strict
from proxy.config.upstreams import Model, Price, Upstream

STATE_SCHEMES = ("sqlite", "memory", "redis", "rediss", "valkey", "valkeys")
LEDGER_SCHEMES = ("sqlite", "postgresql")


def _scheme(schemes: tuple[str, ...], example: str) -> AfterValidator:
    def check(text: str) -> str:
        name, colon, rest = text.partition(":")
        if not colon or name not in schemes:
            raise wrong(f"expected an address such as {example}", suggestion(name, schemes))
        if name != "memory" and not rest.startswith("//"):
            raise wrong(f"expected an address such as {example}", f"after {name}: come two slashes")
        return text

    return AfterValidator(check)


def _at(port: int) -> Any:
    """A default address; schemas need it as text."""
    return Field(default=Address("127.0.0.1", port), json_schema_extra={"default": f"127.0.0.1:{port}"})


def default_home(env: Mapping[str, str]) -> Path:
    """$WEIR_HOME, else $XDG_STATE_HOME/weir, else ~/.local/state/weir."""
    if home := env.get("WEIR_HOME"):
        return Path(home)
    if state := env.get("XDG_STATE_HOME"):
        return Path(state) / "weir"
    return Path(env.get("HOME") or Path.home()) / ".local/state/weir"


class Tls(Strict):
    """Serve https on the data port."""

    cert: Path
    """The certificate chain, PEM."""
    key: Path
    """Its key, PEM."""


class Cors(Strict):
    """What browsers' pages may call."""

    origins: Names
    """Origins that may call, as `https://app.example`; `*` for any."""
    headers: Annotated[tuple[str, ...], BeforeValidator(listed)] = ("*",)
    """Request headers that pages may send."""
    expose: Annotated[tuple[str, ...], BeforeValidator(listed)] = ("x-request-id", "x-weir-exchange", "x-weir-cost")
    """Response headers that pages may read."""
    max_age_s: Seconds = 600.0
    """How long a browser may remember the answer."""
    credentials: Truth = False
    """Whether cookies and stored credentials may be sent."""


class Log(Strict):
    """How it reports what it does; never a body or a key."""

    format: Literal["human", "json"] = "human"
    """Text for people, or one JSON object a line."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe kind that is written."""


class Journal(Strict):
    """The append-only file of every attempt."""

    fsync_s: Duration = 1.0
    """How much a power cut may lose; 0 writes through each time. A killed process loses nothing either way."""
    segment_bytes: Bytes = 64 * 2**20
    """The size at which the next file begins."""
    keep_s: Duration = 24 * 3600.0
    """How long a file stays that the ledger has taken in, for `weir journal tail` and for another look."""
    keep_bytes: Bytes = 4 * 2**30
    """What all files may take; beyond it the oldest that the ledger has taken in go sooner."""


class Retention(Strict):
    """How long single rows stay in the ledger. Sums, closings and the chain of hashes stay for good."""

    detail_days: Positive | None = None
    """Rows of closed months older than this are dropped; unless named, none."""


class Closing(Strict):
    """When months are closed."""

    after_s: Seconds | None = None
    """How long after its end a month is closed by itself, as `5d`; unless named, only by `weir close`."""


class DeploymentFile(Strict):
    """Where things are: listeners, upstreams, models, state."""

    version: Version
    """The form of this file; write 1."""
    listen: Bind = _at(8787)
    """The address that clients use as their base URL. A public one needs keys."""
    ops: OptionalBind = _at(9090)
    """Health, readiness and metrics, without secrets; `off` for none."""
    admin: OptionalBind = _at(8788)
    """Reports, console and control, with a token of its own; only on this machine; `off` for none."""
    home: Path = Field(default_factory=lambda: default_home(os.environ))
    """The directory of journal, keys and state. Default: $WEIR_HOME, else $XDG_STATE_HOME/weir, else
    ~/.local/state/weir."""
    state: Annotated[str, _scheme(STATE_SCHEMES, "sqlite:///state.db or redis://host:6379/0")] = Field(
        default="sqlite:///state.db", repr=False
    )
    """Where shared state lives: `sqlite:///state.db` (in `home`), `memory:` or `redis://…` for a fleet."""
    ledger: Annotated[str, _scheme(LEDGER_SCHEMES, "sqlite:///ledger.db or postgresql://host/name")] = Field(
        default="sqlite:///ledger.db", repr=False
    )
    """Where costs are kept: `sqlite:///ledger.db` (in `home`) or `postgresql://…` for a fleet."""
    workers: Positive = 1
    """Processes that serve requests."""
    upstreams: dict[str, Upstream] = Field(min_length=1)
    """Providers' APIs and servers of your own, by name."""
    models: dict[str, Model] = {}
    """What clients may ask for, by name or pattern; `"*"` lets any other name through. May be left out with one
    upstream."""
    teams: Path | None = None
    """The file of organisations, teams, projects and keys."""
    policies: Annotated[
        tuple[Path, ...],
        OneOrList(),
    ] = ()
    """The policy file, or a list of them, outermost first."""
    overlays: Annotated[
        tuple[Path, ...],
        OneOrList(),
    ] = ()
    """What is otherwise here, such as `overlays/${ENVIRONMENT}.yaml`; of several, the last says it."""
    keys: Literal["open", "required"] = "open"
    """`open`: the client's own key passes through, only on this machine. `required`: a key made or declared here.
    Without it: required where teams declare keys, otherwise open."""
    limits: Limits = Limits()
    """What a request may take."""
    timeouts: Timeouts = Timeouts()
    """How long each step may take."""
    overload: Overload = Overload()
    """When a worker has too much to do, and whose requests come first then."""
    tls: Tls | None = None
    """Serve https on the data port."""
    cors: Cors | None = None
    """What browsers' pages may call; without it they may call nothing."""
    half_close: Literal["gone", "answer"] = "gone"
    """What a client's FIN after its request means: it has gone, or it waits for the answer."""
    heartbeat_s: Seconds = 15.0
    """When a silent stream sends its first comment, so that load balancers don't cut it."""
    log: Log = Log()
    """How it reports what it does."""
    journal: Journal = Journal()
    """The append-only file of every attempt."""
    retention: Retention = Retention()
    """How long single rows stay in the ledger."""
    closing: Closing = Closing()
    """When months are closed."""
    prices: dict[str, Annotated[tuple[Price, ...], OneOrList()]] = {}
    """Prices of your contracts and your own servers, by `model` or `provider/model`, patterns allowed."""

    @property
    def public(self) -> bool:
        """Whether others than this machine can reach the data port."""
        return not self.listen.loopback

    def patterns(self) -> tuple[str, ...]:
        """The offered names and patterns, in the order in which a request looks for its model."""
        return tuple(sorted(self.models, key=specificity, reverse=True))
