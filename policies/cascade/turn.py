"""One request on its way through a cascade: what is decided by, and what is told. Pure.

Rules:
1. What an answer is judged by is a function of the answer alone, its check and its pace included: a small answer that
   is only looked at in the background gets the same gate and the same features as one that is given to a client.
2. `route` looks at the prompt alone, `prefix` at the first `prefix_tokens` of an answer (of four characters each), or
   at what of them has come within `prefix_time`, `whole` at all of it. Only whole answers are checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final, Literal

from msgspec.structs import replace

from policies.cascade.answers import Answer, Asked, Said
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

    def gate(self, answer: Answer) -> str | None:
        """The gate that an answer fails."""
        if self.how == "route":
            return None
        if self.how == "prefix" and (answer.early is not None or self.begun(answer.said)):
            return gated_beginning(self.asked, self._looked_at(answer))
        return gated(self.asked, answer.said, self._config.tools == "call")

    def features(self, answer: Answer | None) -> Features:
        """What its score is made of: the prompt, the choice that is least sure of itself, and the check."""
        if self.how == "route" or answer is None:
            return joined(self.prompt, None)
        one, about = self.scored(answer), self.prompt
        doubt = answer.doubt or 0.0
        made = answer_features(one.text, one.logprobs, one.end, tool_calls=len(one.calls), prompt=about, doubt=doubt)
        return joined(about, made)

    def scored(self, answer: Answer) -> Said:
        """The choice that its score is made of."""
        return min(self._looked_at(answer), key=_sureness)

    @property
    def checks(self) -> bool:
        """Whether somebody is asked if such an answer is right."""
        return self._config.check is not None and self.how == "whole"

    @property
    def within_s(self) -> float | None:
        """How long the beginning of a stream is waited for at the most, from its first event on."""
        return self._config.prefix_time if self.how == "prefix" else None

    def begun(self, choices: Sequence[Said]) -> bool:
        """Whether more than the beginning of an answer has come."""
        return bool(choices) and len(choices[0].text) > self.cut

    def _looked_at(self, answer: Answer) -> Sequence[Said]:
        if answer.early is not None:
            return answer.early
        if self.how != "prefix" or not self.begun(answer.said):
            return answer.said
        tokens = self._config.prefix_tokens
        return [
            replace(
                one,
                text=one.text[: self.cut],
                logprobs=None if one.logprobs is None else one.logprobs[:tokens],
                end=None,
            )
            for one in answer.said
        ]


def _sureness(one: Said) -> float:
    return sum(one.logprobs) / len(one.logprobs) if one.logprobs else 0.0


def told(rung: str, evidence: Evidence, clusters: bool) -> tuple[bytes, bytes]:
    """The header of an answer."""
    p = evidence.told.certificate.p_value
    about = f"{rung}; {evidence.status}; p={min(p, 1.0):.2g}; cert={evidence.certificate_id}"
    if clusters:
        about += f"; cluster={evidence.name.rpartition('/')[2]}"
    return b"x-weir-cascade", about.encode()
