"""The deployment file: where things are. Its models are its documentation.

Rules: models only, no reading of files or variables (`proxy.config.loading` does that), so that a worker can import
them cheaply. Names end in their unit; values may be written with another (`total_s: 10m`, `body_bytes: 32 MiB`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from proxy.config.globs import specificity
from proxy.config.problems import suggestion
from proxy.config.scalars import (
    Address,
    Bind,
    Duration,
    Names,
    OneOrList,
    OptionalBind,
    Size,
    Truth,
    Version,
    listed,
    wrong,
)
from proxy.config.secret import Secret
from proxy.config.strict import Strict

STATE_SCHEMES = ("sqlite", "memory", "redis", "rediss", "valkey", "valkeys")
LEDGER_SCHEMES = ("sqlite", "postgresql")
KEY_PATTERN = r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$"

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[Duration, Field(gt=0)]
Bytes = Annotated[Size, Field(gt=0)]
Usd = Annotated[Decimal, Field(ge=0), WithJsonSchema({"type": ["number", "string"], "minimum": 0})]


def _upstream_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wrong("expected an address such as https://api.openai.com/v1", "it begins with https:// or http://")
    if parts.username or parts.password:
        raise wrong("a key doesn't belong into the address", 'write key: "${NAME}" beside it')
    if parts.query or parts.fragment:
        raise wrong("the address can't hold a query", "write query: {name: value} beside it")
    try:
        parts.port  # noqa: B018  # raises where it is no port
    except ValueError:
        raise wrong("the port of the address is no port", "ports end at 65535") from None
    for ending in ("/chat/completions", "/completions", "/responses", "/embeddings", "/messages", "/models"):
        if parts.path.rstrip("/").endswith(ending):
            raise wrong(f"the address must end before {ending}", "the endpoint is added to it")
    return text.rstrip("/")


def _scheme(schemes: tuple[str, ...], example: str) -> AfterValidator:
    def check(text: str) -> str:
        name, colon, _ = text.partition(":")
        if not colon or name not in schemes:
            raise wrong(f"expected an address such as {example}", suggestion(name, schemes))
        return text

    return AfterValidator(check)


def _proxy_url(text: str) -> str:
    if not text.startswith("http://") or not urlsplit(text).hostname:
        raise wrong("expected an address such as http://proxy:3128", "CONNECT over plain http is what is spoken")
    return text


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


class Timeouts(Strict):
    """How long each step may take."""

    header_s: Seconds = 10.0
    """From the first byte of a request's head to its last."""
    body_idle_s: Seconds = 30.0
    """Between two reads of a request's body; then 408."""
    keep_alive_s: Seconds = 75.0
    """How long an idle client's connection stays open."""
    connect_s: Seconds = 5.0
    """Name lookup, TCP and TLS to an upstream."""
    total_s: Seconds = 600.0
    """A whole exchange, from the request's head to the last byte of the answer."""
    flex_s: Seconds = 900.0
    """The same for requests of the flex service tier."""
    stream_idle_s: Seconds = 300.0
    """Between two reads from an upstream's stream."""
    slow_reader_s: Seconds = 60.0
    """How long a client may take no byte of a waiting answer."""
    user_timeout_s: Seconds = 30.0
    """TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged."""
    drain_s: Seconds = 30.0
    """How long running exchanges may go on after a stop was asked for."""


class UpstreamTimeouts(Strict):
    """What differs from the deployment's timeouts at one upstream."""

    connect_s: Seconds | None = None
    """Name lookup, TCP and TLS."""
    total_s: Seconds | None = None
    """A whole exchange."""
    flex_s: Seconds | None = None
    """A whole exchange of the flex service tier."""
    stream_idle_s: Seconds | None = None
    """Between two reads from a stream."""


class Limits(Strict):
    """What a request may take, and what a worker may hold."""

    line_bytes: Bytes = 8192
    """A request line or one header field."""
    headers: Positive = 100
    """Header fields of a request."""
    body_bytes: Bytes = 32 * 2**20
    """A body that is read whole, as sent and as decoded; then 413."""
    upload_bytes: Bytes = 512 * 2**20
    """A body that streams through."""
    in_flight_bytes: Bytes = 256 * 2**20
    """Bodies held by one worker at a time; then 503."""
    stream_buffer_bytes: Bytes = 256 * 2**10
    """Waiting for one slow reader before its upstream is paused."""
    unary_buffer_bytes: Bytes = 2**20
    """How much of an answer is held back so that its failure still has a status."""
    event_bytes: Bytes = 16 * 2**20
    """One event of a stream."""
    unparsed_event_bytes: Bytes = 64 * 2**10
    """Events above this are relayed without being read."""
    connections: Positive = 4096
    """Client connections of one worker; then 503."""
    nesting: Positive = 64
    """Depth of JSON in what is parsed."""


class Pool(Strict):
    """Connections kept to an upstream, for each worker."""

    max_connections: Positive = 512
    """Open at a time; further requests wait within their deadline."""
    idle_s: Seconds = 4.0
    """How long one is kept unused. Several servers close after 5 s, and a request must not meet that."""
    warm: Annotated[int, Field(ge=0)] = 1
    """Opened before they are needed."""


