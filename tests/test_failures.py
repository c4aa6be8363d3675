"""Failures by their kind, and what upstreams say about when to come back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import PERMISSION, WeirError
from proxy.failures import Kind, discard, duration_s, of_error, of_response, told
from proxy.faults import of_event, of_status, of_wire
from proxy.response import Outcome, Response
from proxy.wire.client import Progress, WireError

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()
JSON = [(b"content-type", b"application/json")]


@pytest.mark.parametrize(
    ("wire", "progress", "kind", "billed"),
    [
        ("refused", Progress.CONNECTING, "unreachable", False),
        ("dns", Progress.CONNECTING, "unreachable", False),
        ("connect_timeout", Progress.CONNECTING, "unreachable", False),
        ("pool", Progress.CONNECTING, "unreachable", False),
        ("tls", Progress.CONNECTING, "unreachable", False),
        ("proxy", Progress.CONNECTING, "unreachable", False),
        ("timeout", Progress.SENT, "timeout", True),
        ("reset", Progress.SENT, "broken", True),
        ("truncated", Progress.ANSWERING, "broken", True),
        ("malformed", Progress.ANSWERING, "broken", True),
    ],
)
def test_on_the_wire(wire: str, progress: Progress, kind: Kind, billed: bool) -> None:
    """What fails before the request is sent costs nothing; our own advice to clients isn't the upstream's word."""
    failure = of_error(of_wire(WireError(wire, progress)).error, NOW_S)
    assert failure is not None
    assert (failure.kind, failure.billed, failure.told_s) == (kind, billed, None)
    assert failure.final is (wire == "tls")


@pytest.mark.parametrize(
    ("status", "kind", "billed"),
    [
        (302, "broken", False),
        (401, "key_refused", False),
        (500, "server_error", True),
        (502, "server_error", True),
        (503, "overloaded", False),
        (504, "timeout", True),
        (529, "overloaded", False),
    ],
)
def test_by_status(status: int, kind: Kind, billed: bool) -> None:
    """Statuses that become errors of our own; `Retry-After` of the upstream stays known."""
    fault = of_status(status, [*JSON, (b"retry-after", b"7")], b"{}", own_key=True)
    assert fault is not None
    failure = of_error(fault.error, NOW_S)
    assert failure is not None
    assert (failure.kind, failure.billed) == (kind, billed)
    assert failure.told_s == (7.0 if status in (503, 529) else None)


def error_body(**fields: Any) -> bytes:
    return orjson.dumps({"error": fields})


REFUSALS: list[tuple[int, bytes, Kind]] = [
    (429, error_body(code="rate_limit_exceeded", type="requests", message="Rate limit reached"), "rate_limited"),
    (429, error_body(code="insufficient_quota", type="insufficient_quota", message="x"), "quota"),
    (429, error_body(type="rate_limit_error", message="You exceeded your current quota, please check"), "quota"),
    (429, b'[{"error":{"message":"You exceeded your current quota.\\nPlease retry in 34.07s."}}]', "rate_limited"),
    (400, error_body(type="invalid_request_error", message="Your credit balance is too low"), "quota"),
    (402, error_body(message="Insufficient Balance"), "quota"),
    (400, error_body(code="context_length_exceeded", message="too long"), "context_length"),
    (
        400,
        error_body(type="invalid_request_error", message="prompt is too long: 210000 > 200000"),
        "context_length",
    ),
    (400, error_body(code=400, message="This model's maximum context length is 8192 tokens."), "context_length"),
    (400, error_body(code="content_filter", message="filtered"), "content_filter"),
    (400, error_body(code=None, innererror={"code": "ResponsibleAIPolicyViolation"}), "content_filter"),
    (400, error_body(code="content_policy_violation", message="x"), "content_filter"),
    (404, error_body(code="model_not_found", message="x"), "not_found"),
    (408, error_body(message="Request timed out"), "timeout"),
    (400, error_body(message="Invalid value"), "rejected"),
    (422, b"not even JSON", "rejected"),
    (429, b'"a string"', "rate_limited"),
    (429, b'{"error":"slow down"}', "rate_limited"),
    (429, b"[]", "rate_limited"),
]


@pytest.mark.parametrize(
    ("status", "body", "kind"), REFUSALS, ids=[f"{s}-{k}-{n}" for n, (s, _, k) in enumerate(REFUSALS)]
)
async def test_refusals(status: int, body: bytes, kind: Kind) -> None:
    """An upstream's own words, in the forms of several providers; the answer stays as it is, and cost nothing."""
    response = Response(status, list(JSON), body)
    failure = await of_response(response, NOW_S)
    assert (failure.kind, failure.billed, failure.status) == (kind, False, status)
    assert response.held() == body


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "rate_limit_exceeded", "type": "requests"}, "rate_limited"),
        ({"code": "server_error", "type": "server_error"}, "server_error"),
        ({"type": "overloaded_error", "message": "Overloaded"}, "overloaded"),
        ({"code": "context_length_exceeded"}, "context_length"),
        ({"code": 429, "message": "slow down, retry in 3s"}, "rate_limited"),
    ],
)
def test_first_event(error: dict[str, Any], kind: Kind) -> None:
    """An error as a stream's first event is unbilled, and of the kind that its words say."""
    failure = of_error(of_event(error, first=True, own_key=False).error, NOW_S)
    assert failure is not None
    assert (failure.kind, failure.billed) == (kind, False)
    assert failure.told_s == (3.0 if error.get("code") == 429 else None)


