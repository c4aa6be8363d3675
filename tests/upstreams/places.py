"""Deployments without sockets, requests without clients, and a clock that a test moves."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from proxy.body import scan
from proxy.config.balancing import Breaker
from proxy.endpoints import understood_paths
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Identity, Request
from proxy.upstreams import Deployment, Flight, Route
from proxy.upstreams.key import Key
from proxy.upstreams.line import Health, Line
from proxy.wire.headers import Headers
from tests.wire.raw import chat

CHAT = understood_paths()["/v1/chat/completions"]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Place:
    """What a deployment asks of its upstream."""

    def __init__(self, name: str, *, keys: int = 1, own_key: bool = True, breaker: Breaker | None = None) -> None:
        self.name = name
        self.own_key = own_key
        self.keys = tuple(Key(number, b"", keys > 1) for number in range(1, keys + 1))
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._health = Health(breaker or Breaker())
        self._lines: dict[tuple[int, str | None], Line] = {}

    def line(self, key: Key, model: str | None) -> Line:
        return self._lines.setdefault((key.number, model), Line(key, model, self._health))

    def tell(self, event: str, **fields: Any) -> None:
        self.told.append((event, fields))


@dataclass
class Answered:
    """As much of an answer as a flight looks at."""

    status: int
    attempt: Attempt
    headers: Headers = field(default_factory=list)
    body: bytes = b"{}"

    def response(self) -> Answered:
        return self

    def held(self) -> bytes:
        return self.body


def deployments(clock: Clock, *names: str, **options: Any) -> list[Deployment]:
    """One at each of these upstreams; `options` are of the upstreams, or `max_concurrent` and `weights`."""
    most, weights = options.pop("max_concurrent", None), options.pop("weights", itertools.repeat(1.0))
    places = [Place(name, **options) for name in names]
    made = [
        Deployment(place, None, weight, key=key, max_concurrent=most, clock=clock, wall=lambda: 0.0)  # type: ignore[arg-type]
        for place, weight in zip(places, weights, strict=False)
        for key in place.keys
    ]
    for each in made:
        each.among(made)
    return made


def request(content: str = "Hello", model: str = "m", stream: bool = False, deadline: float = 1e12) -> Request:
    """A chat."""
    body = scan(chat(stream, model=model, messages=[{"role": "user", "content": content}]))
    exchange = Exchange(Identity("tenant"), asked=model, deadline=deadline)
    return Request(exchange, CHAT, "POST", b"/v1/chat/completions", "/v1/chat/completions", [], body, model)


def begin(deployment: Deployment, asked: Request | None = None) -> tuple[Flight, Attempt]:
    """A call of it."""
    asked = asked or request()
    attempt = Attempt(asked.exchange, asked, 1, deployment.label, deployment.upstream.name, "m")
    return deployment.begin(attempt), attempt


def answer(
    deployment: Deployment, took_s: float = 0.1, status: int = 200, headers: Headers | None = None, body: bytes = b"{}"
) -> None:
    """A call of it that is answered."""
    flight, attempt = begin(deployment)
    attempt.ttft_ns, attempt.status = int(took_s * 1e9), status
    flight.heard(Answered(status, attempt, headers or [], body))  # type: ignore[arg-type]
    attempt.outcome = "complete" if status < 400 else "failed"
    flight.land(attempt)


def fail(deployment: Deployment, error: WeirError, *, deadline: float = 1e12, status: int | None = None) -> None:
    """A call of it that isn't."""
    flight, attempt = begin(deployment, request(deadline=deadline))
    attempt.outcome, attempt.error, attempt.status = "failed", error.code, status
    flight.land(attempt)
    flight.failed(error)


def picks(route: Route, count: int, *, keep: bool = False, asked: Request | None = None) -> list[str]:
    """The labels of so many choices; with `keep`, their calls go on."""
    found = []
    for _ in range(count):
        chosen = route.pick(asked or request())
        if keep:
            begin(chosen)
        found.append(chosen.label)
    return found
