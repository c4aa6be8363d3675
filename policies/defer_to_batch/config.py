"""The options of `defer_to_batch`, and which way a request goes. Pure."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from policies.webhook import Webhook
from proxy.config.scalars import Duration, Size, Truth
from proxy.exchange import Request

Way = Literal["now", "flex", "batch"]
LEAST_MARGIN_S: Final = 900.0  # a provider's cancellation takes up to ten minutes

_FLEX: Final = frozenset(("chat.completions", "responses"))
_BATCH: Final = frozenset(("chat.completions", "responses", "completions", "embeddings", "moderations"))


class Config(BaseModel):
    """Requests that can wait are served for less: minutes by the tier `flex`, hours by the provider's batches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: Duration | None = None
    """How long requests can wait that don't say it by `x-weir-deadline`; without it, not at all."""
    flex: Truth = True
    """Whether `service_tier: flex` is used."""
    flex_from: Duration = Field(default=60.0, json_schema_extra={"default": "1m"})
    """The least time that a request must have for flex."""
    flex_margin: Duration = Field(default=30.0, json_schema_extra={"default": "30s"})
    """This long before the deadline the standard tier takes over."""
    batch: Truth = True
    """Whether the provider's batches are used."""
    batch_from: Duration = Field(default=3600.0, json_schema_extra={"default": "1h"})
    """The least time that a request must have for a batch; `margin` and some more."""
    margin: Annotated[Duration, Field(ge=LEAST_MARGIN_S)] = Field(default=1200.0, json_schema_extra={"default": "20m"})
    """This long before the deadline a batch is cancelled, and the rest of it run synchronously."""
    gather: Duration = Field(default=10.0, json_schema_extra={"default": "10s"})
    """How long requests are gathered, by model, before they are submitted as one batch."""
    max_requests: Annotated[int, Field(ge=1, le=50_000)] = 50_000
    """How many go as one batch."""
    max_size: Size = 64 * 1024 * 1024
    """How large its file may be."""
    poll: Duration = Field(default=30.0, json_schema_extra={"default": "30s"})
    """How often the provider is asked how a batch stands."""
    at_once: Annotated[int, Field(ge=1)] = 16
    """How many are run synchronously at once."""
    keep: Duration = Field(default=172_800.0, json_schema_extra={"default": "2d"})
    """How long answers are kept for their clients."""
    webhook: Webhook | None = None
    """Who is told when a job is over."""


def way(config: Config, request: Request, wait_s: float | None, *, own_key: bool) -> Way:
    """Which way a request goes that can wait so long."""
    name, get = request.endpoint.name, request.field
    if wait_s is None or get("service_tier") not in (None, "auto", "default"):
        return "now"
    plain = get("stream") is not True and not get("background") and get("store") is not True
    if config.batch and name in _BATCH and plain and own_key and wait_s >= max(config.batch_from, config.margin + 60):
        return "batch"
    return "flex" if config.flex and name in _FLEX and wait_s >= config.flex_from else "now"
