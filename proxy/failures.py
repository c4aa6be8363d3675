"""Why an attempt gave no answer, in words that policies share, and when its upstream wants to be asked again.

Pure but for `tried`, the one call that layers which call again have in common; the wall clock is a value. A failure
reaches a layer either as a `WeirError` whose `billed` isn't None, or as the upstream's own refusal, a `Response` of
status 400 or more. Refusals by layers and guards aren't failures of an attempt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, get_args

import msgspec
import orjson

from proxy.endpoints import uses_stored
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Forward, Request
from proxy.faults import SOON
from proxy.response import Outcome, Response
from proxy.wire.headers import Headers, get

Kind = Literal[
    "unreachable",  # no connection: nothing was sent
    "overloaded",  # 503, 529
    "rate_limited",  # 429
    "quota",  # 429 that waiting doesn't mend
    "server_error",  # 5xx, or an error as the first event of a stream
    "timeout",  # no answer in time
    "broken",  # the connection was lost, or what came is no answer
    "key_refused",  # 401, 403 on our own key
    "context_length",  # more tokens than the model takes
    "content_filter",  # what was asked offends the provider's rules
    "not_found",  # 404: the upstream hasn't that model
    "rejected",  # any other 4xx: it would be rejected again
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class Failure(msgspec.Struct, frozen=True):
    """One attempt's failure. `told_s` is how long the upstream asks to be left alone, None where it says nothing."""

    kind: Kind
    status: int
    billed: bool
    told_s: float | None = None
    final: bool = False  # asking the same deployment again is no use, or the upstream says so


_BY_CODE: Final[dict[str, Kind]] = {
    "upstream_unreachable": "unreachable",
    "upstream_connect_timeout": "unreachable",
    "upstream_saturated": "unreachable",
    "upstream_tls": "unreachable",
    "forward_proxy": "unreachable",
    "upstream_overloaded": "overloaded",
    "upstream_timeout": "timeout",
    "upstream_504": "timeout",
    "upstream_key_refused": "key_refused",
    "body_not_replayable": "rejected",
    "insufficient_quota": "quota",
    "billing_hard_limit_reached": "quota",
    "context_length_exceeded": "context_length",
    "content_filter": "content_filter",
    "content_policy_violation": "content_filter",
    "ResponsibleAIPolicyViolation": "content_filter",
}
_BROKEN: Final = re.compile(
    r"upstream_(?:reset|truncated|malformed|empty|encoding|not_an?_.*|redirect|event_too_large)"
)
_USELESS: Final = frozenset(("upstream_tls", "upstream_redirect"))  # the same deployment would do the same again
# Where no code says it. Some providers' limits of a minute are "quotas", but say when to come back.
_BY_WORDS: Final[tuple[tuple[Kind, re.Pattern[str]], ...]] = (
    (
        "context_length",
        re.compile(
            r"maximum context length|context window|prompt is too long|input is too long"
            r"|exceeds? the (?:maximum|model's) .{0,40}tokens",
            re.I,
        ),
    ),
    ("content_filter", re.compile(r"content management policy|content policy|safety system", re.I)),
    (
        "quota",
        re.compile(
            r"exceeded your current quota(?!.*\bretry in\b)|credit balance|billing hard limit"
            r"|insufficient (?:balance|quota|funds|credits)",
            re.I | re.S,
        ),
    ),
)
_SPEAKING: Final = frozenset((400, 402, 403, 413, 422, 429))  # statuses whose words are looked at


def of_error(error: WeirError, now_s: float) -> Failure | None:
    """The failure of an attempt that an error tells; None where none was made. `now_s` is Unix time."""
    if error.billed is None:
        return None
    kind = _kind(error.status, error.code, error.type, error.message)
    told_s = told([pair for pair in error.headers if pair is not SOON], {"message": error.message}, now_s)
    return Failure(kind, error.status, error.billed, told_s, error.code in _USELESS)


async def of_response(response: Response, now_s: float) -> Failure:
    """The failure that an upstream's refusal tells. Its body is looked at if it is held, and stays what it is."""
    return of_answer(response.status, response.headers, await response.read() if response.whole else b"", now_s)


def of_answer(status: int, headers: Headers, body: bytes, now_s: float) -> Failure:
    """The same, of a refusal's parts."""
    error = _error_in(body)
    code, kind = error.get("code"), error.get("type")
    inner = error.get("innererror")
    if isinstance(inner, dict) and str(inner.get("code")) in _BY_CODE:
        code = inner["code"]
    message = error.get("message")
    found = _kind(status, str(code), str(kind), message if isinstance(message, str) else "")
    final = get(headers, b"x-should-retry") == b"false"
    return Failure(found, status, False, told(headers, error, now_s), final)


def _kind(status: int, code: str | None, type: str, message: str) -> Kind:
    for word in (code, type):
        if word in _BY_CODE:
            return _BY_CODE[word]
    if code is not None and _BROKEN.fullmatch(code):
        return "broken"
    if status in _SPEAKING:
        for found, words in _BY_WORDS:
            if words.search(message):
                return found
    by_status: dict[int, Kind] = {
        402: "quota",
        404: "not_found",
        408: "timeout",
        429: "rate_limited",
        503: "overloaded",
    }
    return by_status.get(status) or ("server_error" if status >= 500 else "rejected")


