"""How much better the larger of two models is likely to do, told by the prompt alone, before an answer was generated.

Rules:
1. What it learns from are the judged pairs of a `cascade` with the same two models, as that keeps them in the Store
   (`policies.cascade.shared`); it adds no calls of its own.
2. A class whose answers are looked at by the prompt alone is learnt from as it is. Of other classes' examples only the
   prompt's numbers are: their words are mixed with those of answers, which aren't known here.
3. It is fitted in a thread, again when there are a fifth more pairs. Where nothing was learnt, or the Store is lost,
   nobody knows (None), or what was known stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proxy.chain import Services
from proxy.exchange import Request
from proxy.state.protocol import StateLost, Store

if TYPE_CHECKING:
    from policies.cascade.learning.features import Features
    from policies.cascade.learning.score import Score

Rungs = tuple[str, str]
_PREFIX: Final = "cascade/"
_CLASSES: Final = 1000
_AGAIN_S: Final = 60.0
_MORE: Final = 1.2
_BY_PROMPT: Final = "route"  # how the answers of such a class are looked at (`policies.cascade.turn`)


class Learned(msgspec.Struct, frozen=True):
    """A score for two models. `words`: whether it goes by words, too; `judged`: pairs that it was fitted to."""

    score: Score
    words: bool
    judged: int

    def gain(self, prompt: Features) -> float:
        """The expected quality of the large model's answer over the small one's, in [-1, 1]."""
        return self.score.gain(prompt if self.words else wordless(prompt))


class Scores:
    """The scores of all pairs of models that a policy decides between."""

    def __init__(self, services: Services, wanted: Iterable[Rungs]) -> None:
        self._services = services
        self._wanted = frozenset(wanted)
        self._known: dict[Rungs, Learned] = {}
        self._task: asyncio.Task[None] | None = None
        if self._wanted:
            import policies.cascade.learning.score  # noqa: F401  # what is missing is said when the policy is built
        if self._wanted and services.store is not None:
            self._task = asyncio.get_running_loop().create_task(self._follow(services.store), name="route: the score")

    def __repr__(self) -> str:
        return f"<Scores {self._known}>"

    def gain(self, request: Request, rungs: Rungs) -> float | None:
        """How much better the large model is expected to be; None where nobody knows."""
        learned = self._known.get(rungs)
        if learned is None:
            return None
        from policies.cascade.answers import asked

        about = asked(request)
        if about is None:
            return None
        return learned.gain(prompt_of(about.text, about.turns, len(about.tools), about.json))

    async def _follow(self, store: Store) -> None:
        while True:
            try:
                await self.look(store)
            except StateLost:
                self._services.metrics.count("route_score_lost")
            await asyncio.sleep(_AGAIN_S)

    async def look(self, store: Store) -> None:
        """Learns from what is there by now. Raises StateLost."""
        best: dict[Rungs, dict[str, Any]] = {}
        for key in await store.keys(_PREFIX, _CLASSES):
            state = _state(await store.get(key))
            rungs = _rungs(state)
            if rungs in self._wanted and _worth(state) > _worth(best.get(rungs, {})):
                best[rungs] = state
        for rungs, state in best.items():
            known = self._known.get(rungs)
            if known is None or state["judged"] >= _MORE * known.judged:
                learned = await asyncio.to_thread(_fitted, state)
                if learned is not None:
                    self._known[rungs] = learned

    def close(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()


def prompt_of(text: str, turns: int, tools: int, wants_json: bool) -> Features:
    """What the prompt alone says."""
    from policies.cascade.learning.features import joined, prompt_features

    return joined(prompt_features(text, turns=turns, tools=tools, wants_json=wants_json), None)


def wordless(features: Features) -> Features:
    """The prompt's numbers, without words and without what an answer said."""
    import numpy as np

    from policies.cascade.learning.features import PROMPT
    from policies.cascade.learning.features import Features as Made

    numbers = features.numbers.copy()
    numbers[len(PROMPT) :] = 0.0
    return Made(numbers, np.empty(0, np.int32))


def _fitted(state: dict[str, Any]) -> Learned | None:
    from policies.cascade.learning.features import unpacked
    from policies.cascade.learning.score import Example, fit

    words = _by_prompt(state)
    try:
        pairs = [(unpacked(packed), float(loss)) for packed, loss in state["examples"]]
        examples = [
            Example(features if words else wordless(features), (1 - loss) / 2, (1 + loss) / 2)
            for features, loss in pairs
        ]
        return Learned(fit(examples), words, state["judged"])
    except (ValueError, TypeError, KeyError):
        return None  # too few, or another version's


def _state(value: bytes | None) -> dict[str, Any]:
    try:
        told = None if value is None else msgspec.msgpack.decode(value)
    except msgspec.MsgspecError:
        return {}
    return told if isinstance(told, dict) and isinstance(told.get("judged"), int) else {}


def _rungs(state: dict[str, Any]) -> Rungs:
    report = state.get("report")
    rungs = report.get("rungs") if isinstance(report, dict) else None
    return (str(rungs[0]), str(rungs[1])) if isinstance(rungs, list) and len(rungs) == 2 else ("", "")


def _by_prompt(state: dict[str, Any]) -> bool:
    return str(state.get("name", "")).partition("/")[0] == _BY_PROMPT


def _worth(state: dict[str, Any]) -> tuple[bool, int]:
    """Which class is learnt from: one by the prompt alone, if it has enough pairs; else the largest."""
    judged = int(state.get("judged", -1))
    return (_by_prompt(state) and judged >= 100, judged)