def test_own_refusals_are_none() -> None:
    """What a layer or a guard refuses is no attempt's failure."""
    assert of_error(WeirError(503, "x", type=PERMISSION, code="upstream_overloaded"), NOW_S) is None


@pytest.mark.parametrize(
    ("headers", "error", "seconds"),
    [
        ([], {}, None),
        ([(b"retry-after", b"2")], {}, 2.0),
        ([(b"retry-after", b"0")], {}, 0.0),
        ([(b"retry-after", b"1.5")], {}, 1.5),
        ([(b"retry-after", b"-3")], {}, 0.0),
        ([(b"retry-after", b"nan")], {}, None),
        ([(b"retry-after", b"inf")], {}, 30 * 86400.0),
        ([(b"retry-after", b"soon")], {}, None),
        ([(b"retry-after", b"2"), (b"retry-after-ms", b"350")], {}, 0.35),
        ([(b"retry-after", b"2"), (b"retry-after-ms", b"x")], {}, 2.0),
        ([(b"retry-after", format_datetime(NOW + timedelta(seconds=90), usegmt=True).encode())], {}, 90.0),
        ([(b"retry-after", format_datetime(NOW - timedelta(days=1), usegmt=True).encode())], {}, 0.0),
        ([(b"retry-after", b"2")], {"message": "Please try again in 20s."}, 2.0),
        ([], {"message": "Rate limit reached. Please try again in 1.2s. Visit https://…"}, 1.2),
        ([], {"message": "Please try again in 20ms."}, 0.02),
        ([], {"message": "Please try again in 6m0s."}, 360.0),
        ([], {"message": "Please retry after 26 seconds."}, 26.0),
        ([], {"message": "Please retry in 34.074824224s."}, 34.074824224),
        ([], {"message": "Try again in 5 minutes, or buy more"}, 300.0),
        ([], {"message": "You may try again."}, None),
        ([], {"message": 7}, None),
        ([], {"details": [{"@type": "x"}, {"@type": "…RetryInfo", "retryDelay": "34s"}]}, 34.0),
        ([], {"details": "none"}, None),
        ([], {"retry_after": 11}, 11.0),
        ([], {"retry_after": True}, None),
        ([(b"x-ratelimit-remaining-requests", b"0"), (b"x-ratelimit-reset-requests", b"6m0s")], {}, 360.0),
        ([(b"x-ratelimit-remaining-requests", b"9"), (b"x-ratelimit-reset-requests", b"6m0s")], {}, None),
        (
            [
                (b"x-ratelimit-remaining-requests", b"0"),
                (b"x-ratelimit-reset-requests", b"1s"),
                (b"x-ratelimit-remaining-tokens", b"0"),
                (b"x-ratelimit-reset-tokens", b"120ms"),
            ],
            {},
            1.0,
        ),
    ],
)
def test_told(headers: list[tuple[bytes, bytes]], error: dict[str, Any], seconds: float | None) -> None:
    """Headers before words before limits; seconds, dates and durations; nonsense says nothing."""
    found = told(headers, error, NOW_S)
    assert found == (None if seconds is None else pytest.approx(seconds))


@given(st.binary(max_size=60), st.text(max_size=300))
def test_told_anything(value: bytes, message: str) -> None:
    """Whatever an upstream says, it is understood as a time from now to a month, or not at all."""
    for headers in ([(b"retry-after", value)], [(b"retry-after-ms", value)], []):
        found = told(headers, {"message": f"try again in {message}"}, NOW_S)
        assert found is None or 0 <= found <= 30 * 86400


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("x", None), ("1h2m3s", 3723.0), ("7", 7.0)])
def test_durations(text: str, seconds: float | None) -> None:
    """Durations as headers write them."""
    assert duration_s(text) == seconds


async def test_discarding_tells_taps() -> None:
    """Whoever looks at an answer that is thrown away is told that it was."""
    seen: list[Any] = []
    response = Response(503, list(JSON), b"{}")
    response.tap(seen.append)
    await discard(response)
    assert seen == [Outcome.ABORTED]
