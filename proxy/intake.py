"""From a request on the wire to a `Request`: what is checked before the chain sees it.

Pure but for the identity's look-up in memory. Refuses early: credentials and media type before the body is read, JSON
before any policy runs.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

import msgspec

from proxy import idempotency
from proxy.body import Body, scan
from proxy.config import Configuration
from proxy.config.overload import Priority
from proxy.endpoints import Endpoint
from proxy.errors import WeirError
from proxy.exchange import Heads, Identity
from proxy.feedback import Given, of_header
from proxy.pressure.priority import CLASSES, NORMAL
from proxy.remembered import Bodies
from proxy.wire.call import Call
from proxy.wire.head import Head
from proxy.wire.headers import Headers, get

_PAIR: Final = re.compile(r"\s*([A-Za-z0-9_.:-]{1,64})\s*=\s*([^,;\x00-\x1f]{0,256}?)\s*")
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(ms|s|m|h)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_TAGS: Final = 32


class Wishes(msgspec.Struct, frozen=True):
    """What the client asked of the proxy itself, as far as the policy file lets it."""

    tags: dict[str, str]
    bypass: frozenset[str] = frozenset()
    deadline_s: float | None = None
    idempotency_key: bytes | None = None
    priority: Priority | None = None
    feedback: Given | None = None


class Known(msgspec.Struct, frozen=True, eq=False):
    """What was found out about a request before its body was read. Holds while `version` is the data plane's."""

    identity: Identity
    endpoint: Endpoint
    wishes: Wishes
    heads: Heads
    version: object
    until: float = float("inf")  # Unix seconds: when the key expires
    rank: int = NORMAL  # whose requests come first under overload
    typed: bool = False  # its client is Anthropic's, which reads errors by their `type`


def wishes(headers: Headers, configuration: Configuration, own: dict[str, str]) -> Wishes:
    """Reads `x-weir-tags`, `-bypass`, `-deadline`, `-priority`, `-feedback`, and `idempotency-key`. The key's own tags
    can't be overwritten."""
    tags, bypass, deadline_s, key, priority, feedback = own, frozenset[str](), None, None, None, None
    honour = configuration.honour
    for name, value in headers:
        if not name.startswith(b"x-weir-"):
            if name == idempotency.HEADER:
                key = value
            continue
        text = value.decode("latin-1")
        if name == b"x-weir-tags" and honour.tags:
            tags = {**_tags(text), **own}
        elif name == b"x-weir-bypass" and honour.bypass:
            bypass = frozenset(part.strip() for part in text.split(",")) & frozenset(honour.bypass)
        elif name == b"x-weir-deadline" and honour.deadline:
            deadline_s = _duration(text)
        elif name == b"x-weir-priority" and honour.priority != "none":
            priority = _priority(text)
        elif name == b"x-weir-feedback" and honour.feedback:
            feedback = of_header(text)
    return Wishes(tags, bypass, deadline_s, key, priority, feedback)


def _priority(text: str) -> Priority:
    found = text.strip().lower()
    for known in CLASSES:
        if found == known:
            return known
    message = "x-weir-priority must be high, normal or low."
    raise WeirError(400, message, code="invalid_header", param="x-weir-priority")


def _tags(text: str) -> dict[str, str]:
    tags: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        pair = _PAIR.fullmatch(part)
        if pair is None or len(tags) >= _TAGS:
            message = f"x-weir-tags must be at most {_TAGS} pairs `name=value`, separated by commas."
            raise WeirError(400, message, code="invalid_header", param="x-weir-tags")
        tags[pair[1]] = pair[2]
    return tags


def _duration(text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise WeirError(
            400,
            "x-weir-deadline must be a duration such as 30s, 15m or 24h.",
            code="invalid_header",
            param="x-weir-deadline",
        )
    return float(match[1]) * _UNITS[match[2]]


def check_media_type(head: Head) -> None:
    """Endpoints whose JSON is understood take JSON: raises 415 for anything else that is declared."""
    declared = get(head.headers, b"content-type")
    if declared is None or not head.has_body:
        return
    kind = declared.partition(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json"):
        shown = kind.decode("latin-1")[:100]
        message = f"Content-Type is `{shown}`, but this endpoint takes `application/json`."
        raise WeirError(415, message, code="unsupported_media_type")


def is_form(head: Head) -> bool:
    """Whether the body is a form, which carries files."""
    return (get(head.headers, b"content-type") or b"").strip().lower().startswith(b"multipart/")


def understood(
    call: Call, limit_bytes: int, nesting: int, identity: Identity | None = None, bodies: Bodies | None = None
) -> Body:
    """The scanned JSON body of a request to an endpoint that is understood; one of `bodies`, if that has it."""
    raw = call.body
    assert isinstance(raw, bytes)
    coding = get(call.head.headers, b"content-encoding")
    if coding is None:
        if raw:
            known = bodies.get(identity, raw) if bodies and identity is not None else None
            return known or scan(raw, nesting)
        coding = b"identity"
    coding = coding.strip().lower()
    if coding in (b"gzip", b"x-gzip", b"deflate"):
        packed, raw = len(raw), _inflated(raw, limit_bytes)
        call.hold(len(raw) - packed)
    elif coding != b"identity":
        message = f"Content-Encoding `{coding.decode('latin-1')[:50]}` isn't understood: send gzip, deflate or none."
        raise WeirError(415, message, code="unsupported_encoding", headers=((b"accept-encoding", b"gzip, deflate"),))
    if not raw:
        raise WeirError(400, "The request has no body, but this endpoint takes a JSON object.", code="invalid_json")
    return scan(raw, nesting)


def _inflated(raw: bytes, limit_bytes: int) -> bytes:
    inflate = zlib.decompressobj(47)
    try:
        out = inflate.decompress(raw, limit_bytes + 1)
    except zlib.error:
        raise WeirError(400, "The request's body is not valid gzip or deflate.", code="invalid_encoding") from None
    if len(out) > limit_bytes:
        message = f"The request's body unpacks to more than {limit_bytes} bytes, the limit for this endpoint."
        raise WeirError(413, message, code="request_too_large")
    if not inflate.eof:
        raise WeirError(400, "The request's compressed body is cut short.", code="invalid_encoding")
    if inflate.unused_data:
        raise WeirError(400, "Something follows the request's compressed body.", code="invalid_encoding")
    return out


def model_of(body: Body) -> str | None:
    """The model asked for; None where the body names none."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise WeirError(400, "`model` must be a string.", param="model", code="invalid_type")
    return model
