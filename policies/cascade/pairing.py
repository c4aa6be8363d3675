"""Both answers to one request, completed and compared in the background.

Rules: the small answer is checked as a client's would be, and the judge is asked only where a score might have it
given; a pair that can't be completed, checked or judged is none, and is counted as such. One answer that a person has
judged comes along with each pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from policies.cascade import judging
from policies.cascade.answers import Answer, Gathered, Said, said
from policies.cascade.checking import doubt_of
from policies.cascade.shadow import Shadows, spent
from policies.cascade.shared import Agreed, Pair
from policies.cascade.turn import Turn
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Forward, Request
from proxy.wire.sse import Event

if TYPE_CHECKING:
    from policies.cascade.layer import Cascade


class Pairing:
    """Both answers to one request, compared, in the background."""

    def __init__(self, policy: Cascade, request: Request, forward: Forward, turn: Turn) -> None:
        self._policy, self._request, self._forward, self._turn = policy, request, forward, turn
        self._config = policy.config
        self.shadows = Shadows(self._config, policy.services, self._spent)

    def _spent(self, nanodollars: int) -> None:
        self._policy.classes.count(self._turn.evidence).spent_nanos += nanodollars

    async def run(self, background: Exchange, small: Answer | None, large: Answer | None) -> None:
        """Asks for what is missing, judges, and tells."""
        try:
            pair = await self._pair(background, small, large)
        except (WeirError, ValueError):
            self._policy.services.metrics.decision(self._policy.name, "shadow_failed")
            return
        if pair is not None:
            await self._policy.classes.tell(self._turn.evidence, pair)
            await self._agreement(background)

    async def _pair(self, background: Exchange, small: Answer | None, large: Answer | None) -> Pair | None:
        turn, config, request = self._turn, self._config, self._request.using(exchange=background)
        if small is None:
            small = await self.shadows.ask(request, self._forward, config.small, turn)
        gate, heeded = turn.gate(small), turn.evidence.heeded
        if gate is None and turn.checks and self._policy.checks and small.doubt is None:
            small = await self._checked(request, small)
        features = turn.features(small)
        if gate is not None or not turn.evidence.needs_judge(features):
            costs = (small.nanodollars, None if large is None else large.nanodollars)
            return Pair(features.packed(), gate, None, *costs, _served(small, large), heeded)
        if large is None:
            large = await self.shadows.ask(request, self._forward, config.large, turn)
        loss = await self._loss(background, small, large)
        if loss is None:
            self._policy.services.metrics.decision(self._policy.name, "not_judged")
            return None
        self._policy.services.metrics.decision(self._policy.name, "judged")
        costs = (small.nanodollars, large.nanodollars)
        return Pair(features.packed(), None, loss, *costs, _served(small, large), heeded)

    async def _checked(self, request: Request, small: Answer) -> Answer:
        """The answer with what its check found, and cost."""
        before = request.exchange.nanodollars
        doubt = await doubt_of(self._policy, self._turn, small, request, self._forward)
        cost = spent(request.exchange, before)
        whole = None if cost is None or small.nanodollars is None else small.nanodollars + cost
        return replace(small, doubt=doubt, nanodollars=whole)

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
        while policy.labelled:
            number, pair = policy.labelled.pop()
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


def answer_of(choices: Sequence[Said], attempts: Sequence[Attempt], early: tuple[Said, ...] | None = None) -> Answer:
    """An answer, with what its attempts cost and who gave it."""
    served = attempts[-1].served or "" if attempts else ""
    return Answer(tuple(choices), cost_of(attempts), served, early)


def cost_of(attempts: Sequence[Attempt]) -> int | None:
    """What attempts cost together; None where one can't be priced."""
    costs = [attempt.nanodollars for attempt in attempts]
    return None if any(cost is None for cost in costs) else sum(cost or 0 for cost in costs)


class Collector:
    """An answer that passes by. `gathered`: by somebody else, who sees more of it."""

    def __init__(self, dialect: str, gathered: Gathered | None) -> None:
        self._dialect = dialect
        self._other, self._own = gathered, Gathered(dialect)
        self._body: list[bytes] = []

    def event(self, event: Event, stream: bool) -> None:
        """Takes in what passes."""
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
        """What it said; None where it can't be read."""
        if self._body:
            return said(self._dialect, b"".join(self._body))
        return (self._other or self._own).said()
