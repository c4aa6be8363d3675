"""`trace`: has requests traced, from the client's own trace on, and tells upstreams where theirs goes on.

    - use: trace
      sample: 10%

Rules:
1. A client's `traceparent` is continued, and its word on sampling is kept; a request without one begins a trace, of
   which `sample` are told.
2. What is told is made from the journal, by the supervisor, and only where it is told to export
   (`OTEL_EXPORTER_OTLP_ENDPOINT`); this layer notes the trace and passes it on.
3. The span that upstreams are told as their parent is the exchange's: retries and hedges are siblings beneath it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from proxy.chain import Services
from proxy.config import Order
from proxy.config.scalars import Percent, Truth
from proxy.exchange import Forward, Request
from proxy.response import Response
from proxy.tracing.parent import NOTED, Parent, drawn, parent_in, passed_on, span_of, trace_of

ORDER = Order(
    outside=("cache", "coalesce", "microbatch", "cascade", "route", "hedge", "fallback", "retry"),
    why="requests that don't come so far would have no trace",
)


class Config(BaseModel):
    """Which requests are traced, and who is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample: Percent = 1.0
    """Of the requests that bring no trace of their own."""
    trust: Truth = True
    """Continue the traces of clients; without it each request begins one."""
    propagate: Truth = True
    """Tell upstreams; without it their requests have no `traceparent`, not even the client's."""


def begun(config: Config, exchange: str, parent: Parent | None) -> tuple[str, bool]:
    """The trace of an exchange, and whether it is told."""
    if parent is not None:
        return parent.trace, parent.sampled
    trace = trace_of(exchange)
    return trace, drawn(trace, config.sample)


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    parent = parent_in(request.headers) if config.trust else None
    if parent is not None:
        return f"continues the trace {parent.trace}, {'told' if parent.sampled else 'not told'}"
    return f"begins a trace, {config.sample:.0%} are told"


class Trace:
    """The layer."""

    def __init__(self, config: Config, services: Services) -> None:
        self._config = config
        self._name, self._source = services.name, services.source

    async def __call__(self, request: Request, forward: Forward) -> Response:
        exchange, config = request.exchange, self._config
        parent = parent_in(request.headers) if config.trust else None
        trace, sampled = begun(config, exchange.id, parent)
        if sampled:
            exchange.note(self._name, NOTED, self._source, trace=trace, parent=parent and parent.span)
        if config.propagate:
            headers = passed_on(request.headers, trace, span_of(exchange.id), sampled, parent is not None)
        else:
            headers = [pair for pair in request.headers if pair[0] not in (b"traceparent", b"tracestate")]
        return await forward(request.using(headers=headers))


def build(config: Config, services: Services) -> Trace:
    """The policy for one entry of a policy file."""
    return Trace(config, services)
