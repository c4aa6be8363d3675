"""One request's way through a cascade: the small model, a look at its answer, the large one.

Rules: whatever fails on the way to the small answer is `Refused`, and leads to the large model, which is asked once;
what fails there is the client's. Every answer that isn't given is closed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import orjson
from msgspec.structs import replace

from policies.cascade.answers import Answer, Gathered, Said, said
from policies.cascade.checking import FailedCheckError, doubt_of
from policies.cascade.gates import GATES
from policies.cascade.held import Held, looked_at
from policies.cascade.learning.features import Features
from policies.cascade.pairing import Collector, Pairing, answer_of, cost_of
from policies.cascade.rival import Rival, pays
from policies.cascade.shadow import SHADOW_S
from policies.cascade.shared import Pair
from policies.cascade.turn import Turn, told
from proxy.counterfactual import nanodollars_at
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Forward, Request, Saving
from proxy.response import Outcome, Response
from proxy.wire import sse
from proxy.wire.sse import Event

if TYPE_CHECKING:
    from policies.cascade.layer import Cascade

_LOGPROBS: Final = b'"logprobs"'


class Refused(Exception):  # noqa: N818 - of the small answer, which isn't the client's business
    """Why a small answer isn't given."""

    def __init__(self, why: str, **numbers: object) -> None:
        super().__init__(why)
        self.why, self.numbers = why, numbers


