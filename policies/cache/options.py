"""The cache's options, as a policy file gives them."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from policies.cache.key import Share
from proxy.config.scalars import Duration, Names, Size, Truth


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


class Config(BaseModel):
    """Answers requests from earlier answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact: Exact = Exact()
    """The exact tier."""
    memory: Size = 64 * 1024 * 1024
    """What each worker may hold in memory."""
    store_timeout: Duration = 0.005
    """How long a request waits for the shared level; after that it is a miss."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.exact.max_entry > self.memory:
            raise ValueError("`exact.max_entry` is larger than `memory`, which has to hold it")
        return self
