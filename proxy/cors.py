"""Cross-origin requests (WHATWG Fetch, "CORS protocol"): answered as the deployment file says. Pure."""

from __future__ import annotations

from proxy.config import Cors
from proxy.wire.headers import Headers, get


class CorsRules:
    """The compiled `cors:` section."""

    def __init__(self, config: Cors) -> None:
        self._origins = frozenset(origin.encode() for origin in config.origins)
        self._any = b"*" in self._origins
        self._headers = ", ".join(config.headers).encode()
        self._expose = ", ".join(config.expose).encode()
        self._max_age = str(int(config.max_age_s)).encode()
        self._credentials = config.credentials

    def answer(self, request: Headers) -> Headers:
        """The fields of an answer to a page of an allowed origin; none for any other."""
        origin = get(request, b"origin")
        if origin is None or not (self._any or origin in self._origins):
            return []
        anyone = self._any and not self._credentials
        fields = [(b"access-control-allow-origin", b"*" if anyone else origin)]
        if not anyone:
            fields.append((b"vary", b"Origin"))
        if self._credentials:
            fields.append((b"access-control-allow-credentials", b"true"))
        if self._expose:
            fields.append((b"access-control-expose-headers", self._expose))
        return fields

    def preflight(self, request: Headers) -> Headers:
        """The fields of the answer to a preflight."""
        fields = self.answer(request)
        if not fields:
            return []
        wanted = get(request, b"access-control-request-headers")
        headers = wanted if self._headers == b"*" and wanted else self._headers
        return [
            *fields,
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", headers),
            (b"access-control-max-age", self._max_age),
        ]
