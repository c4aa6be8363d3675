"""How much better the larger of two models is likely to do, told by the prompt alone, before an answer was generated.

Rules:
1. What it learns from are the judged pairs of a `cascade` with the same two models, as that keeps them in the Store
   (`policies.cascade.shared`); it adds no calls of its own. Which class has most of them, its reports say.
2. A class whose answers are looked at by the prompt alone is learnt from as it is. Of other classes' examples only the
   prompt's numbers are: their words are mixed with those of answers, which aren't known here.
3. It is fitted in a process of its own (`policies.cascade.learning.apart`), again when there are a fifth more pairs,
   and when the worker has room to spare. Where nothing was learnt, or the Store is lost, nobody knows (None), or what
   was known stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from policies.cascade.learning.apart import fitted_to_prompts_apart
from policies.cascade.shared import REPORTS, key_of
from proxy.chain import Services
from proxy.exchange import Request
from proxy.state.protocol import StateLost, Store

if TYPE_CHECKING:
    from policies.cascade.learning.features import Features
    from policies.cascade.learning.score import Score

Rungs = tuple[str, str]
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
        from policies.cascade.learning.features import wordless

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
        from policies.cascade.learning.score import FEWEST

        best: dict[Rungs, dict[str, Any]] = {}
        for key in await store.keys(REPORTS, _CLASSES):
            report = _report(await store.get(key))
            rungs = _rungs(report)
            if rungs in self._wanted and _worth(report) > _worth(best.get(rungs, {})):
                best[rungs] = report
        for rungs, report in best.items():
            known = self._known.get(rungs)
            enough = FEWEST if known is None else _MORE * known.judged
            if report["judged"] >= enough and self._services.spares():
                learned = await _fitted(report, await store.get(key_of(report["policy"], report["class"])))
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


async def _fitted(report: dict[str, Any], state: bytes | None) -> Learned | None:
    """What a class's pairs teach; they are read where the score is fitted."""
    from policies.cascade.learning.score import Score

    words = _by_prompt(report)
    told = None if state is None else await fitted_to_prompts_apart(state, words)
    return None if told is None else Learned(Score.loads(told), words, report["judged"])


def _report(value: bytes | None) -> dict[str, Any]:
    try:
        told = None if value is None else msgspec.msgpack.decode(value)
    except msgspec.MsgspecError:
        return {}
    if isinstance(told, dict) and isinstance(told.get("judged"), int) and {"policy", "class"} <= told.keys():
        return told
    return {}


def _rungs(report: dict[str, Any]) -> Rungs:
    rungs = report.get("rungs")
    return (str(rungs[0]), str(rungs[1])) if isinstance(rungs, list) and len(rungs) == 2 else ("", "")


def _by_prompt(report: dict[str, Any]) -> bool:
    return str(report.get("class", "")).partition("/")[0] == _BY_PROMPT


def _worth(report: dict[str, Any]) -> tuple[bool, int]:
    """Which class is learnt from: one by the prompt alone, if it has enough pairs; else the largest."""
    judged = int(report.get("judged", -1))
    return (_by_prompt(report) and judged >= 100, judged)
