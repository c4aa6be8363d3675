"""The layer: who answers, and what is learnt from it.

Rules:
1. Only requests for a model that the cascade answers for, of an endpoint whose answers it understands, and of a client
   that may use both rungs. Everything else passes by.
2. A small answer is given if it passes every gate and, once certified, its score stays below the threshold. Whatever
   fails on the way to it leads to the large model.
3. Nothing of a small answer reaches the client before that is decided; where the small model is asked for the
   probabilities of its tokens, the client doesn't see them unless it asked, too.
4. For `shadow_rate` of all requests, drawn before anything is known of them, the pair of answers is completed in the
   background.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import orjson

from policies.allowed import Allowed
from policies.cascade import judging
from policies.cascade.answers import Asked, Gathered, Said, asked, said
from policies.cascade.classes import Classes
from policies.cascade.config import Config
from policies.cascade.evidence import Evidence
from policies.cascade.gates import GATES
from policies.cascade.held import Held
from policies.cascade.learning.features import Features
from policies.cascade.rated import Ratings
from policies.cascade.rival import Rival, pays
from policies.cascade.shadow import SHADOW_S, Answer, Shadows
from policies.cascade.shared import Agreed, Pair
from policies.cascade.turn import Turn, how_of, told
from policies.route.seats import conversation_of
from proxy.chain import Services
from proxy.config import globs
from proxy.counterfactual import nanodollars_at
from proxy.deferred import Grounds
from proxy.dialects import Usage
from proxy.errors import PERMISSION, WeirError
from proxy.exchange import Attempt, Exchange, Forward, Identity, Request, Saving
from proxy.response import Outcome, Response
from proxy.wire.sse import Event

_LOGPROBS: Final = b'"logprobs"'
_FADES: Final = 0.1
_WARM: Final = 20_000
_TOKENS: Final = 100_000  # prices are compared by them


class Cascade:
    """The layer. `draw` gives numbers between 0 and 1: which requests are shadowed."""

    def __init__(
        self,
        config: Config,
        services: Services,
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._config, self._services = config, services
        self._name, self._source = services.name, services.source
        self._draw = draw
        self._answers_for = globs(list(config.asked))
        self._allowed = Allowed(services.configuration, services.name)
        self._logprobs = config.logprobs
        self._grounds: Grounds | None = None
        self.classes = Classes(config, services, secrets.token_hex(8), wall)
        self._waits: dict[str, float] = {}
        self._warm: OrderedDict[str, float] = OrderedDict()  # conversations that were escalated, and until when
        self.ratings: Ratings | None = None
        self._following: asyncio.Task[None] | None = None
        if config.judge.feedback and services.store is not None:
            self.ratings = Ratings(services.store, self.classes.tell)
            following = self.ratings.follow()
            self._following = asyncio.get_running_loop().create_task(following, name="cascade: ratings")
        self._labelled = list(enumerate(config.judge.pairs))  # those that the judge wasn't asked of yet

    def __repr__(self) -> str:
        return f"<Cascade {self._config.small} ▸ {self._config.large}>"

    def begin(self, grounds: Grounds) -> None:
        """Where background calls go, and where prices are from."""
        self._grounds = grounds

    async def __call__(self, request: Request, forward: Forward) -> Response:
        model = request.model
        if model is None or not self._answers_for(model):
            return await forward(request)
        wanted = asked(request)
        if wanted is None or request.field("store") is True:
            self._note(request, "passed", reason="endpoint" if wanted is None else "stored")
            return await forward(request)
        rungs = [rung for rung in self._config.rungs if self._allowed.may_use(request, rung)]
        if len(rungs) < 2:
            self._note(request, "passed", reason="model_not_allowed")
            return await forward(request if model in (*rungs, self._config.large) else self._only(request, rungs))
        turn = self._turn(request, wanted)
        self.classes.count(turn.evidence).requests += 1
        course = _Course(self, request, forward, turn, self._draws(turn.evidence))
        if self._services.observing or not self._small_may_answer(turn.evidence):
            if self._services.observing:
                return await course.large(model)
            self._note(request, "large", status=turn.evidence.status)
            return await course.large(self._config.large)
        if self._warm and self._stays(request, turn.evidence):
            self._note(request, "stayed", status=turn.evidence.status)
            return await _Course(self, request, forward, turn, False).large(self._config.large)
        if turn.how == "route":
            return await course.routed()
        return await course.small_first()

    def _only(self, request: Request, rungs: list[str]) -> Request:
        """The request for the one rung that the client may use."""
        if not rungs:
            message = f"The models that answer for `{request.model}` may not be used with this key."
            raise WeirError(403, message, type=PERMISSION, code="model_not_allowed", param="model")
        return request.using(model=rungs[0])

    def _turn(self, request: Request, wanted: Asked) -> Turn:
        how = how_of(self._config, wanted, request.headers)
        return Turn(self._config, wanted, how, self.classes.of(self.classes.name_of(request.exchange, wanted, how)))

    def _small_may_answer(self, evidence: Evidence) -> bool:
        if evidence.serving is not None:
            return True
        return evidence.status == "gathering" and self._config.until_certified == "small"

    def _draws(self, evidence: Evidence) -> bool:
        """Whether this request is one of the sample. What can't pay isn't looked at any more."""
        if self._config.judge.feedback or evidence.status == "infeasible":
            return False
        return self._draw() < self._config.shadow_rate

    def escalated(self, request: Request) -> None:
        """The large model's prompt cache is warm for this conversation from now on."""
        named = conversation_of(request) if self._config.stays else None
        if named is not None:
            self._warm[named.key] = self._services.clock() + self._config.stays
            self._warm.move_to_end(named.key)
            if len(self._warm) > _WARM:
                self._warm.popitem(last=False)

    def _stays(self, request: Request, evidence: Evidence) -> bool:
        """Whether a conversation that was escalated stays where its prompt is cached: where reading it from the cache
        costs no more than having the small model read it anew, and the large one after that as often as it is asked."""
        named, grounds = conversation_of(request), self._grounds
        if grounds is None or named is None or not named.begun:
            return False
        if self._warm.get(named.key, 0.0) < self._services.clock():
            return False
        cold, warm = Usage(input_tokens=_TOKENS), Usage(input_tokens=_TOKENS, cached_tokens=_TOKENS)
        small = nanodollars_at(grounds.dispatch, self._config.small, cold)
        large = nanodollars_at(grounds.dispatch, self._config.large, warm)
        if small is None or large is None:
            return False
        return large <= small + evidence.escalates * large

    def waited(self, evidence: Evidence, seconds: float) -> None:
        """So long it took to know whether a small answer is given."""
        before = self._waits.get(evidence.name)
        self._waits[evidence.name] = seconds if before is None else before + _FADES * (seconds - before)

    def waits(self, evidence: Evidence) -> float:
        """How long it takes of late, in seconds."""
        return self._waits.get(evidence.name, 0.0)

    def _note(self, request: Request, action: str, **numbers: object) -> None:
        request.exchange.note(self._name, action, self._source, **numbers)

    async def about(self, identity: Identity) -> dict[str, list[object]]:
        """For `GET /weir/me`: nothing of other tenants' traffic, so only how the classes stand."""
        return {"cascade": [{"policy": self._name, "class": each.name, "status": each.status} for each in self.classes]}

    async def aclose(self) -> None:
        """Tells and writes what is known."""
        if self._following is not None:
            self._following.cancel()
        await self.classes.aclose()


