"""The cache's options, as a policy file gives them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from policies.cache.key import Share
from proxy.config.scalars import Duration, Names, Percent, Size, Truth


class Exact(BaseModel):
    """The exact tier: the same request gets the same answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttl: Duration = 86_400.0
    """How long an answer is fresh."""
    stale_while_revalidate: Duration = 0.0
    """How long after that it is still given, while it is asked for anew."""
    share: Share = "user"
    """Among whom answers are shared: `user` (whoever the request names in `safety_identifier`, `user` or
    `metadata.user_id`, within a key), `key` or `tenant`. Never across tenants."""
    vary: Names = ()
    """Request headers that can change the answer, besides those that choose an API's version."""
    sampled: Truth = False
    """Also requests whose answers vary: those whose temperature isn't 0."""
    refusals: Truth = False
    """Also answers in which the model refused."""
    honour_cache_control: Truth = True
    """Whether a request's own Cache-Control counts: `no-store`, `no-cache`, `max-age`, `min-fresh`, `max-stale`,
    `only-if-cached`."""
    max_entry: Size = 1024 * 1024
    """The largest answer that is kept."""
    tags: Names = ()
    """Names of tags of the exchange that entries carry too, so that they can be evicted by them."""


class Semantic(BaseModel):
    """The semantic tier: an earlier answer to a question that means the same, as often as it may be wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_error: Percent
    """How many of the answers that are given from it may be wrong."""
    embedder: Literal["static", "minilm", "upstream"] = "static"
    """Where vectors come from: `static`, a table that needs no network; `minilm`, a small transformer on this machine;
    or `upstream`, its `/v1/embeddings`."""
    model: str | None = None
    """The model of `embedder: upstream`; the directory that holds the one of `embedder: minilm`."""
    equal: Literal["similar", "text"] = "similar"
    """When two answers are the same: `text`, by their words and numbers, or `similar`, also when they say the same in
    other words."""
    judge: str | None = None
    """A model that is asked where `equal` says that two answers differ."""
    longest: int = Field(2000, ge=1)
    """The longest last turn that is compared, in characters."""
    entries: int = Field(100_000, ge=1)
    """How many entries each worker holds; those of the partition that was used least recently leave first."""

    @field_validator("max_error")
    @classmethod
    def _some(cls, value: float) -> float:
        if not 0.001 <= value <= 0.5:
            raise ValueError("`max_error` lies between 0.1% and 50%")
        return value

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.model is None) is not (self.embedder == "static"):
            raise ValueError("`model` names the model of `embedder: upstream` or `minilm`, and `static` has none")
        return self


class Config(BaseModel):
    """Answers requests from earlier answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact: Exact = Exact()
    """The exact tier."""
    semantic: Semantic | None = None
    """The semantic tier; none unless it is given."""
    memory: Size = 64 * 1024 * 1024
    """What each worker may hold in memory."""
    store_timeout: Duration = 0.025
    """How long a request waits for the shared level; after that it is a miss."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.exact.max_entry > self.memory:
            raise ValueError("`exact.max_entry` is larger than `memory`, which has to hold it")
        return self
