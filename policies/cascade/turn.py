"""One request on its way through a cascade: what is decided by, and what is told. Pure.

Rules:
1. What an answer is judged by is a function of the answer alone: a small answer that is only looked at in the
   background gets the same gate and the same features as one that is given to a client.
2. `route` looks at the prompt alone, `prefix` at the first `prefix_tokens` of an answer (of four characters each),
   `whole` at all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final, Literal

from msgspec.structs import replace

from policies.cascade.answers import Asked, Said
from policies.cascade.config import Config
from policies.cascade.evidence import Evidence
from policies.cascade.gates import gated, gated_beginning
from policies.cascade.learning.features import Features, answer_features, joined, prompt_features
from proxy.wire.headers import Headers, get

How = Literal["route", "prefix", "whole"]
_CHARACTERS: Final = 4  # a token, about
_CHOICES: Final[dict[bytes, How]] = {b"route": "route", b"prefix": "prefix", b"buffer": "whole"}
STREAMING: Final = b"x-weir-cascade-streaming"


def how_of(config: Config, asked: Asked, headers: Headers) -> How:
    """How an answer is looked at: as the request wants it, else as the policy does."""
    if not asked.stream:
        return "whole"
    wanted = _CHOICES.get((get(headers, STREAMING) or b"").strip().lower())
    if wanted is not None:
        return wanted
    if config.streaming == "auto":
        return "whole" if asked.tools or asked.json or asked.n > 1 else "prefix"
    return "whole" if config.streaming == "buffer" else config.streaming


class Turn:
    """What is known of a request."""

    def __init__(self, config: Config, asked: Asked, how: How, evidence: Evidence) -> None:
        self._config = config
        self.asked, self.how, self.evidence = asked, how, evidence
        self.cut = config.prefix_tokens * _CHARACTERS

    @cached_property
    def prompt(self) -> Features:
        """What the prompt alone says; worked out while the small model is waited for."""
        asked = self.asked
        return prompt_features(asked.text, turns=asked.turns, tools=len(asked.tools), wants_json=asked.json)

    def gate(self, choices: Sequence[Said]) -> str | None:
        """The gate that an answer fails."""
        if self.how == "route":
            return None
        if self.how == "prefix" and not self.ended(choices):
            return gated_beginning(self.asked, self._beginning(choices))
        return gated(self.asked, choices, self._config.tools == "call")

    def features(self, choices: Sequence[Said]) -> Features:
        """What its score is made of: the prompt, and the choice that is least sure of itself."""
        if self.how == "route":
            return joined(self.prompt, None)
        looked_at = self._beginning(choices) if self.how == "prefix" else choices
        one = min(looked_at, key=_sureness)
        return joined(
            self.prompt,
            answer_features(one.text, one.logprobs, one.end, tool_calls=len(one.calls), prompt=self.prompt),
        )

    def ended(self, choices: Sequence[Said]) -> bool:
        """Whether an answer is over before its beginning is."""
        return not choices or len(choices[0].text) <= self.cut

    def _beginning(self, choices: Sequence[Said]) -> Sequence[Said]:
        if self.ended(choices):
            return choices
        tokens = self._config.prefix_tokens
        return [
            replace(
                one,
                text=one.text[: self.cut],
                logprobs=None if one.logprobs is None else one.logprobs[:tokens],
                end=None,
            )
            for one in choices
        ]


def _sureness(one: Said) -> float:
    return sum(one.logprobs) / len(one.logprobs) if one.logprobs else 0.0


def told(rung: str, evidence: Evidence) -> tuple[bytes, bytes]:
    """The header of an answer."""
    p = evidence.told.certificate.p_value
    return (
        b"x-weir-cascade",
        f"{rung}; {evidence.status}; p={min(p, 1.0):.2g}; cert={evidence.certificate_id}".encode(),
    )
