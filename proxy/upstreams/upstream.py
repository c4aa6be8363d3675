"""An upstream as a worker uses it: a pool of connections, its keys, and a request's head made ready.

Egress goes to configured upstreams only: nothing from a request chooses a host. What was learnt of an upstream lasts as
long as its part of the configuration: a reload that doesn't change that keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from proxy.config import Configuration, Secret, globs
from proxy.config import Upstream as UpstreamConfig
from proxy.exchange import Request
from proxy.reasoning import asked
from proxy.upstreams.key import Key
from proxy.upstreams.line import Health, Line
from proxy.wire.connect import Connector, forward_proxy_for, origin_of
from proxy.wire.headers import connection_options, for_upstream
from proxy.wire.pool import Pool
from proxy.wire.ticker import Ticker

CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"api-key"))
_ROOT: Final = b"/v1"
_PLACE: Final = "{model}"
_SECRET_LENGTH: Final = 16  # shorter fields name versions and organisations


Tell = Callable[..., object]
"""(event, **fields): something happened that operators want to know of."""


def _nobody(event: str, **fields: object) -> None:
    """Nobody wants to know."""


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
        tell: Tell = _nobody,
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
        self.reasoning_s = config.timeouts.reasoning_s or timeouts.reasoning_s
        self._reasons = globs(list(timeouts.reasoning_models))
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
        self.own_key = bool(config.secrets) or keys_mode or bool(own & CREDENTIALS)
        self.keys = self._made_keys(config)
        self.tell = tell
        self.response_headers = frozenset(header.lower().encode() for header in config.response_headers)
        self._path = urlsplit(config.url).path.rstrip("/")
        self._query = urlencode(config.query).encode()
        self._own = self._own_lines(config)
        self._own_names = own
        self._unsaid = _secrets(config)
        self._lines: dict[tuple[int, str | None], Line] = {}
        self._healths: dict[str | None, Health] = {}

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.origin.scheme}://{self.origin.host}:{self.origin.port}>"

    def limit_s(self, request: Request, model: str, tier: str | None) -> float:
        """How long an attempt may take, by its class: flex, a model that thinks, or any other."""
        if tier == "flex":
            return self.flex_s
        if self.reasoning_s is not None and (
            self._reasons(model) or self._reasons(request.model) or asked(request.field)
        ):
            return self.reasoning_s
        return self.total_s

    def line(self, key: Key, model: str | None) -> Line:
        """What is known of a model here by one of the keys; None: of all whose names pass through."""
        line = self._lines.get((key.number, model))
        if line is None:
            health = self._healths.setdefault(model, Health(self.config.breaker))
            line = self._lines[key.number, model] = Line(key, model, health)
        return line

    def _made_keys(self, config: UpstreamConfig) -> tuple[Key, ...]:
        secrets = config.secrets if config.auth != "none" else ()
        lines = [self._key_line(config, secret) for secret in secrets] or [b""]
        return tuple([Key(number, line, len(lines) > 1) for number, line in enumerate(lines, 1)])

    @staticmethod
    def _key_line(config: UpstreamConfig, secret: Secret) -> bytes:
        value = secret.reveal().encode()
        if config.auth == "bearer":
            return b"authorization: Bearer %b\r\n" % value
        return b"%b: %b\r\n" % (config.auth.encode(), value)

    def _own_lines(self, config: UpstreamConfig) -> bytes:
        lines = [b"host: %b\r\n" % self.origin.authority]
        for header, text in config.headers.items():
            lines.append(b"%b: %b\r\n" % (header.lower().encode(), text.encode("latin-1")))
        return b"".join(lines)

    def unsaid(self, told: bytes) -> bytes:
        """What an upstream says of a failure without our keys, which some repeat there: clients read it."""
        for secret in self._unsaid:
            told = told.replace(secret, b"[key]")
        return told

    def head(self, request: Request, model: str, by: Key) -> bytes:
        """The request's head as this upstream gets it, but for the lines that frame its body and the end.

        What it becomes for the same client headers is remembered with them, as long as no policy changed them.
        """
        heads = request.exchange.heads
        if heads is None or heads.headers is not request.headers:
            return self._head(request, model, by)
        key = (self, request.target, model if _PLACE in self._path else None, by.number)
        made = heads.made.get(key)
        if made is None:
            made = heads.made[key] = self._head(request, model, by)
        return made

    def _head(self, request: Request, model: str, by: Key) -> bytes:
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
        return b"%b %b HTTP/1.1\r\n%b%b%b" % (request.method.encode(), target, by.lines, self._own, b"".join(lines))

    def _target(self, target: bytes, model: str) -> bytes:
        path = self._path.replace(_PLACE, quote(model, safe="")) if _PLACE in self._path else self._path
        rest = target.removeprefix(_ROOT)
        if not self._query:
            return path.encode() + rest
        return path.encode() + rest + (b"&" if b"?" in rest else b"?") + self._query


def _secrets(config: UpstreamConfig) -> tuple[bytes, ...]:
    """Keys, and fields long enough to be one."""
    fields = [text for text in config.headers.values() if len(text) >= _SECRET_LENGTH]
    return tuple(secret.encode() for secret in (*(key.reveal() for key in config.secrets), *fields))
