"""How long each step may take, and how much may be held.

Rules: models only. Names end in their unit; values may be written with another (`total_s: 10m`, `body_bytes: 32 MiB`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from proxy.config.scalars import Duration, Names, Size
from proxy.config.strict import Strict
from proxy.reasoning import MODELS

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[Duration, Field(gt=0)]
Bytes = Annotated[Size, Field(gt=0)]


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
    reasoning_s: Seconds | None = None
    """The same for models that think before they answer; without it, as for the others."""
    reasoning_models: Names = MODELS
    """Which models those are; a request with `reasoning_effort`, `reasoning` or `thinking` counts, too."""
    stream_idle_s: Seconds = 300.0
    """Between two reads from an upstream's stream."""
    slow_reader_s: Seconds = 60.0
    """How long a client may take no byte of a waiting answer."""
    user_timeout_s: Seconds = 30.0
    """TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged."""
    drain_s: Seconds = 30.0
    """How long running exchanges may go on after a stop was asked for."""
    drain_idle_s: Duration = 1.0
    """How long a worker that stops keeps an idle connection: a request on its way there is still answered."""

    @property
    def longest_s(self) -> float:
        """What an exchange of any class may take, as far as no upstream differs."""
        return max(self.total_s, self.flex_s, self.reasoning_s or 0.0)


class UpstreamTimeouts(Strict):
    """What differs from the deployment's timeouts at one upstream."""

    connect_s: Seconds | None = None
    """Name lookup, TCP and TLS."""
    total_s: Seconds | None = None
    """A whole exchange."""
    flex_s: Seconds | None = None
    """A whole exchange of the flex service tier."""
    reasoning_s: Seconds | None = None
    """A whole exchange with a model that thinks before it answers."""
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
