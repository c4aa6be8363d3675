"""A request as `match` and `unless` see it (`proxy.config.conditions.Facts`); nothing is worked out unasked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo

from proxy.body import Body
from proxy.exchange import Request
from proxy.language import asked_in
from proxy.tokens.estimator import untaught


class Matchable:
    """A request, by the names that conditions may use."""

    __slots__ = ("_identity", "_request", "tags")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._identity = request.exchange.identity
        self.tags: Mapping[str, str] = request.exchange.tags

    @property
    def team(self) -> str | None:
        return self._identity.team

    @property
    def project(self) -> str | None:
        return self._identity.project

    @property
    def key(self) -> str | None:
        return self._identity.key

    @property
    def model(self) -> str | None:
        return self._request.exchange.asked

    @property
    def served_model(self) -> str | None:
        return self._request.model

    @property
    def endpoint(self) -> str:
        return self._request.endpoint.name

    @property
    def tools(self) -> bool:
        return bool(self._request.field("tools"))

    @property
    def stream(self) -> bool:
        return self._request.field("stream") is True

    @property
    def size_bytes(self) -> int:
        body = self._request.body
        if isinstance(body, (Body, bytes)):
            return len(body)
        return body.length or 0

    @property
    def tokens(self) -> int:
        """As estimated before anything was learnt of the model, so that all workers find the same."""
        request, body = self._request, self._request.body
        if not isinstance(body, (Body, bytes)):
            return 0
        return untaught(request.model or "", request.endpoint.name, body)

    @property
    def language(self) -> str | None:
        body = self._request.body
        if not isinstance(body, Body):
            return None
        memo = body.memo = {} if body.memo is None else body.memo
        if "language" not in memo:  # several conditions may ask
            memo["language"] = asked_in(self._request.endpoint.name, body)
        found: str | None = memo["language"]
        return found

    @property
    def time(self) -> Callable[[], datetime]:
        return _now


def _now(zone: tzinfo = UTC) -> datetime:
    return datetime.now(zone)