def _error_in(body: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(body)
    except ValueError:
        return {}
    if isinstance(said, list) and said:  # Google's OpenAI-compatible endpoint wraps its errors in a list
        said = said[0]
    error = said.get("error", said) if isinstance(said, dict) else {}
    return error if isinstance(error, dict) else {}


class Try(msgspec.Struct, frozen=True, eq=False):
    """What one `forward` gave. Without a `failure` it is an answer, or a refusal by a layer or a guard."""

    answer: Response | WeirError
    attempts: list[Attempt]  # that the exchange made meanwhile
    failure: Failure | None = None

    def result(self) -> Response:
        """Passes on what came: returns the answer, or raises."""
        if isinstance(self.answer, WeirError):
            raise self.answer
        return self.answer

    async def discard(self) -> None:
        """Lets go of what came: nobody will see it."""
        if isinstance(self.answer, Response):
            await discard(self.answer)


async def tried(request: Request, forward: Forward, wall: Callable[[], float]) -> Try:
    """Forwards once, and looks at what came. `wall` tells Unix time."""
    attempts = request.exchange.attempts
    known = len(attempts)
    try:
        answer: Response | WeirError = await forward(request)
    except WeirError as error:
        answer = error
    return await looked_at(answer, attempts[known:], wall)


async def looked_at(answer: Response | WeirError, attempts: list[Attempt], wall: Callable[[], float]) -> Try:
    """What came of a `forward` that made these attempts. A failure that came without any (from a cache, from a shared
    call) is none of this exchange's."""
    if not attempts:
        return Try(answer, attempts)
    if isinstance(answer, WeirError):
        return Try(answer, attempts, of_error(answer, wall()))
    return Try(answer, attempts, await of_response(answer, wall()) if answer.status >= 400 else None)


def elsewhere(failed: Attempt, exchange: Exchange) -> bool:
    """Whether a deployment of the failed attempt's model is left that this exchange hasn't given up."""
    return bool(failed.others) and not exchange.avoided(failed.request.model).issuperset(failed.others)


def repeatable(request: Request) -> bool:
    """Whether a request that may have been carried out can be sent again and make nothing twice but the bill."""
    if request.method in ("GET", "HEAD"):
        return True
    return not request.endpoint.stateful and not uses_stored(request.endpoint, request.field)


async def discard(response: Response) -> None:
    """Lets go of an answer that nobody will see; whoever tapped it is told."""
    await response.aclose()
    response.end(Outcome.ABORTED)


# --- when to come back

_LONGEST_S: Final = 30 * 86400.0
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(milli|ms|s|m|h|d|)[a-z]*", re.I)
_HINT: Final = re.compile(r"(?:try again|retry)\s+(?:after|in)\s+((?:\d{1,12}(?:\.\d{1,12})?\s*[a-z]*\s*){1,4})", re.I)
_LIMITS: Final = (b"requests", b"tokens")


def told(headers: Headers, error: dict[str, Any], now_s: float) -> float | None:
    """Seconds until an upstream wants to be asked again, as it says so, the most precise way first:
    `retry-after-ms`; `retry-after` (RFC 9110, section 10.2.3: seconds or a date); the error's own fields and words;
    when the exhausted limit is reset.
    """
    found = _in_headers(headers, now_s)
    if found is None:
        found = _in_body(error)
    if found is None:
        found = _until_reset(headers)
    return None if found is None or math.isnan(found) else min(max(found, 0.0), _LONGEST_S)


def _in_headers(headers: Headers, now_s: float) -> float | None:
    if (value := get(headers, b"retry-after-ms")) is not None and (ms := _number(value)) is not None:
        return ms / 1000
    value = get(headers, b"retry-after")
    if value is None:
        return None
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp() - now_s
    except (ValueError, TypeError, OverflowError):
        return None


def _number(value: bytes) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _in_body(error: dict[str, Any]) -> float | None:
    details = error.get("details")
    for part in (error, *(details if isinstance(details, list) else ())):
        if not isinstance(part, dict):
            continue
        if isinstance(delay := part.get("retryDelay"), str):  # google.rpc.RetryInfo
            return duration_s(delay)
        for name in ("retry_after", "retry_after_seconds"):
            value = part.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
    message = error.get("message")
    hint = _HINT.search(message[:2000]) if isinstance(message, str) else None
    return duration_s(hint[1]) if hint else None


def _until_reset(headers: Headers) -> float | None:
    resets = [
        duration_s(reset.decode("latin-1"))
        for limit in _LIMITS
        if get(headers, b"x-ratelimit-remaining-" + limit) == b"0"
        and (reset := get(headers, b"x-ratelimit-reset-" + limit)) is not None
    ]
    return max((reset for reset in resets if reset is not None), default=None)


def duration_s(text: str) -> float | None:
    """`6m0s`, `20ms`, `1.2s`, `26 seconds` or `7` (seconds); None for anything else."""
    parts = _PART.findall(text.strip())
    if not parts:
        return None
    total = 0.0
    for number, unit in parts:
        unit = unit.lower()
        total += float(number) * _UNITS["ms" if unit == "milli" else unit or "s"]
    return total
