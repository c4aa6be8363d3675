"""What an upstream's failure becomes for the client, and whether it may have cost money.

Pure. Everything that affects this mapping lives here: the classes P (nothing billed), A (maybe billed) and
pass-through of the fault table.

- P: nothing was billed. The client gets the given status, and may try again.
- A: it may have been billed. The client gets 502 or 504 with `x-should-retry: false`, because each replay may bill
  again; the attempt stays `unknown` at its estimate until it is reconciled with the invoice.
- pass: the upstream's own answer is the truth, and goes to the client as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.errors import NO_RETRY, OVERLOADED, UPSTREAM, WeirError
from proxy.wire.client import Progress, WireError
from proxy.wire.headers import Headers, get

SOON: Final = (b"retry-after", b"1")  # our own advice, where the upstream gave none


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure: what the client gets, and whether the attempt may have been billed."""

    error: WeirError
    billed: bool

    def __post_init__(self) -> None:
        self.error.billed = self.billed  # for layers that would try again


_CONNECTING: Final = {
    "refused": (503, "upstream_unreachable", "The upstream refused the connection."),
    "dns": (503, "upstream_unreachable", "The upstream's name could not be resolved."),
    "connect_timeout": (504, "upstream_connect_timeout", "The upstream did not accept a connection in time."),
    "pool": (503, "upstream_saturated", "All connections to the upstream are busy."),
    "tls": (502, "upstream_tls", "The upstream's TLS certificate or handshake was not acceptable."),
    "proxy": (502, "forward_proxy", "The forward proxy did not open a tunnel to the upstream."),
    "reset": (503, "upstream_unreachable", "The upstream closed the connection before the request was sent."),
}


def of_wire(error: WireError) -> Fault:
    """A failure on the wire, before the answer had begun to reach the client."""
    if error.progress is Progress.CONNECTING:
        status, code, message = _CONNECTING.get(
            error.kind, (502, "upstream_error", "The upstream could not be reached.")
        )
        headers = (SOON,) if status == 503 else ()
        return Fault(WeirError(status, message, type=UPSTREAM, code=code, headers=headers), billed=False)
    if error.kind == "timeout":
        return maybe_billed(504, "upstream_timeout", f"The upstream did not answer in time ({error.detail}).")
    if error.kind == "malformed":
        return maybe_billed(502, "upstream_malformed", "The upstream's answer is not valid HTTP.")
    if error.kind == "truncated":
        return maybe_billed(502, "upstream_truncated", "The upstream's answer broke off.")
    return maybe_billed(502, "upstream_reset", "The upstream closed the connection without an answer.")


def maybe_billed(status: int, code: str, message: str) -> Fault:
    """A failure after which nobody knows whether the upstream did the work: the client must not replay it unasked."""
    error = WeirError(status, message, type=UPSTREAM, code=code, headers=(NO_RETRY,))
    return Fault(error, billed=True)


def of_status(status: int, headers: Headers, body: bytes, own_key: bool) -> Fault | None:
    """A failure that the upstream told by its status; None where its answer goes to the client as it is."""
    if status < 300:
        return None
    if status < 400:
        if status == 304:
            return None
        error = WeirError(
            502, f"The upstream answered with a redirect ({status}), which is never followed.", type=UPSTREAM
        )
        error.code = "upstream_redirect"
        return Fault(error, billed=False)
    if own_key and status in (401, 403):
        return _key_refused()
    if status in (503, 529):
        return Fault(_told(503, status, headers, body, OVERLOADED, "upstream_overloaded"), billed=False)
    if status >= 500:
        fault = maybe_billed(504 if status == 504 else 502, f"upstream_{status}", "")
        fault.error.message = _message(status, body)
        fault.error.headers = (NO_RETRY, *(pair for pair in _kept(headers) if not pair[0].startswith(b"retry")))
        return fault
    if not _is_json(headers) or not _has_error(body):
        error = _told(status, status, headers, body, "invalid_request_error" if status < 429 else UPSTREAM, None)
        return Fault(error, billed=False)
    return None


def _key_refused() -> Fault:
    message = "The upstream refused the key that this proxy is configured with. The operator has been told."
    error = WeirError(502, message, type=UPSTREAM, code="upstream_key_refused", headers=(NO_RETRY,))
    return Fault(error, billed=False)


def of_event(error: dict[str, Any], first: bool, own_key: bool) -> Fault:
    """An error told inside a stream. As the first event nothing was billed, and a status can still be given."""
    message = str(error.get("message") or "The upstream reported an error.")
    code, kind = error.get("code"), str(error.get("type") or UPSTREAM)
    if first and own_key and not {str(code), kind}.isdisjoint(_KEY_REFUSED):
        return _key_refused()
    status = _status_of(code, kind) if first else 502
    made = WeirError(status, message, type=kind, code=None if code is None else str(code))
    param = error.get("param")
    made.param = param if isinstance(param, str) else None
    return Fault(made, billed=not first)


_KEY_REFUSED: Final = frozenset(("401", "403", "invalid_api_key", "authentication_error"))
_EVENT_STATUS: Final = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "overloaded_error": 503,
    "not_found_error": 404,
}


def _status_of(code: Any, kind: str) -> int:
    if isinstance(code, int) and 400 <= code < 600:
        return 503 if code == 529 else code if code < 500 or code == 503 else 502
    return _EVENT_STATUS.get(str(code)) or _EVENT_STATUS.get(kind) or 502


def _told(status: int, upstream: int, headers: Headers, body: bytes, kind: str, code: str | None) -> WeirError:
    kept = _kept(headers)
    if status == 503 and not any(name.startswith(b"retry") for name, _ in kept):
        kept = (*kept, SOON)
    return WeirError(status, _message(upstream, body), type=kind, code=code, headers=kept)


_KEPT: Final = (b"retry-after", b"retry-after-ms", b"x-request-id", b"request-id")


def _kept(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """What an upstream says beside its failure that its client can use."""
    return tuple((name, value) for name in _KEPT if (value := get(headers, name)))


def _message(status: int, body: bytes) -> str:
    """The upstream's own words where they are an error in JSON; never a page of HTML."""
    own = f"The upstream failed with status {status}."
    try:
        told = orjson.loads(body)
    except ValueError:
        return own
    error = told.get("error") if isinstance(told, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return f"{own} It said: {message[:500]}" if isinstance(message, str) and message else own


def _is_json(headers: Headers) -> bool:
    kind = get(headers, b"content-type") or b""
    return b"json" in kind.partition(b";")[0].lower()


def _has_error(body: bytes) -> bool:
    """Whether a body is an error in some JSON form, so that it can pass as it is."""
    try:
        told = orjson.loads(body)
    except ValueError:
        return False
    return isinstance(told, dict)


CUT: Final = "The upstream's stream broke off before its end. What came so far is not the whole answer."


def cut_short(why: str, code: str) -> WeirError:
    """The error event of a stream that can't go on (class M)."""
    return WeirError(502, f"{CUT} ({why})", type=UPSTREAM, code=code)
