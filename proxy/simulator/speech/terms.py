"""The terms in which every dialect is spoken to: the call, the turn, the pace of an answer, and refusals.

A dialect `prepare`s a call once (deterministic, so it can be remembered for equal requests) and then makes a `Reply` of
it for each `Turn`: what differs between two equal requests, such as ids, clock, cache hits and latency.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import msgspec

from proxy.simulator.latency import Latency
from proxy.simulator.playing import Frame
from proxy.simulator.reply import Reply, jsonly
from proxy.simulator.roster import Model, Roster
from proxy.simulator.usage import Tally

FINGERPRINT = "fp_weir000001"

# Anthropic's error types, by status.
_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "api_error",
    529: "overloaded_error",
}


class Refusal(Exception):  # noqa: N818
    """A request that is answered with an error, in the dialect's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.type, self.code, self.param = status, message, type, code, param

    def payload(self, *, anthropic: bool = False) -> dict[str, Any]:
        """The error as JSON, in OpenAI's or Anthropic's form."""
        if anthropic:
            kind = _ANTHROPIC.get(self.status, "api_error")
            return {"type": "error", "error": {"type": kind, "message": self.message}, "request_id": None}
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def reply(self, *, anthropic: bool = False) -> Reply:
        """The error as an answer."""
        return jsonly(self.payload(anthropic=anthropic), self.status)


class UsageForm(enum.Enum):
    """How usage is told: rightly, or as one of the faults wants it."""

    RIGHT = "right"
    ABSENT = "absent"
    NEGATIVE = "negative"
    HUGE = "huge"
    REPEATED = "repeated"
    WITH_CHOICE = "with-choice"

    def told(self, usage: dict[str, Any]) -> dict[str, Any] | None:
        """What the answer says instead of `usage`."""
        if self is UsageForm.ABSENT:
            return None
        if self is UsageForm.NEGATIVE:
            return {name: _numbers(value, lambda n: -max(n, 1)) for name, value in usage.items()}
        if self is UsageForm.HUGE:
            return {name: _numbers(value, lambda n: 1 << 63) for name, value in usage.items()}
        return usage


def _numbers(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(inner, change) for key, inner in value.items()}
    return change(value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True, slots=True)
class Controls:
    """The `x-sim-*` headers that choose an answer's length and speed."""

    ttft: Latency | None = None
    per_token: Latency | None = None
    tokens: int | None = None
    chunks: int | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one answer comes: seconds to the first token, a distribution between tokens, or a time for the whole."""

    first_s: float
    gap: Latency
    whole_s: float | None
    random: Random

    def timed(self, steps: Sequence[tuple[int, bytes]], head: bytes, parallel: int = 1) -> Iterator[Frame]:
        """Frames of `head + tail` for steps of (output tokens so far, tail); `parallel` choices come at once."""
        if self.gap.kind == "constant":
            gap, first = self.gap.scale_s / parallel, self.first_s
            for made, tail in steps:
                yield first + gap * (made - 1 if made > 1 else 0), head + tail, made
            return
        due, last = self.first_s, 1
        for made, tail in steps:
            if made > last:
                due += self.gap.draw(self.random) * (made - last) / parallel
                last = made
            yield due, head + tail, made

    def duration(self, output: int) -> float:
        """Seconds until a unary answer of so many tokens is complete."""
        if self.whole_s is not None:
            return self.whole_s
        return self.first_s + self.gap.draw(self.random) * max(0, output - 1)


class Turn(msgspec.Struct):
    """What one answer has of its own."""

    id: bytes
    now: int
    pace: Pace
    key: str
    form: UsageForm
    prefixes: Prefixes


class Prefixes(Protocol):
    """The provider's prompt cache."""

    def cached(self, key: str, model: str, marks: list[tuple[int, bytes]]) -> int:
        """Tokens of the longest prefix seen before; remembers all of them."""


class Call(msgspec.Struct):
    """A parsed JSON request."""

    body: dict[str, Any]
    controls: Controls
    seed: int
    roster: Roster
    answers: tuple[tuple[str, str, str], ...]
    deployment: str = ""

    def model(self, kind: str = "chat") -> Model:
        """The model asked for. Raises Refusal."""
        name = self.body.get("model", self.deployment)
        if not isinstance(name, str) or not name:
            raise Refusal(400, "you must provide a model parameter", param="model")
        found = self.roster.find(name)
        if found is None:
            raise Refusal(
                404, f"The model `{name}` does not exist or you do not have access to it.", code="model_not_found"
            )
        if found.kind != kind and name in self.roster.models:
            raise Refusal(404, f"This is not a {kind} model: `{name}`.", param="model")
        return found

    def whole(self, name: str, low: int, high: int | None = None) -> int | None:
        """A whole number of the body within bounds, or None where absent. Raises Refusal."""
        value = self.body.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
            raise Refusal(400, f"Invalid value for '{name}': {value!r}.", param=name, code="invalid_value")
        return value


class Prepared(Protocol):
    """A call made ready to be answered any number of times."""

    @property
    def model(self) -> Model: ...

    def reply(self, turn: Turn) -> Reply: ...


def tier_of(asked: Any) -> str:
    """The tier that serves a request: `auto` is served as default."""
    return asked if asked in ("flex", "priority", "scale") else "default"


def openai_usage(tally: Tally) -> dict[str, Any]:
    """Usage as chat completions tell it."""
    return {
        "prompt_tokens": tally.input,
        "completion_tokens": tally.output,
        "total_tokens": tally.input + tally.output,
        "prompt_tokens_details": {"cached_tokens": tally.cached, "audio_tokens": tally.input_audio},
        "completion_tokens_details": {
            "reasoning_tokens": tally.reasoning,
            "audio_tokens": tally.output_audio,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def grouped(pieces: list[str], chunks: int | None) -> list[list[str]]:
    """Pieces in at most `chunks` groups of nearly equal size; one a group where not said."""
    if chunks is None or chunks >= len(pieces):
        return [[piece] for piece in pieces]
    size, more = divmod(len(pieces), max(chunks, 1))
    groups, at = [], 0
    for index in range(max(chunks, 1)):
        step = size + (index < more)
        groups.append(pieces[at : at + step])
        at += step
    return groups
