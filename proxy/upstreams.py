"""Upstreams and deployments as a worker uses them: a pool of connections, and the request head made ready.

What lives here: which deployment serves a model, which credentials go with it, and what a request's head looks like
there. Egress goes to configured upstreams only: nothing from a request chooses a host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from proxy.config import Configuration
from proxy.config import Upstream as UpstreamConfig
from proxy.errors import WeirError
from proxy.exchange import Request
from proxy.wire.connect import Connector, forward_proxy_for, origin_of
from proxy.wire.headers import connection_options, for_upstream
from proxy.wire.pool import Pool
from proxy.wire.ticker import Ticker

CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"api-key"))
_NEWEST: Final = 0.2  # how much the newest latency counts
_FAILED_NS: Final = 2e9
_SLOWEST_NS: Final = 60e9
_LOOK_ROUND: Final = 20
_NOTHING: Final[frozenset[str]] = frozenset()
_ROOT: Final = b"/v1"
_PLACE: Final = "{model}"


class Upstream:
    """One provider's API, with this worker's connections to it."""

    def __init__(
        self,
        name: str,
        config: UpstreamConfig,
        configuration: Configuration,
        connector: Connector,
        ticker: Ticker,
        env: Mapping[str, str],
    ) -> None:
        timeouts = configuration.deployment.timeouts
        self.name = name
        self.config = config
        self.url = config.url
        self.provider = config.provider
        via = config.proxy or (forward_proxy_for(config.url, dict(env)) if config.url.startswith("https") else None)
        self.origin = origin_of(config.url, str(config.ca) if config.ca else None, via)
        if self.origin.secure:
            connector.context(self.origin.ca)  # reads certificate files: now, not at the first request
        self.total_s = config.timeouts.total_s or timeouts.total_s
        self.flex_s = config.timeouts.flex_s or timeouts.flex_s
        self.stream_idle_s = config.timeouts.stream_idle_s or timeouts.stream_idle_s
        self.pool = Pool(
            self.origin,
            connector,
            ticker,
            max_connections=config.pool.max_connections,
            idle_s=config.pool.idle_s,
            connect_s=config.timeouts.connect_s or timeouts.connect_s,
            user_timeout_s=timeouts.user_timeout_s,
        )
        self.include_usage = True  # cleared when it turns out that this upstream rejects `stream_options`
        own = frozenset(header.lower().encode() for header in config.headers)
        keys_mode = configuration.deployment.keys == "required"
        # Whose credentials it gets: ours, or those that the client sent along.
        self.own_key = config.key is not None or keys_mode or bool(own & CREDENTIALS)
        self.response_headers = frozenset(header.lower().encode() for header in config.response_headers)
        self._path = urlsplit(config.url).path.rstrip("/")
        self._query = urlencode(config.query).encode()
        self._own = self._own_lines(config)
        self._own_names = own

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.origin.scheme}://{self.origin.host}:{self.origin.port}>"

    def _own_lines(self, config: UpstreamConfig) -> bytes:
        lines = [b"host: %b\r\n" % self.origin.authority]
        if config.key is not None and config.auth != "none":
            key = config.key.reveal().encode()
            name, value = (
                (b"authorization", b"Bearer " + key) if config.auth == "bearer" else (config.auth.encode(), key)
            )
            lines.append(b"%b: %b\r\n" % (name, value))
        for header, text in config.headers.items():
            lines.append(b"%b: %b\r\n" % (header.lower().encode(), text.encode("latin-1")))
        return b"".join(lines)

    def head(self, request: Request, model: str) -> bytes:
        """The request's head as this upstream gets it, but for the lines that frame its body and the end.

        What it becomes for the same client headers is remembered with them, as long as no policy changed them.
        """
        heads = request.exchange.heads
        if heads is None or heads.headers is not request.headers:
            return self._head(request, model)
        key = (self, request.target, model if _PLACE in self._path else None)
        made = heads.made.get(key)
        if made is None:
            made = heads.made[key] = self._head(request, model)
        return made

    def _head(self, request: Request, model: str) -> bytes:
        headers = request.headers
        dropped = connection_options(headers) | self._own_names
        if self.own_key:
            dropped |= CREDENTIALS  # a virtual key is nobody's business, and a second credential would be ambiguous
        lines = []
        if request.endpoint.dialect is not None:
            # What is metered must be readable; a body that was understood goes on unpacked.
            dropped |= {b"accept-encoding"}
            lines.append(b"accept-encoding: identity\r\n")
        if request.endpoint.parsed:
            dropped |= {b"content-encoding"}
        lines.extend([b"%b: %b\r\n" % pair for pair in for_upstream(headers, dropped)])
        target = self._target(request.target, model)
        return b"%b %b HTTP/1.1\r\n%b%b" % (request.method.encode(), target, self._own, b"".join(lines))

    def _target(self, target: bytes, model: str) -> bytes:
        path = self._path.replace(_PLACE, quote(model, safe="")) if _PLACE in self._path else self._path
        rest = target.removeprefix(_ROOT)
        if not self._query:
            return path.encode() + rest
        return path.encode() + rest + (b"&" if b"?" in rest else b"?") + self._query


class Deployment:
    """A model at an upstream."""

    __slots__ = ("_current", "label", "latency_ns", "measured", "model", "others", "upstream", "weight")

    def __init__(self, upstream: Upstream, model: str | None, weight: float) -> None:
        self.upstream = upstream
        self.model = model
        self.weight = weight
        self.label = f"{upstream.name}/{model}" if model else upstream.name
        self.others: tuple[str, ...] = ()  # the labels of the model's other deployments
        self.measured = False  # whether somebody wants to know its latency
        self.latency_ns = 0.0  # to the first token, of late; 0 as long as nobody knows
        self._current = 0.0

    def __repr__(self) -> str:
        return f"<Deployment {self.label}>"

    def took(self, ttft_ns: int) -> None:
        """An answer came, after this long."""
        self.latency_ns += (ttft_ns - self.latency_ns) * (_NEWEST if self.latency_ns else 1.0)

    def failed(self) -> None:
        """None came: that counts as slow, and slower each time."""
        self.latency_ns = min(max(2 * self.latency_ns, _FAILED_NS), _SLOWEST_NS)


class Route:
    """The deployments that serve what a client asked for."""

    __slots__ = ("_least_latency", "_picks", "deployments")

    def __init__(self, deployments: list[Deployment], least_latency: bool = False) -> None:
        self.deployments = deployments
        self._least_latency = least_latency and len(deployments) > 1
        self._picks = 0
        for deployment in deployments:
            deployment.measured = self._least_latency
            deployment.others = tuple([other.label for other in deployments if other is not deployment])

    def pick(self, avoid: frozenset[str] = _NOTHING) -> Deployment:
        """The one whose turn it is; or the quickest, and now and then another, to see whether it still is.

        Those that the exchange has given up (`avoid`) come only where no other is left.
        """
        deployments = self.deployments
        if len(deployments) == 1:
            return deployments[0]
        if avoid:
            deployments = [deployment for deployment in deployments if deployment.label not in avoid] or deployments
        if self._least_latency:
            self._picks += 1
            if self._picks % _LOOK_ROUND:
                return min(deployments, key=lambda deployment: deployment.latency_ns)
        return _next(deployments)


def _next(deployments: list[Deployment]) -> Deployment:
    """The next one in smooth weighted round robin: in proportion to the weights, and evenly spread."""
    for deployment in deployments:
        deployment._current += deployment.weight
    chosen = max(deployments, key=lambda deployment: deployment._current)
    chosen._current -= sum(deployment.weight for deployment in deployments)
    return chosen


class Routes:
    """From model names to deployments, for one configuration."""

    def __init__(self, configuration: Configuration, upstreams: Mapping[str, Upstream]) -> None:
        self._configuration = configuration
        self._upstreams = upstreams
        self._by_pattern: dict[str, Route] = {}
        self._by_model: dict[str, Route] = {}
        anything = configuration.deployment.models.get("*")
        name = anything.deployments[0].upstream if anything else next(iter(upstreams))
        self._default = Route([Deployment(upstreams[name], None, 1.0)])

    def route(self, model: str | None) -> Route:
        """The deployments for a model. Raises WeirError 404.

        Requests without one are about objects, which stay where they were made: they go to one upstream, always.
        """
        if model is None:
            return self._default
        route = self._by_model.get(model)
        if route is None:
            route = self._look_up(model)
            if len(self._by_model) < 4096:  # names come from clients
                self._by_model[model] = route
        return route

    def _look_up(self, model: str) -> Route:
        if not self._configuration.deployment.models:
            return self._default
        found = self._configuration.model_for(model)
        if found is None:
            message = f"The model `{model[:200]}` does not exist or you do not have access to it."
            raise WeirError(404, message, code="model_not_found", param="model")
        return self._of(found[0])

    def _of(self, pattern: str) -> Route:
        if pattern not in self._by_pattern:
            model = self._configuration.deployment.models[pattern]
            self._by_pattern[pattern] = Route(
                [Deployment(self._upstreams[d.upstream], d.model, d.weight) for d in model.deployments],
                model.balance == "least-latency",
            )
        return self._by_pattern[pattern]

    @property
    def upstreams(self) -> list[Upstream]:
        """All of them, in the order of the file."""
        return list(self._upstreams.values())