class _Refused(Exception):  # noqa: N818 - of the small answer, which isn't the client's business
    """Why a small answer isn't given."""

    def __init__(self, why: str, **numbers: object) -> None:
        super().__init__(why)
        self.why, self.numbers = why, numbers


class _Course:
    """One request's way."""

    def __init__(self, policy: Cascade, request: Request, forward: Forward, turn: Turn, sampled: bool) -> None:
        self._policy, self._request, self._forward, self._turn = policy, request, forward, turn
        self._config, self._sampled = policy._config, sampled
        self._exchange = request.exchange
        self._began = len(self._exchange.attempts)
        self._evidence = turn.evidence
        self._count = policy.classes.count(turn.evidence)
        self._small: Answer | None = None
        self._score: float | None = None
        self._features: Features | None = None
        self._rival: Rival | None = None

    def _attempts(self, *, small: bool) -> list[Attempt]:
        """Those of one rung, and of whatever stood in for it."""
        other = self._config.large if small else self._config.small
        made = self._exchange.attempts[self._began :]
        return [attempt for attempt in made if attempt.request is None or attempt.request.model != other]

    # --- the large model

    async def large(self, model: str) -> Response:
        """The large model answers, by this name."""
        rival, self._rival = self._rival, None
        if rival is not None:
            response = await rival.answer()
        else:
            response = await self._forward(self._request.using(model=model))
        if response.status >= 300:
            return response
        if self._sampled:
            self._watch(response, small=False)
        response.headers = [*response.headers, told("large", self._evidence)]
        return response

    async def _escalate(self, refused: _Refused) -> Response:
        self._count.escalated += 1
        self._policy.escalated(self._request)
        self._policy._note(self._request, "escalated", reason=refused.why, **refused.numbers)
        if refused.why in GATES:
            self._count.gates[refused.why] = self._count.gates.get(refused.why, 0) + 1
        paid = _cost(self._attempts(small=True))
        if paid:
            self._count.saved_nanos -= paid
            self._exchange.save(Saving(self._policy._name, -paid, self._config.large))
        return await self.large(self._config.large)

    # --- the small model

    async def routed(self) -> Response:
        """The prompt alone decides."""
        accepted, score = self._accepts(self._turn.features(()))
        try:
            if not accepted:
                raise _Refused("score", **self._numbers(score))
            response = await self._asked(self._request.using(model=self._config.small))
        except _Refused as refused:
            return await self._escalate(refused)
        return self._given(response, score)

    async def small_first(self) -> Response:
        """The small model answers, and its answer is looked at; the large one may have been started by then."""
        loop, began_s = asyncio.get_running_loop(), self._policy._services.clock()
        if self._both():
            self._policy._note(self._request, "both")
            self._rival = Rival(self._request.using(model=self._config.large), self._forward)
        loop.call_soon(getattr, self._turn, "prompt")  # while the upstream thinks
        try:
            try:
                response, score, gathered = await self._small_answer()
            except _Refused as refused:
                return await self._escalate(refused)
            finally:
                self._policy.waited(self._evidence, self._policy._services.clock() - began_s)
        finally:
            if self._rival is not None:
                await self._rival.aclose()
        if self._rival is not None:  # it may have been quicker: the last one is the one that is told of
            for attempt in self._attempts(small=True):
                self._exchange.attempts.remove(attempt)
                self._exchange.attempts.append(attempt)
        return self._given(response, score, gathered)

    def _both(self) -> bool:
        worth, costs = self._config.second_worth, self._evidence.costs()
        if not worth or costs is None:
            return False
        return pays(self._evidence.escalates, self._policy.waits(self._evidence), worth, costs[1])

    async def _small_answer(self) -> tuple[Response, float, Gathered | None]:
        """An answer that may be given, and its score. Raises _Refused."""
        response = await self._ask_small()
        if response.is_event_stream:
            return await self._streamed(response)
        try:
            body = await response.read()
        except WeirError as error:
            raise _Refused("failed", code=error.code) from None
        choices = said(self._turn.asked.dialect, body)
        if choices is None:
            raise _Refused("failed", code="not_an_answer")
        self._small = _answer(choices, self._attempts(small=True))
        score = self._scored(choices)
        return Response(response.status, response.headers, self._stripped(body)), score, None

    async def _ask_small(self) -> Response:
        wants = self._turn.asked
        small = self._request.using(model=self._config.small)
        if not self._policy._logprobs or wants.dialect != "chat" or wants.own_logprobs:
            return await self._asked(small)
        try:
            return await self._asked(small.using(fields={"logprobs": True}))
        except _Refused as refused:
            if refused.numbers.get("status") != 400:
                raise
        plain = await self._asked(small)  # it was that field: asked without it, from now on
        self._policy._logprobs = False
        return plain

    async def _asked(self, request: Request) -> Response:
        """An answer that isn't a failure. Raises _Refused."""
        try:
            response = await self._forward(request)
        except WeirError as error:
            raise _Refused("failed", code=error.code) from None
        if response.status >= 300:
            await response.aclose()
            raise _Refused("failed", status=response.status)
        return response

    def _scored(self, choices: Sequence[Said]) -> float:
        """The score of an answer that may be given. Raises _Refused."""
        if (why := self._turn.gate(choices)) is not None:
            raise _Refused(why, **self._numbers(None))
        accepted, score = self._accepts(self._turn.features(choices))
        if not accepted:
            raise _Refused("score", **self._numbers(score))
        return score

    def _accepts(self, features: Features) -> tuple[bool, float]:
        self._features = features
        accepted, score = self._evidence.accepts(features)
        return accepted or self._evidence.serving is None, score  # until certified only gates count

    def _numbers(self, score: float | None) -> dict[str, object]:
        line = self._evidence.serving
        threshold = None if line is None else line.certificate.threshold
        return {
            "score": None if score is None else round(score, 4),
            "threshold": None if threshold is None else round(threshold, 4),
            "class": self._evidence.name,
            "cert": self._evidence.certificate_id,
        }

    def _given(self, response: Response, score: float, gathered: Gathered | None = None) -> Response:
        """The small answer is the client's."""
        self._count.small += 1
        self._policy._note(self._request, "small", status=self._evidence.status, **self._numbers(score))
        response.headers = [*response.headers, told("small", self._evidence)]
        if response.whole:
            self._save()
        self._watch(response, small=True, gathered=gathered)
        return response

    def _save(self) -> None:
        """Claims what the large model would have cost for as many tokens, less what was paid."""
        grounds, mine = self._policy._grounds, self._attempts(small=True)
        attempt, paid = mine[-1] if mine else None, _cost(self._exchange.attempts[self._began :])
        if grounds is None or attempt is None or attempt.usage is None or paid is None:
            return
        instead = nanodollars_at(grounds.dispatch, self._config.large, attempt.usage)
        if self._policy.ratings is not None and self._features is not None:
            served = (attempt.served or "", "")
            pair = Pair(self._features.packed(), None, None, _cost(mine), instead, served)
            self._policy.ratings.given(self._exchange.id, self._evidence, pair)
        if instead is not None:
            self._count.saved_nanos += instead - paid
            saving = Saving(self._policy._name, instead - paid, self._config.large, attempt.usage.counts())
            self._exchange.save(saving)

    # --- streams

    async def _streamed(self, response: Response) -> tuple[Response, float, Gathered]:
        """A stream is held until it is known whether its answer may be given. Raises _Refused."""
        gathered = Gathered(self._turn.asked.dialect)
        response.tap(lambda seen: gathered.event(seen.data) if isinstance(seen, Event) and seen.data else None)
        self._strip(response)
        held = Held(response)
        try:
            over = await held.until(lambda: self._turn.how == "prefix" and not self._turn.ended(gathered.said()))
            choices = gathered.said()
            if over:
                self._small = _answer(choices, self._attempts(small=True))
            score = self._scored(choices)
        except WeirError as error:
            raise _Refused("failed", code=error.code) from None
        except _Refused:
            await held.aclose()
            raise
        return held.released(), score, gathered

    def _strip(self, response: Response) -> None:
        if self._policy._logprobs and not self._turn.asked.own_logprobs:
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
        collector = _Collector(self._turn.asked.dialect, gathered)

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
        answer = _answer(choices, self._attempts(small=small)) if choices else None
        if small:
            answer = self._small or answer  # before what the client doesn't see was taken out
        if answer is not None:
            self._complete(answer if small else self._small, None if small else answer)

    def _complete(self, small: Answer | None, large: Answer | None) -> None:
        """Completes the pair in the background."""
        policy, grounds = self._policy, self._policy._grounds
        forward = self._forward if grounds is None else grounds.forward
        pairing = _Pairing(policy, self._request, forward, self._turn)
        shadows = pairing.shadows

        async def run(background: Exchange) -> None:
            await pairing.run(background, small, large)

        shadows.begin(self._exchange, "shadow", SHADOW_S, run)


