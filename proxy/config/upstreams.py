"""Upstreams, the models that run there, and what those cost.

Rules: models only. An address never holds a key or a query; the endpoint of a request is added to it.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from proxy.config.balancing import Breaker, Outliers
from proxy.config.limits import Pool, Positive, UpstreamTimeouts
from proxy.config.scalars import OneOrList, shown, wrong
from proxy.config.secret import Secret
from proxy.config.strict import Strict

KEY_PATTERN = r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$"

KEY_SCHEMA: dict[str, Any] = {
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


def _proxy_url(text: str) -> str:
    if not text.startswith("http://") or not urlsplit(text).hostname:
        raise wrong("expected an address such as http://proxy:3128", "CONNECT over plain http is what is spoken")
    return text


class Upstream(Strict):
    """A provider's API, or a server of your own."""

    url: Annotated[str, AfterValidator(_upstream_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
    """The base address, with its version: `https://api.openai.com/v1`."""
    key: Annotated[Secret | None, WithJsonSchema(KEY_SCHEMA)] = None
    """The upstream's key: `"${NAME}"` or `{file: path}`. Without one the client's own key passes through."""
    keys: Annotated[tuple[Secret, ...], WithJsonSchema({"type": "array", "items": KEY_SCHEMA, "minItems": 1})] = ()
    """Several keys, used in turn, each within its own limits; instead of `key`. What is kept upstream belongs to the
    first."""
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
    account: str | None = None
    """The provider's name of the account that pays, as it stands on its invoice."""
    project: str | None = None
    """The provider's project (or workspace) that the key belongs to, as it stands on its invoice."""
    timeouts: UpstreamTimeouts = UpstreamTimeouts()
    """What differs from the deployment's timeouts."""
    pool: Pool = Pool()
    """Connections kept by each worker."""
    response_headers: Annotated[tuple[str, ...], OneOrList()] = ()
    """Header fields of its answers that clients may see besides the usual ones."""
    stream_end: Literal["required", "optional"] = "required"
    """Whether a stream that ends without its closing event counts as cut off."""
    breaker: Breaker = Breaker()
    """When its deployments count as broken, and how they come back."""

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Upstream:
        if self.key is not None and self.keys:
            raise wrong("key and keys say the same", "write all of them under keys")
        return self

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """All its keys."""
        return self.keys if self.key is None else (self.key,)


class Deployment(Strict):
    """A model at an upstream."""

    upstream: str
    """The name of an upstream."""
    model: str | None = None
    """The model's name there; without it, the name that the client asked for."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share, relative to the model's other deployments."""
    max_concurrent: Positive | None = None
    """How many calls it may have at a time, for each worker (and each key)."""


class Model(Strict):
    """A name that clients may ask for: `{upstream: openai}`, or several deployments."""

    deployments: tuple[Deployment, ...] = Field(min_length=1)
    """Where it runs."""
    balance: Literal["weighted", "least-latency", "prefix-affinity"] = "weighted"
    """How a deployment is chosen: in proportion to the weights; the quickest to its first token; or the one that has
    most of the prompt in its cache."""
    max_load: Annotated[float, Field(gt=1)] = 2.0
    """With `prefix-affinity`: so many times its fair share of the calls may one have."""
    outliers: Outliers = Outliers()
    """When a deployment stands out from the others so that it is left out for a while."""

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: object) -> object:
        if isinstance(value, str):
            raise wrong(f"expected a mapping, found {shown(value)}", f"write {{upstream: {value}}}")
        if not isinstance(value, dict) or "deployments" in value:
            return value
        if "upstream" not in value and value.keys() <= Deployment.model_fields.keys() | cls.model_fields.keys():
            raise wrong("names no upstream", "write {upstream: name} or {deployments: [{upstream: name}]}")
        short = {name: value[name] for name in Deployment.model_fields if name in value}
        rest = {name: value[name] for name in value if name not in short}
        return {"deployments": [short], **rest}


class Price(Strict):
    """What a model costs here; whatever isn't named keeps its published price."""

    effective_from: date | None = None
    """The first day of this price (UTC); before it the published price holds."""
    multiplier: Usd | None = None
    """Applied to every published rate that isn't named here, as 0.85 for a discount."""
    residency: Usd | None = None
    """Applied last to all that is counted in tokens, as 1.1 where data stays in one region."""
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
    cache_write_12h: Usd | None = None
    """USD per million input tokens written to the provider's cache for twelve hours."""
    input_audio: Usd | None = None
    """USD per million audio tokens in."""
    cached_audio: Usd | None = None
    """USD per million audio tokens read from the provider's cache."""
    output_audio: Usd | None = None
    """USD per million audio tokens out."""
    input_image: Usd | None = None
    """USD per million image tokens in."""
    cached_image: Usd | None = None
    """USD per million image tokens read from the provider's cache."""
    output_image: Usd | None = None
    """USD per million image tokens out."""
    reasoning: Usd | None = None
    """USD per million reasoning tokens, where they don't cost what output costs."""
    citation: Usd | None = None
    """USD per million citation tokens, where they don't cost what output costs."""
    characters: Usd | None = None
    """USD per million characters read out."""
    audio_hour: Usd | None = None
    """USD per hour of audio, where it is measured by its length."""
    request: Usd | None = None
    """USD per request."""
    search: Usd | None = None
    """USD per thousand web searches made by the provider."""
    search_preview: Usd | None = None
    """USD per thousand web searches made by the preview of the provider's tool, where that costs more."""
    file_search: Usd | None = None
    """USD per thousand file searches made by the provider."""
    code_interpreter: Usd | None = None
    """USD per container that the provider's code interpreter ran in."""
    gpu_hour: Usd | None = None
    """USD per hour of the GPUs that serve the model, for servers of your own; needs `tokens_per_gpu_hour`."""
    tokens_per_gpu_hour: Positive | None = None
    """Tokens, in and out, that those GPUs handle in an hour at their usual load."""
    max_output: Positive | None = None
    """The most tokens that one answer can have: what a hard budget holds for a request without a cap."""
