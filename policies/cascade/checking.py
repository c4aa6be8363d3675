"""Whether a small answer is right, as a model sees it, in one token: its log odds are a part of the score.

Rules:
1. One answer alone, a text without calls; of a client's own model by its probabilities: where the answer came without
   them, or the check does, nobody knows (0.0), and a model that never tells them isn't asked again.
2. The request is one of the exchange that it is made for: budgets and limits hold, and its cost is deducted from what
   is saved, and added to what a small answer costs.
3. A check that fails is a small answer that failed: what was proven was proven of answers that were checked.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import orjson

from policies.cascade.answers import Answer, Said
from policies.cascade.judging import shown
from policies.cascade.shadow import made
from policies.cascade.turn import Turn
from proxy.exchange import Forward, Request

if TYPE_CHECKING:
    from policies.cascade.layer import Cascade

_ASKS: Final = "Is this answer to the question right? Reply with one word: True or False."
_TOP: Final = 5  # of the likeliest tokens
_MOST: Final = 8.0  # log odds beyond which it makes no difference


class FailedCheckError(ValueError):
    """The model that was asked answered with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a check failed with {status}")
        self.status = status


async def doubt_of(policy: Cascade, turn: Turn, answer: Answer, request: Request, forward: Forward) -> float:
    """The log odds that an answer is wrong; 0 where nobody knows. Raises WeirError and FailedCheckError."""
    one = turn.scored(answer)
    if not asks(one, of_itself=policy.config.check == "self"):
        return 0.0
    policy.services.metrics.decision(policy.name, "checked")
    fields = question_for(policy.config.checker or "", turn.asked.text, one.text)
    response = await forward(made(request, "/v1/chat/completions", fields, request.exchange))
    body = await response.read()
    if response.status == 400:
        return 0.0  # of this answer it can't say anything
    if response.status != 200:
        raise FailedCheckError(response.status)
    tokens = _tokens(body)
    if tokens is None:
        policy.checks = False
        policy.services.log("warning", "cascade_check_silent", policy=policy.name, model=policy.config.checker)
        return 0.0
    return odds(tokens)


def asks(one: Said, *, of_itself: bool) -> bool:
    """Whether such an answer is asked about."""
    return bool(one.text.strip()) and not one.calls and not (of_itself and one.logprobs is None)


def question_for(model: str, question: str, answer: str) -> dict[str, Any]:
    """The request that asks."""
    content = f"{shown(question, {'Answer': answer})}\n\n{_ASKS}"
    wants = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": _TOP}
    return {"model": model, "messages": [{"role": "user", "content": content}], **wants}


def _tokens(body: bytes) -> list[tuple[str, float]] | None:
    """The likeliest first tokens of an answer, and their log probabilities; None where it doesn't tell."""
    try:
        first = orjson.loads(body)["choices"][0]["logprobs"]["content"][0]
        told = [(str(each["token"]), float(each["logprob"])) for each in first.get("top_logprobs") or [first]]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return told


def odds(tokens: list[tuple[str, float]]) -> float:
    """The log odds of "False" against "True", by tokens that one of these words begins with."""
    shares = [0.0, 0.0]
    for token, logprob in tokens:
        word = token.strip().casefold()
        for at, whole in enumerate(("true", "false")):
            if word and whole.startswith(word):
                shares[at] += math.exp(min(0.0, logprob))
    right, wrong = shares
    if not right or not wrong:
        return _MOST * ((wrong > 0) - (right > 0))
    return max(-_MOST, min(_MOST, math.log(wrong / right)))
