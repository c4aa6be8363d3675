"""One call of a deployment, from its beginning to its end: what it tells of the deployment.

Rules:
1. It lands exactly once, however it ends; a probe of the breaker ends there.
2. Only what the upstream brought about counts against it: not the client's deadline, its mistakes or its leaving.
3. An answer counts as good when it is whole; while the breaker isn't closed, as soon as it begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from proxy.errors import WeirError
from proxy.exchange import Attempt
from proxy.failures import Failure, of_answer, of_error
from proxy.response import Response
from proxy.upstreams.key import ASIDE_S
from proxy.wire.headers import Headers

if TYPE_CHECKING:
    from proxy.upstreams.breaker import Trouble
    from proxy.upstreams.deployment import Deployment

_LIMITED: Final = frozenset((402, 429))
_TROUBLE: Final[dict[str, Trouble]] = {
    "unreachable": "unreachable",
    "timeout": "timeout",
    "overloaded": "server_error",
    "server_error": "server_error",
    "broken": "server_error",
}
_OURS: Final = frozenset(("upstream_saturated", "body_not_replayable"))  # these say nothing about the upstream


class Heard(Protocol):
    """What came back, as far as it tells of the deployment."""

    status: int
    headers: Headers

    def response(self) -> Response:
        """The answer as it is passed on."""


class Flight:
    """`heard` or `failed` when the call can be judged, `land` when it is over."""

    __slots__ = ("_attempt", "_began", "_deployment", "_good", "_probe", "_streamed")

    def __init__(self, deployment: Deployment, attempt: Attempt, began: float, probe: bool) -> None:
        self._deployment = deployment
        self._attempt = attempt
        self._began = began
        self._probe = probe
        self._streamed = attempt.request.field("stream") is True
        self._good = False  # told the breaker so

    def heard(self, answer: Heard) -> None:
        """An answer has begun (a stream), or is there (whole)."""
        deployment, status = self._deployment, answer.status
        now = deployment.now
        if deployment.upstream.own_key:
            self._allowed(answer, now)
        if status in _LIMITED:
            return
        line = deployment.line
        if status < 400:
            line.answered((self._attempt.ttft_ns or 0) / 1e9, self._streamed, now)
        if line.health.breaker.until is not None:
            self._succeeded(now)

    def failed(self, error: WeirError) -> None:
        """There is no answer that could be passed on."""
        deployment, failure = self._deployment, of_error(error, self._deployment.unix_s)
        if failure is None or error.code in _OURS:
            return
        now = deployment.now
        if deployment.upstream.own_key:
            self._refused(failure, now)
        if (trouble := _TROUBLE.get(failure.kind)) is not None:
            self._trouble(trouble, now)

    def land(self, attempt: Attempt) -> None:
        """It is over (`proxy.exchange.Settle`)."""
        deployment = self._deployment
        line, now = deployment.line, deployment.now
        line.in_flight -= 1
        if self._probe:
            line.health.breaker.probed()
        if attempt.outcome == "complete":
            self._succeeded(now)
            deployment.settled(now)
        elif attempt.outcome == "partial":
            self._trouble("timeout" if attempt.error == "upstream_timeout" else "server_error", now)
        elif attempt.outcome == "aborted" and attempt.ttft_ns is None:
            line.health.latency[self._streamed].longer(now - self._began, now)

    # --- what that tells

    def _allowed(self, answer: Heard, now: float) -> None:
        """What an answer says about the key and its limits."""
        deployment = self._deployment
        allowance = deployment.line.own_allowance(self._attempt.request.model)
        allowance.told(answer.headers, now, deployment.unix_s)
        if answer.status < 400:
            allowance.accepted()
            if deployment.key.aside and deployment.key.accepted():
                self._tell("upstream_key_accepted", key=deployment.key.number)
        elif answer.status in _LIMITED:
            body = answer.response().held()
            self._refused(of_answer(answer.status, answer.headers, body, deployment.unix_s), now)

    def _refused(self, failure: Failure, now: float) -> None:
        """It should wait, or its key isn't taken."""
        deployment = self._deployment
        allowance = deployment.line.own_allowance(self._attempt.request.model)
        if failure.kind in ("rate_limited", "quota") or (failure.kind == "overloaded" and failure.told_s is not None):
            wait_s = allowance.refused(failure.told_s, failure.kind == "quota", now)
            if failure.kind == "quota":
                self._tell("deployment_quota", for_s=wait_s)
        elif failure.kind == "key_refused" and self._attempt.status != 401:  # this model, perhaps
            allowance.denied_until = now + ASIDE_S
        elif failure.kind == "key_refused" and deployment.key.refused(now) and deployment.others:
            self._tell("upstream_key_aside", key=deployment.key.number, for_s=ASIDE_S)

    def _trouble(self, trouble: Trouble, now: float) -> None:
        deployment = self._deployment
        line = deployment.line
        breaker = line.health.breaker
        if trouble == "timeout" and self._attempt.exchange.deadline <= now:  # the client's time was up, not its own
            line.health.latency[self._streamed].longer(now - self._began, now)
            return
        line.failed(self._streamed, now)
        if breaker.failed(trouble, now, self._began):
            assert breaker.until is not None
            self._tell("deployment_opened", why=breaker.why, for_s=breaker.until - now)

    def _succeeded(self, now: float) -> None:
        if not self._good:
            self._good = True
            if self._deployment.line.health.breaker.succeeded(now, self._began):
                self._tell("deployment_closed")

    def _tell(self, event: str, **fields: object) -> None:
        upstream = self._deployment.upstream
        upstream.tell(event, upstream=upstream.name, deployment=self._deployment.label, **fields)
