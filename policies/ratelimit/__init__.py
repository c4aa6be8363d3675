"""`ratelimit`: how many requests and tokens in a time, and how many at once.

- use: ratelimit
  per: key
  requests: 600/minute
  tokens: 90000/minute
  concurrency: 20

Limits hold for all workers, and for every call of an upstream: a retry counts. Rates are smooth (GCRA): what was used
comes back bit by bit, so that there is no double burst where two minutes meet.
"""

from __future__ import annotations

from policies.ratelimit.config import Config
from policies.ratelimit.layer import RateLimit
from proxy.chain import Services
from proxy.exchange import Request


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    whose = f" per {', '.join(config.per)}" if config.per else ""
    limits = [f"{rate.amount} requests/{rate.period}" for rate in config.requests or ()]
    limits += [f"{rate.amount} tokens/{rate.period}" for rate in config.tokens or ()]
    limits += [f"{config.concurrency} at once"] if config.concurrency is not None else []
    return f"counts it for {', '.join(limits)}{whose}"


def build(config: Config, services: Services) -> RateLimit:
    """The policy for one entry of a policy file."""
    return RateLimit(config, services)
