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
from collections.abc import Callable
from typing import Final

from policies.allowed import Allowed
from policies.cascade.answers import Asked, asked
from policies.cascade.classes import Classes
from policies.cascade.config import Config
from policies.cascade.course import Course
from policies.cascade.evidence import Evidence
from policies.cascade.rated import Ratings
from policies.cascade.turn import Turn, how_of
from policies.route.seats import conversation_of
from proxy.chain import Services
from proxy.config import globs
from proxy.counterfactual import nanodollars_at
from proxy.deferred import Grounds
from proxy.dialects import Usage
from proxy.endpoints import uses_stored
from proxy.errors import PERMISSION, WeirError
from proxy.exchange import Forward, Identity, Request
from proxy.response import Response

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
        self.config, self.services = config, services
        self.name, self.source = services.name, services.source
        self._draw = draw
        self._answers_for = globs(list(config.asked))
        self._allowed = Allowed(services.configuration, services.name)
        self.logprobs, self.checks = config.logprobs, config.check is not None
        self.grounds: Grounds | None = None
        self.classes = Classes(config, services, secrets.token_hex(8), wall)
        self._waits: dict[str, float] = {}
        self._warm: OrderedDict[str, float] = OrderedDict()  # conversations that were escalated, and until when
        self.ratings: Ratings | None = None
        self._following: asyncio.Task[None] | None = None
        if config.judge.feedback and services.store is not None:
            self.ratings = Ratings(services.store, self.classes.tell)
            following = self.ratings.follow()
            self._following = asyncio.get_running_loop().create_task(following, name="cascade: ratings")
        self.labelled = list(enumerate(config.judge.pairs))  # those that the judge wasn't asked of yet

    def __repr__(self) -> str:
        return f"<Cascade {self.config.small} ▸ {self.config.large}>"

    def begin(self, grounds: Grounds) -> None:
        """Where background calls go, where prices are from, who may use which model: other entries may have changed."""
        self.grounds = grounds
        self._allowed = Allowed(grounds.dispatch.routes.configuration, self.services.name)

    async def __call__(self, request: Request, forward: Forward) -> Response:
        model = request.model
        if model is None or not self._answers_for(model):
            return await forward(request)
        wanted = asked(request)
        if wanted is None or request.field("store") is True or uses_stored(request.endpoint, request.field):
            self.note(request, "passed", reason="endpoint" if wanted is None else "stored")
            return await forward(request)
        rungs = [rung for rung in self.config.rungs if self._allowed.may_use(request, rung)]
        if len(rungs) < 2 or not self._may_check(request):
            self.note(request, "passed", reason="model_not_allowed")
            return await forward(request if model in (*rungs, self.config.large) else self._only(request, rungs))
        turn = self._turn(request, wanted)
        self.classes.count(turn.evidence).requests += 1
        course = Course(self, request, forward, turn, self._draws(turn.evidence))
        if self.services.observing or not self._small_may_answer(turn.evidence):
            if self.services.observing:
                return await course.large(model)
            self.note(request, "large", status=turn.evidence.status)
            return await course.large(self.config.large)
        if self._warm and self._stays(request, turn.evidence):
            self.note(request, "stayed", status=turn.evidence.status)
            return await Course(self, request, forward, turn, False).large(self.config.large)
        if turn.how == "route":
            return await course.routed()
        return await course.small_first()

    def _may_check(self, request: Request) -> bool:
        check = self.config.check
        return check is None or check == "self" or self._allowed.may_use(request, check)

    def _only(self, request: Request, rungs: list[str]) -> Request:
        """The request for the rung that the client may use, the large one if both."""
        if not rungs:
            message = f"The models that answer for `{request.model}` may not be used with this key."
            raise WeirError(403, message, type=PERMISSION, code="model_not_allowed", param="model")
        return request.using(model=rungs[-1])

    def _turn(self, request: Request, wanted: Asked) -> Turn:
        how = how_of(self.config, wanted, request.headers)
        return Turn(self.config, wanted, how, self.classes.of(self.classes.name_of(request.exchange, wanted, how)))

    def _small_may_answer(self, evidence: Evidence) -> bool:
        if evidence.serving is not None:
            return True
        return evidence.status == "gathering" and self.config.until_certified == "small"

    def _draws(self, evidence: Evidence) -> bool:
        """Whether this request is one of the sample. What can't pay isn't looked at any more."""
        if self.config.judge.feedback or evidence.status == "infeasible" or not self.classes.sorted:
            return False
        return self._draw() < self.config.shadow_rate

    def escalated(self, request: Request) -> None:
        """The large model's prompt cache is warm for this conversation from now on."""
        named = conversation_of(request) if self.config.stays else None
        if named is not None:
            self._warm[named.key] = self.services.clock() + self.config.stays
            self._warm.move_to_end(named.key)
            if len(self._warm) > _WARM:
                self._warm.popitem(last=False)

    def _stays(self, request: Request, evidence: Evidence) -> bool:
        """Whether a conversation that was escalated stays where its prompt is cached: where reading it from the cache
        costs no more than having the small model read it anew, and the large one after that as often as it is asked."""
        named, grounds = conversation_of(request), self.grounds
        if grounds is None or named is None or not named.begun:
            return False
        if self._warm.get(named.key, 0.0) < self.services.clock():
            return False
        cold, warm = Usage(input_tokens=_TOKENS), Usage(input_tokens=_TOKENS, cached_tokens=_TOKENS)
        small = nanodollars_at(grounds.dispatch, self.config.small, cold)
        large = nanodollars_at(grounds.dispatch, self.config.large, warm)
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

    def note(self, request: Request, action: str, **numbers: object) -> None:
        """Records what was decided."""
        request.exchange.note(self.name, action, self.source, **numbers)

    async def about(self, identity: Identity) -> dict[str, list[object]]:
        """For `GET /weir/me`: nothing of other tenants' traffic, so only how the classes stand."""
        return {"cascade": [{"policy": self.name, "class": each.name, "status": each.status} for each in self.classes]}

    async def aclose(self) -> None:
        """Tells and writes what is known."""
        if self._following is not None:
            self._following.cancel()
        await self.classes.aclose()


def build(config: Config, services: Services) -> Cascade:
    """The policy for one entry of a policy file."""
    return Cascade(config, services)