class Upstream(Strict):
    """A provider's API, or a server of your own."""

    url: Annotated[str, AfterValidator(_upstream_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
    """The base address, with its version: `https://api.openai.com/v1`."""
    key: Annotated[
        Secret | None,
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "pattern": KEY_PATTERN},
                    {
                        "type": "object",
                        "properties": {"file": {"type": "string"}},
                        "required": ["file"],
                        "additionalProperties": False,
                    },
                ],
                "examples": ["${OPENAI_API_KEY}", {"file": "/run/secrets/openai"}],
            }
        ),
    ] = None
    """The upstream's key: `"${NAME}"` or `{file: path}`. Without one the client's own key passes through."""
    auth: Literal["bearer", "api-key", "x-api-key", "none"] = "bearer"
    """The header that carries the key: `Authorization: Bearer`, `api-key` (Azure), `x-api-key` (Anthropic)."""
    ca: Path | None = None
    """A file of certificates to trust instead of the system's."""
    proxy: Annotated[str, AfterValidator(_proxy_url)] | None = Field(default=None, repr=False)
    """A proxy to CONNECT through; otherwise HTTPS_PROXY and NO_PROXY are followed."""
    headers: dict[str, str] = Field(default={}, repr=False)
    """Header fields added to every request."""
    query: dict[str, str] = Field(default={}, repr=False)
    """Query parameters added to every request, as Azure's `api-version`."""
    provider: str | None = None
    """Whose prices apply, where the address doesn't tell: `openai`, `azure`, `anthropic`."""
    timeouts: UpstreamTimeouts = UpstreamTimeouts()
    """What differs from the deployment's timeouts."""
    pool: Pool = Pool()
    """Connections kept by each worker."""
    response_headers: Annotated[tuple[str, ...], OneOrList()] = ()
    """Header fields of its answers that clients may see besides the usual ones."""
    stream_end: Literal["required", "optional"] = "required"
    """Whether a stream that ends without its closing event counts as cut off."""


class Deployment(Strict):
    """A model at an upstream."""

    upstream: str
    """The name of an upstream."""
    model: str | None = None
    """The model's name there; without it, the name that the client asked for."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share, relative to the model's other deployments."""


def _model_schema(schema: dict[str, Any]) -> None:
    """The short form, `{upstream: name}`, beside the long one."""
    short = Deployment.model_json_schema()["properties"]
    schema["properties"] = {**short, **schema["properties"]}
    schema.pop("required", None)
    schema["oneOf"] = [{"required": ["upstream"]}, {"required": ["deployments"]}]


class Model(Strict):
    """A name that clients may ask for: `{upstream: openai}`, or several deployments."""

    model_config = {"json_schema_extra": _model_schema}

    deployments: tuple[Deployment, ...] = Field(min_length=1)
    """Where it runs."""
    balance: Literal["weighted", "least-latency"] = "weighted"
    """How a deployment is chosen."""

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: object) -> object:
        if not isinstance(value, dict) or "deployments" in value:
            return value
        if "upstream" not in value:
            raise wrong("names no upstream", "write {upstream: name} or {deployments: [{upstream: name}]}")
        short = {name: value[name] for name in ("upstream", "model", "weight") if name in value}
        rest = {name: value[name] for name in value if name not in short}
        return {"deployments": [short], **rest}


class Price(Strict):
    """What a model costs here; whatever isn't named keeps its published price."""

    effective_from: date | None = None
    """The first day of this price (UTC); before it the published price holds."""
    multiplier: Usd | None = None
    """Applied to every published rate, as 1.1 for data residency or 0.85 for a discount."""
    input: Usd | None = None
    """USD per million input tokens."""
    output: Usd | None = None
    """USD per million output tokens."""
    cached_input: Usd | None = None
    """USD per million input tokens read from the provider's cache."""
    cache_write: Usd | None = None
    """USD per million input tokens written to the provider's cache for 5 minutes."""
    cache_write_1h: Usd | None = None
    """USD per million input tokens written to the provider's cache for an hour."""
    input_audio: Usd | None = None
    """USD per million audio tokens in."""
    cached_audio: Usd | None = None
    """USD per million audio tokens read from the provider's cache."""
    output_audio: Usd | None = None
    """USD per million audio tokens out."""
    input_image: Usd | None = None
    """USD per million image tokens in."""
    output_image: Usd | None = None
    """USD per million image tokens out."""
    request: Usd | None = None
    """USD per request."""
    search: Usd | None = None
    """USD per thousand searches made by the provider."""
    gpu_hour: Usd | None = None
    """USD per hour of the GPUs that serve the model, for servers of your own; needs `tokens_per_gpu_hour`."""
    tokens_per_gpu_hour: Positive | None = None
    """Tokens, in and out, that those GPUs handle in an hour at their usual load."""


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
    keys: Literal["open", "required"] = "open"
    """`open`: the client's own key passes through, only on this machine. `required`: a key made or declared here.
    Without it: required where teams declare keys, otherwise open."""
    limits: Limits = Limits()
    """What a request may take."""
    timeouts: Timeouts = Timeouts()
    """How long each step may take."""
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
    prices: dict[str, Annotated[tuple[Price, ...], OneOrList()]] = {}
    """Prices of your contracts and your own servers, by `model` or `provider/model`, patterns allowed."""

    @property
    def public(self) -> bool:
        """Whether others than this machine can reach the data port."""
        return not self.listen.loopback

    def patterns(self) -> tuple[str, ...]:
        """The offered names and patterns, in the order in which a request looks for its model."""
        return tuple(sorted(self.models, key=specificity, reverse=True))