class Course:
    """One request's way."""

    def __init__(self, policy: Cascade, request: Request, forward: Forward, turn: Turn, sampled: bool) -> None:
        self._policy, self._request, self._forward, self._turn = policy, request, forward, turn
        self._config, self._sampled = policy.config, sampled
        self._exchange = request.exchange
        self._began = len(self._exchange.attempts)
        self._evidence = turn.evidence
        self._count = policy.classes.count(turn.evidence)
        self._small: Answer | None = None  # once it is whole
        self._features: Features | None = None
        self._early: tuple[Said, ...] | None = None
        self._answered: list[Attempt] = []  # those of an answer that was checked
        self._rival: Rival | None = None

    def _attempts(self, *, small: bool) -> list[Attempt]:
        """Those of one rung, and of whatever stood in for it; checks are the small one's."""
        others = (self._config.large,) if small else (self._config.small, self._config.checker)
        made = self._exchange.attempts[self._began :]
        return [attempt for attempt in made if attempt.request is None or attempt.request.model not in others]

    # --- the large model

    async def large(self, model: str) -> Response:
        """The large model answers, by this name."""
        rival, self._rival = self._rival, None
        if rival is not None:
            response = await rival.answer()
            self._told_of(self._attempts(small=False))
        else:
            response = await self._forward(self._request.using(model=model))
        if response.status >= 300:
            return response
        if self._sampled:
            self._watch(response, small=False)
        response.headers = [*response.headers, self._told("large")]
        return response

    def _told(self, rung: str) -> tuple[bytes, bytes]:
        return told(rung, self._evidence, self._config.clusters is not None)

    async def _escalate(self, refused: Refused) -> Response:
        self._count.escalated += 1
        self._policy.escalated(self._request)
        self._policy.note(self._request, "escalated", reason=refused.why, **refused.numbers)
        if refused.why in GATES:
            self._count.gates[refused.why] = self._count.gates.get(refused.why, 0) + 1
        paid = cost_of(self._attempts(small=True))
        if paid:
            self._count.saved_nanos -= paid
            self._exchange.save(Saving(self._policy.name, -paid, self._config.large))
        return await self.large(self._config.large)

    # --- the small model

    async def routed(self) -> Response:
        """The prompt alone decides."""
        accepted, score = self._accepts(self._turn.features(None))
        try:
            if not accepted:
                raise Refused("score", **self._numbers(score))
            response = await self._asked(self._request.using(model=self._config.small))
        except Refused as refused:
            return await self._escalate(refused)
        return self._given(response, score)

    async def small_first(self) -> Response:
        """The small model answers, and its answer is looked at; the large one may have been started by then."""
        loop, began_s = asyncio.get_running_loop(), self._policy.services.clock()
        if self._both():
            self._policy.note(self._request, "both")
            self._rival = Rival(self._request.using(model=self._config.large), self._forward)
        loop.call_soon(getattr, self._turn, "prompt")  # while the upstream thinks
        try:
            try:
                response, score, gathered = await self._smallanswer_of()
            except Refused as refused:
                return await self._escalate(refused)
            finally:
                self._policy.waited(self._evidence, self._policy.services.clock() - began_s)
        finally:
            if self._rival is not None:
                await self._rival.aclose()
        if self._rival is not None or self._answered:
            self._told_of(self._answered or self._attempts(small=True))
        return self._given(response, score, gathered)

    def _told_of(self, attempts: Sequence[Attempt]) -> None:
        """Clients are told of the last ones of an exchange: neither of a rival that was quicker, nor of a check."""
        for attempt in attempts:
            self._exchange.attempts.remove(attempt)
            self._exchange.attempts.append(attempt)

    def _both(self) -> bool:
        worth, costs = self._config.second_worth, self._evidence.costs()
        if not worth or costs is None:
            return False
        return pays(self._evidence.escalates, self._policy.waits(self._evidence), worth, costs[1])

    async def _smallanswer_of(self) -> tuple[Response, float, Gathered | None]:
        """An answer that may be given, and its score. Raises Refused."""
        response = await self._ask_small()
        if response.is_event_stream:
            return await self._streamed(response)
        try:
            body = await response.read()
        except WeirError as error:
            raise Refused("failed", code=error.code) from None
        choices = said(self._turn.asked.dialect, body)
        if choices is None:
            raise Refused("failed", code="not_an_answer")
        self._small = answer_of(choices, self._attempts(small=True))
        score = await self._scored(self._small)
        return Response(response.status, response.headers, self._stripped(body)), score, None

    async def _ask_small(self) -> Response:
        wants = self._turn.asked
        small = self._request.using(model=self._config.small)
        if not self._policy.logprobs or wants.dialect != "chat" or wants.own_logprobs:
            return await self._asked(small)
        try:
            return await self._asked(small.using(fields={"logprobs": True}))
        except Refused as refused:
            if refused.numbers.get("status") != 400:
                raise
        plain = await self._asked(small)  # it was that field: asked without it, from now on
        self._policy.logprobs = False
        return plain

    async def _asked(self, request: Request) -> Response:
        """An answer that isn't a failure. Raises Refused."""
        try:
            response = await self._forward(request)
        except WeirError as error:
            raise Refused("failed", code=error.code) from None
        if response.status >= 300:
            await response.aclose()
            raise Refused("failed", status=response.status)
        return response

    async def _scored(self, answer: Answer) -> float:
        """The score of an answer that may be given. Raises Refused."""
        if (why := self._turn.gate(answer)) is not None:
            raise Refused(why, **self._numbers(None))
        if self._turn.checks and self._policy.checks and self._counts():
            answer = self._small = await self._checked(answer)
        accepted, score = self._accepts(self._turn.features(answer))
        if not accepted:
            raise Refused("score", **self._numbers(score))
        return score

    def _counts(self) -> bool:
        """Whether it matters to the client, or to what a client may say of it, what the score is."""
        return self._evidence.serving is not None or self._policy.ratings is not None

    async def _checked(self, answer: Answer) -> Answer:
        """The answer with what its check found, and cost. Raises Refused."""
        self._answered = self._attempts(small=True)
        try:
            doubt = await doubt_of(self._policy, self._turn, answer, self._request, self._forward)
        except WeirError as error:
            raise Refused("failed", check=error.code) from None
        except FailedCheckError as error:
            raise Refused("failed", check=error.status) from None
        return replace(answer, doubt=doubt, nanodollars=cost_of(self._attempts(small=True)))

    def _accepts(self, features: Features) -> tuple[bool, float]:
        self._features = features
        accepted, score = self._evidence.accepts(features)
        return accepted or self._evidence.serving is None, score  # until certified only gates count

    def _numbers(self, score: float | None) -> dict[str, object]:
        line = self._evidence.serving
        threshold = None if line is None else line.certificate.threshold
        doubt = None if self._small is None else self._small.doubt
        return {
            "score": None if score is None else round(score, 4),
            "threshold": None if threshold is None else round(threshold, 4),
            "class": self._evidence.name,
            "cert": self._evidence.certificate_id,
            **({} if doubt is None else {"p_true": round(1 / (1 + math.exp(doubt)), 4)}),
        }

    def _given(self, response: Response, score: float, gathered: Gathered | None = None) -> Response:
        """The small answer is the client's."""
        self._count.small += 1
        self._policy.note(self._request, "small", status=self._evidence.status, **self._numbers(score))
        response.headers = [*response.headers, self._told("small")]
        if response.whole:
            self._save()
        self._watch(response, small=True, gathered=gathered)
        return response

    def _save(self) -> None:
        """Claims what the large model would have cost for as many tokens, less what was paid."""
        grounds, mine = self._policy.grounds, self._attempts(small=True)
        attempt, paid = mine[-1] if mine else None, cost_of(self._exchange.attempts[self._began :])
        if grounds is None or attempt is None or attempt.usage is None or paid is None:
            return
        instead = nanodollars_at(grounds.dispatch, self._config.large, attempt.usage)
        if self._policy.ratings is not None and self._features is not None:
            served = (attempt.served or "", "")
            pair = Pair(self._features.packed(), None, None, cost_of(mine), instead, served)
            self._policy.ratings.given(self._exchange.id, self._evidence, pair)
        if instead is not None:
            self._count.saved_nanos += instead - paid
            saving = Saving(self._policy.name, instead - paid, self._config.large, attempt.usage.counts())
            self._exchange.save(saving)

    # --- streams

    async def _streamed(self, response: Response) -> tuple[Response, float, Gathered]:
        """A stream is held until it is known whether its answer may be given. Raises Refused."""
        gathered = Gathered(self._turn.asked.dialect)
        held = Held(response, gathered)
        self._strip(response)
        try:
            over, self._early = await looked_at(held, gathered, self._turn)
            answer = answer_of(gathered.said(), self._attempts(small=True) if over else (), self._early)
            if over:
                self._small = answer
            score = await self._scored(answer)
        except WeirError as error:
            raise Refused("failed", code=error.code) from None
        except Refused:
            await held.aclose()
            raise
        return held.released(), score, gathered

    def _strip(self, response: Response) -> None:
        if self._policy.logprobs and not self._turn.asked.own_logprobs:
            response.edit(_without_logprobs)

    def _stripped(self, body: bytes) -> bytes:
        if self._turn.asked.own_logprobs or _LOGPROBS not in body:
            return body
        answer = orjson.loads(body)
        for choice in answer.get("choices", ()):
            if isinstance(choice, dict) and choice.get("logprobs") is not None:
                choice["logprobs"] = None
        return orjson.dumps(answer)

    # --- learning

    def _watch(self, response: Response, *, small: bool, gathered: Gathered | None = None) -> None:
        """Learns from an answer once it is whole, and claims what a stream has saved."""
        stream = not response.whole
        if not self._sampled and not (small and stream):
            return
        collector = Collector(self._turn.asked.dialect, gathered)

        def tap(seen: Event | Outcome) -> None:
            if isinstance(seen, Event):
                if self._sampled:
                    collector.event(seen, stream)
            elif seen is Outcome.COMPLETE:
                if small and stream:
                    self._save()
                if self._sampled:
                    self._whole(collector.said(), small)

        response.tap(tap)

    def _whole(self, choices: Sequence[Said] | None, small: bool) -> None:
        """An answer of the sample is whole."""
        answer = answer_of(choices, self._attempts(small=small), self._early if small else None) if choices else None
        if small:
            answer = self._small or answer  # before what the client doesn't see was taken out
        if answer is not None:
            self._complete(answer if small else self._small, None if small else answer)

    def _complete(self, small: Answer | None, large: Answer | None) -> None:
        """Completes the pair in the background, where there is room for it. Load, not the request, decides on that."""
        policy, grounds = self._policy, self._policy.grounds
        if not policy.services.spares():
            policy.services.metrics.decision(policy.name, "shadow_left_out")
            return
        forward = self._forward if grounds is None else grounds.forward
        pairing = Pairing(policy, self._request, forward, self._turn)
        shadows = pairing.shadows

        async def run(background: Exchange) -> None:
            await pairing.run(background, small, large)

        shadows.begin(self._exchange, "shadow", SHADOW_S, run)


def _without_logprobs(event: Event) -> Event:
    """An event without the probabilities that the client didn't ask for."""
    if event.data is None or _LOGPROBS not in event.data:
        return event
    told = msgspec.json.decode(event.data)
    for choice in told.get("choices") or ():
        if choice.get("logprobs") is not None:
            choice["logprobs"] = None
    return sse.event(orjson.dumps(told))
