"""`fallback`: another deployment, another model, a longer context, where the one asked for fails.

    - use: fallback
      to:
        - {model: gpt-4.1, on: context_length}
        - gpt-4o-mini
        - claude-haiku-4-5

Rules:
1. First the other deployments of the same model, then the targets in their order; each is called once.
2. What may have been billed ends the chain, unless `double_bill` accepts that.
3. A model that the client may not use is never used: neither one that its key hasn't, nor one that an `allow` further
   out refuses. A target that a layer or a guard further in refuses is passed over.
4. Once the first event has reached the client nothing is switched. Embeddings never change their model.
5. If everything fails, the client gets the first failure, as if there had been no fallback, or the one that may have
   been billed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from policies.allowed import Allowed
from policies.target import ModelTarget
from proxy.body import Body
from proxy.chain import Services
from proxy.config import Order
from proxy.config.scalars import OneOrList, Truth
from proxy.deferred import Grounds
from proxy.errors import WeirError
from proxy.exchange import Forward, Request
from proxy.failures import Failure, Kind, Try, elsewhere, looked_at, repeatable, tried
from proxy.response import Response

ORDER = Order(
    outside=("retry",),
    inside=("timeout", "hedge", "budget", "ratelimit", "cascade", "cache", "coalesce"),
    why="a model is given up when its retries are used up, and what is given to the client may come from any of them",
)


class Target(ModelTarget):
    """A model to go on with; written as its name alone, it takes the kinds of the policy."""

    on: Annotated[tuple[Kind, ...], OneOrList()] | None = None
    """Kinds of failures that lead to it."""


class Config(BaseModel):
    """Where a request goes on, and after which failures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: Annotated[tuple[Target, ...], OneOrList()] = Field(default=())
    """Models, in the order in which they are tried: `gpt-4o-mini`, or `{model: gpt-4.1, on: context_length}`."""
    on: Annotated[tuple[Kind, ...], OneOrList()] = (
        "unreachable",
        "overloaded",
        "rate_limited",
        "quota",
        "key_refused",
        "not_found",
        "server_error",
        "timeout",
        "broken",
    )
    """Kinds of failures that lead on. `context_length` and `content_filter` count where they are named."""
    deployments: Truth = True
    """Whether the other deployments of the same model come first."""
    double_bill: Truth = False
    """Whether it goes on where the failed call may have been billed."""


_ANYWHERE: Final = frozenset(("context_length", "content_filter", "rejected"))  # the same model says so elsewhere, too


def takes(config: Config, failure: Failure, target: Target | None) -> bool:
    """Whether a failure leads to a target; None is another deployment of the same model."""
    if target is None:
        return failure.kind in config.on and failure.kind not in _ANYWHERE
    return failure.kind in (config.on if target.on is None else target.on)


def ends(config: Config, failure: Failure, may_repeat: bool) -> bool:
    """Whether a failure ends the chain, because going on could be paid twice."""
    return failure.billed and not (config.double_bill and may_repeat)


def told(tries: list[Try]) -> Try:
    """Which of the failures the client gets."""
    last = tries[-1]
    return last if last.failure is not None and last.failure.billed else tries[0]


def changeable(request: Request) -> bool:
    """Whether another model can answer. Vectors of another model would be of no use beside those of the one asked."""
    return isinstance(request.body, Body) and request.model is not None and request.endpoint.name != "embeddings"


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    models = [f"{target.model} (on {', '.join(target.on or config.on)})" for target in config.to]
    first = ["the model's other deployments"] if config.deployments else []
    return "after a failure: " + ", then ".join([*first, *models])


class Fallback:
    """The layer. `wall` tells Unix time."""

    def __init__(self, config: Config, services: Services, wall: Callable[[], float] = time.time) -> None:
        self.config = config
        self.name, self.source = services.name, services.source
        self.allowed = Allowed(services.configuration, services.name)
        self._wall = wall

    def begin(self, grounds: Grounds) -> None:
        """Who may use which model: other entries may have changed, though this one is as it was."""
        self.allowed = Allowed(grounds.dispatch.routes.configuration, self.name)

    async def __call__(self, request: Request, forward: Forward) -> Response:
        attempts = request.exchange.attempts
        known = len(attempts)
        try:
            answer: Response | WeirError = await forward(request)
        except WeirError as error:
            answer = error
        if isinstance(answer, Response) and answer.status < 400:
            return answer
        first = await looked_at(answer, attempts[known:], self._wall)
        if first.failure is None:
            return first.result()
        course = _Course(self, request, first)
        while (step := course.next()) is not None:
            one = await tried(step, forward, self._wall)
            if one.failure is None and isinstance(one.answer, Response):
                course.given = one
                break
            course.failed(one)
        for lost in course.tries:
            if lost is not course.given:
                await lost.discard()
        return course.given.result()


class _Course:
    """One request's way through deployments and models."""

    def __init__(self, policy: Fallback, request: Request, first: Try) -> None:
        self._policy, self._config = policy, policy.config
        self._asked = self._step = request
        self._may_repeat = repeatable(request)
        self._here = policy.config.deployments  # whether the present model's other deployments are still to be asked
        self._left = [target for target in policy.config.to if target.model != request.model]
        if not changeable(request):
            self._left.clear()
        self.tries: list[Try] = []
        self.failed(first)

    def failed(self, one: Try) -> None:
        """A call gave no answer, or was refused on its way by a layer or a guard."""
        exchange = self._asked.exchange
        for attempt in one.attempts:
            if attempt.outcome == "failed":
                exchange.shun(attempt)
        if one.failure is None:
            self._here = False
            assert isinstance(one.answer, WeirError)
            self._note("passed_over", model=self._step.model, why=one.answer.code or one.answer.type)
            return
        self.tries.append(one)
        self._last = one
        self.given = told(self.tries)

    def next(self) -> Request | None:
        """What to send next; None where the chain ends."""
        failure, last = self._last.failure, self._last.attempts[-1]
        assert failure is not None
        if ends(self._config, failure, self._may_repeat) or not self._asked.replayable:
            return None
        if self._here and takes(self._config, failure, None) and elsewhere(last, self._asked.exchange):
            self._note("other_deployment", kind=failure.kind, status=failure.status, model=self._step.model)
            return self._step
        target = self._target(failure)
        if target is None:
            return None
        self._left.remove(target)
        self._here = self._config.deployments
        self._step = self._asked.using(model=target.model)
        self._note("fell_back", kind=failure.kind, status=failure.status, model=target.model)
        return self._step

    def _target(self, failure: Failure) -> Target | None:
        """The first of the models left that the failure leads to and the client may use."""
        for target in list(self._left):
            if not takes(self._config, failure, target):
                continue
            if self._policy.allowed.may_use(self._asked, target.model):
                return target
            self._left.remove(target)
            self._note("passed_over", model=target.model, why="model_not_allowed")
        return None

    def _note(self, action: str, **numbers: object) -> None:
        self._asked.exchange.note(self._policy.name, action, self._policy.source, **numbers)


def build(config: Config, services: Services) -> Fallback:
    """The policy for one entry of a policy file."""
    return Fallback(config, services)
