"""What a worker has seen of models: how long they take, and how much they say. Pure: times are values.

Rules: the time to the first token of a stream, and to the whole of an answer that comes whole, are apart. What was
given up unanswered counts as at least as long as was waited; a failure as slow (`proxy.upstreams.latency`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from policies.route.choice import WAITING
from proxy.exchange import Attempt
from proxy.upstreams.latency import PeakEwma

_MODELS: Final = 512  # names come from clients
_FEW: Final = 256.0  # tokens of an answer, before one was seen
_SLOWLY: Final = 0.05


class Seen(msgspec.Struct, eq=False):
    """One model's answers that stream, or those that come whole."""

    latency: PeakEwma
    in_flight: int = 0


class Observed:
    """All models."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, bool], Seen] = {}
        self._said: dict[str, float] = {}

    def of(self, model: str, streamed: bool) -> Seen:
        """What is known of a model."""
        seen = self._models.get((model, streamed))
        if seen is None:
            seen = Seen(PeakEwma())
            if len(self._models) < _MODELS:
                self._models[model, streamed] = seen
        return seen

    def latency_s(self, model: str, streamed: bool, now: float) -> float | None:
        """What its next answer may take; None where nobody has asked. One that is being asked for the first time
        isn't asked twice."""
        seen = self.of(model, streamed)
        estimate_s = seen.latency.estimate_s(now, idle=not seen.in_flight)
        return estimate_s or (WAITING if seen.in_flight else None)

    def output_tokens(self, endpoint: str, cap: int | None) -> int:
        """What an answer probably has."""
        said = self._said.get(endpoint, _FEW)
        return round(said if cap is None else min(said, cap))

    def ended(self, attempt: Attempt, streamed: bool, now: float) -> None:
        """An attempt is over."""
        latency = self.of(attempt.request.model or attempt.model, streamed).latency
        took_ns = attempt.ttft_ns if streamed else attempt.total_ns
        if attempt.outcome in ("complete", "partial") and took_ns is not None:
            if (attempt.status or 0) < 400:
                latency.add(took_ns / 1e9, now)
        elif attempt.outcome == "failed" and attempt.status not in (400, 404, 413, 422):
            latency.failed(now)
        elif attempt.outcome == "aborted" and attempt.ttft_ns is None:
            latency.longer(attempt.total_ns / 1e9, now)
        if attempt.outcome == "complete" and attempt.usage is not None and attempt.usage.output_tokens:
            endpoint, output = attempt.request.endpoint.name, attempt.usage.output_tokens
            before = self._said.get(endpoint, _FEW)
            self._said[endpoint] = before + _SLOWLY * (output - before)