class _Pairing:
    """Both answers to one request, compared, in the background."""

    def __init__(self, policy: Cascade, request: Request, forward: Forward, turn: Turn) -> None:
        self._policy, self._request, self._forward, self._turn = policy, request, forward, turn
        self._config = policy._config
        self.shadows = Shadows(self._config, policy._services, self._spent)

    def _spent(self, nanodollars: int) -> None:
        self._policy.classes.count(self._turn.evidence).spent_nanos += nanodollars

    async def run(self, background: Exchange, small: Answer | None, large: Answer | None) -> None:
        """Asks for what is missing, judges, and tells."""
        try:
            pair = await self._pair(background, small, large)
        except (WeirError, ValueError):
            self._policy._services.metrics.decision(self._policy._name, "shadow_failed")
            return
        if pair is not None:
            await self._policy.classes.tell(self._turn.evidence, pair)
            await self._agreement(background)

    async def _pair(self, background: Exchange, small: Answer | None, large: Answer | None) -> Pair | None:
        turn, config, request = self._turn, self._config, self._request
        if small is None:
            small = await self.shadows.ask(request, self._forward, config.small, turn.asked, background)
        gate, features = turn.gate(small.said), turn.features(small.said)
        if gate is not None or not turn.evidence.needs_judge(features):
            costs = (small.nanodollars, None if large is None else large.nanodollars)
            return Pair(features.packed(), gate, None, *costs, served=_served(small, large))
        if large is None:
            large = await self.shadows.ask(request, self._forward, config.large, turn.asked, background)
        loss = await self._loss(background, small, large)
        if loss is None:
            self._policy._services.metrics.decision(self._policy._name, "not_judged")
            return None
        self._policy._services.metrics.decision(self._policy._name, "judged")
        return Pair(features.packed(), None, loss, small.nanodollars, large.nanodollars, served=_served(small, large))

    async def _loss(self, background: Exchange, small: Answer, large: Answer) -> float | None:
        judge = self._config.judge
        if judge.equality is not None:
            return judging.equal(judge.equality, small.said, large.said)
        if judge.model is None:
            return None
        texts = judging.text_of(small.said), judging.text_of(large.said)
        if texts[0].strip() == texts[1].strip():
            return 0.0  # nobody need be asked
        request = self._request.using(exchange=background)
        return await self.shadows.judge(request, self._forward, self._turn.asked.text, *texts)

    async def _agreement(self, background: Exchange) -> None:
        """Asks the judge of one more pair that a person has compared."""
        policy, evidence, judge = self._policy, self._turn.evidence, self._config.judge
        while policy._labelled:
            number, pair = policy._labelled.pop()
            if judge.equality is not None:
                loss: float | None = judging.equal_pair(judge.equality, pair)
            elif judge.model is None or number in evidence.agreed:
                continue
            else:
                request = self._request.using(exchange=background)
                loss = await self.shadows.judge_labelled(request, self._forward, pair)
            if loss is not None:
                for each in policy.classes:
                    await policy.classes.tell(each, Agreed(number, judging.agrees(loss, pair)))
            if judge.equality is None:
                return


