"""Header fields as raw pairs: which of them cross the proxy, in either direction.

Names are lower case, values are bytes as they came. No dictionary is built for a request: the lists are short, and most
lookups were done once while parsing. RFC 9110, section 7.6.1 says which fields belong to one hop.
"""

from __future__ import annotations

from typing import Final

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)

# Written by this proxy, or told to it alone. A client's word about who it is (`x-forwarded-*`, `forwarded`) isn't
# passed on.
_NOT_FORWARDED: Final = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"forwarded",
    b"via",
    b"x-real-ip",
}
_NOT_FORWARDED_PREFIXES: Final = (b"x-weir-", b"x-forwarded-")

# An allow-list: a cookie, an alternative service or a strict-transport rule of the upstream isn't ours to pass on.
_RESPONSE_ALLOWED: Final = frozenset(
    (
        b"accept-ranges",
        b"age",
        b"cache-control",
        b"cf-ray",
        b"content-disposition",
        b"content-encoding",
        b"content-language",
        b"content-location",
        b"content-range",
        b"content-type",
        b"date",
        b"deprecation",
        b"etag",
        b"expires",
        b"last-modified",
        b"location",
        b"request-id",
        b"retry-after",
        b"retry-after-ms",
        b"sunset",
        b"vary",
        b"warning",
        b"x-ms-region",
        b"x-ms-request-id",
        b"x-request-id",
        b"x-should-retry",
        b"apim-request-id",
    )
)
_RESPONSE_ALLOWED_PREFIXES: Final = (b"openai-", b"anthropic-", b"x-ratelimit-", b"azureml-", b"x-envoy-upstream-")


def get(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a field (`name` in lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def connection_options(headers: Headers) -> frozenset[bytes]:
    """The names that `Connection` nominates as belonging to this hop."""
    options: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            options.update(token.strip().lower() for token in value.split(b","))
    return frozenset(options)


class _Memo(dict[bytes, bool]):
    """Remembers the verdict on a name; bounded, since names come from outside."""

    def __init__(self, allowed: frozenset[bytes], prefixes: tuple[bytes, ...], verdict: bool) -> None:
        super().__init__()
        self._named, self._prefixes, self._verdict = allowed, prefixes, verdict

    def __missing__(self, name: bytes) -> bool:
        listed = name in self._named or name.startswith(self._prefixes)
        verdict = listed is self._verdict
        if len(self) < 1024:
            self[name] = verdict
        return verdict


_request_passes = _Memo(_NOT_FORWARDED, _NOT_FORWARDED_PREFIXES, verdict=False)
_response_passes = _Memo(_RESPONSE_ALLOWED, _RESPONSE_ALLOWED_PREFIXES, verdict=True)


def for_upstream(headers: Headers, dropped: frozenset[bytes]) -> Headers:
    """The client's fields that go on to the upstream, but those in `dropped` (credentials, nominated by Connection)."""
    passes = _request_passes
    if dropped:
        return [pair for pair in headers if passes[pair[0]] and pair[0] not in dropped]
    return [pair for pair in headers if passes[pair[0]]]


def for_client(headers: Headers, extra: frozenset[bytes] = frozenset()) -> Headers:
    """The upstream's fields that go on to the client."""
    passes = _response_passes
    return [pair for pair in headers if passes[pair[0]] or pair[0] in extra]
