"""Faults that refuse: statuses with their headers, and bodies in the dialect's form."""

from __future__ import annotations

from proxy.simulator.faults.terms import Case, Dialect, Refuse
from proxy.simulator.reply import Headers, Reply
from proxy.simulator.speech.terms import Refusal


def refusing(status: int, message: str, *, type: str, code: str | None = None, param: str | None = None) -> Refuse:
    """A fault that always answers with this error."""

    def refuse(case: Case) -> Reply:
        return _error(case, status, message, type, code, param)

    return refuse


def _error(
    case: Case,
    status: int,
    message: str,
    type: str,
    code: str | None = None,
    param: str | None = None,
    headers: Headers | None = None,
) -> Reply:
    anthropic = case.dialect is Dialect.ANTHROPIC
    reply = Refusal(status, message, type=type, code=code, param=param).reply(anthropic=anthropic)
    reply.headers = headers or []
    return reply


def rate_limit(case: Case) -> Reply:
    """429 with Retry-After; argument `-` leaves the header out."""
    wait = case.text("2")
    message = "Rate limit reached for requests per minute. Please try again later."
    headers = [(b"x-ratelimit-remaining-requests", b"0"), (b"x-ratelimit-reset-requests", wait.encode() + b"s")]
    if wait != "-":
        headers.append((b"retry-after", wait.encode()))
    return _error(case, 429, message, "requests", "rate_limit_exceeded", headers=headers)


def redirect(case: Case) -> Reply:
    """A redirect; arguments: status, location."""
    status, location = case.count(302), ":".join(case.arguments[1:]) or "http://127.0.0.1:9/elsewhere"
    return Reply(status, b"text/html", [(b"location", location.encode())], b"<html>moved</html>")


def rejects_stream_options(case: Case) -> Reply | None:
    """400 for `stream_options`, as some servers that do not know it answer; anything else is answered."""
    if not case.stream_options:
        return None
    message = "Unrecognized request argument supplied: stream_options"
    return _error(case, 400, message, "invalid_request_error", None, "stream_options")


def html(case: Case) -> Reply:
    return Reply(200, b"text/html", body=b"<!doctype html><title>Welcome</title><p>Please log in to the network.</p>")


def empty(case: Case) -> Reply:
    return Reply(200, b"text/event-stream" if case.streamed else b"application/json")