def _served(small: Answer, large: Answer | None) -> tuple[str, str]:
    return small.served, "" if large is None else large.served


def _answer(choices: Sequence[Said], attempts: Sequence[Attempt]) -> Answer:
    served = attempts[-1].served or "" if attempts else ""
    return Answer(tuple(choices), _cost(attempts), served)


def _cost(attempts: Sequence[Attempt]) -> int | None:
    costs = [attempt.nanodollars for attempt in attempts]
    return None if any(cost is None for cost in costs) else sum(cost or 0 for cost in costs)


def _without_logprobs(event: Event) -> Event:
    """An event without the probabilities that the client didn't ask for."""
    if event.data is None or _LOGPROBS not in event.data:
        return event
    told = msgspec.json.decode(event.data)
    for choice in told.get("choices") or ():
        if choice.get("logprobs") is not None:
            choice["logprobs"] = None
    return Event(b"data: " + orjson.dumps(told) + b"\n\n", None)


class _Collector:
    """An answer that passes by. `gathered`: by somebody else, who sees more of it."""

    def __init__(self, dialect: str, gathered: Gathered | None) -> None:
        self._dialect = dialect
        self._other, self._own = gathered, Gathered(dialect)
        self._body: list[bytes] = []

    def event(self, event: Event, stream: bool) -> None:
        if self._other is not None:
            return
        if not stream:
            self._body.append(event.raw)
        elif event.data is not None:
            self._own.event(event.data)
        else:
            for line in event.raw.splitlines():
                if line.startswith(b"data:"):
                    self._own.event(line[5:].strip())

    def said(self) -> Sequence[Said] | None:
        if self._body:
            return said(self._dialect, b"".join(self._body))
        return (self._other or self._own).said()


def build(config: Config, services: Services) -> Cascade:
    """The policy for one entry of a policy file."""
    return Cascade(config, services)
