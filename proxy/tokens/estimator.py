"""How many tokens a request's input will have, before anybody has counted them.

Four answers, each for its own purpose:
- `estimate`: the likely count, at once: bytes by class, times what usage has taught about this model;
- `p99`: what 99 of 100 requests with such an estimate stay within: what is reserved far from a limit;
- `bound`: what no request can exceed, or None: what is reserved near a hard limit;
- `exact`: the count itself, by the tokenizer, where its ranks are at hand (`proxy.tokens.exact`); near a limit, too.

Rules: usage from the upstream is the truth, and teaches (`learn`). Nothing here waits or fails: a request that can't be
read is estimated by its size. What was learnt is shared by way of the Store's blobs (`persist`), as sums, so that the
order of workers doesn't matter; a Store that is lost costs only what was learnt since.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Protocol

import msgspec

from proxy.body import Body
from proxy.state.protocol import Blobs, StateLost
from proxy.tokens import classes
from proxy.tokens.bound import bound
from proxy.tokens.families import Family, family_of
from proxy.tokens.learned import Learned, dumped, loaded, size_of
from proxy.tokens.texts import AUDIO, IMAGE, Texts, elsewhere, texts

BYTES_A_TOKEN: Final = 4
PREFIX: Final = "tokens/"
KEPT_S: Final = 90 * 86_400.0
MODELS: Final = 512
"""Models that are learnt apart; names come from clients, and mustn't fill the memory."""
_MEDIUM: Final = {AUDIO: 500}
_FILE: Final = 2000
_WARM: Final = 1024  # observations, after which one in `_EVERY` is enough
_EVERY: Final = 8


class Counter(Protocol):
    """Counts exactly, elsewhere (`proxy.tokens.remote`)."""

    def count(self, encoding: str, pieces: list[str]) -> Awaitable[int | None]:
        """Tokens of all pieces; None where nobody can say in time."""


class _Model(msgspec.Struct, eq=False):
    """A model, and what is known of it."""

    name: str
    family: Family
    learned: Learned
    told: Learned  # what the Store has
    corrections: list[float]
    margins: list[float | None]  # computed when asked for
    seen: int = 0
    fresh: int = 0


class Estimator:
    """A worker's estimates. Made once; it outlives configurations."""

    def __init__(self, counter: Counter | None = None) -> None:
        self._counter = counter
        self._models: dict[str, _Model] = {}

    def estimate(self, model: str, endpoint: str, body: Body | bytes) -> int:
        """The likely count of input tokens."""
        known = self._models.get(model) or self._meet(model)
        raw = _raw(known.family, endpoint, body)
        return round(raw * known.corrections[size_of(raw)])

    def p99(self, model: str, estimate: int) -> int:
        """What 99 of 100 requests with this estimate don't exceed."""
        known = self._models.get(model) or self._meet(model)
        size = size_of(estimate)
        margin = known.margins[size]
        if margin is None:
            margin = known.margins[size] = known.learned.p99(size, known.family.p99) / known.corrections[size]
        return int(estimate * margin) + 1

    def bound(self, model: str, endpoint: str, body: Body) -> int | None:
        """What no request of this body can exceed; None where there is no maximum."""
        return bound((self._models.get(model) or self._meet(model)).family, model, endpoint, body)

    def exact(self, model: str, endpoint: str, body: Body) -> Awaitable[int | None] | None:
        """The count itself, soon; None where this model's tokenizer, or how it frames this request, isn't known."""
        from proxy.tokens.exact import counted

        family = (self._models.get(model) or self._meet(model)).family
        if self._counter is None or family.encoding is None:
            return None
        return counted(self._counter, family.encoding, endpoint, body)

    def learn(self, model: str, endpoint: str, body: Body | bytes, observed: int) -> None:
        """The upstream has counted `observed` input tokens. Of models that are known well, some are enough."""
        known = self._models.get(model) or self._meet(model)
        known.seen += 1
        if known.seen > _WARM and known.seen % _EVERY:
            return
        if observed <= 0 or not isinstance(body, Body) or elsewhere(endpoint, body):
            return
        raw = _raw(known.family, endpoint, body)
        known.learned.add(raw, observed)
        known.fresh += 1
        size = size_of(raw)
        known.corrections[size] = known.learned.correction(size)
        if known.fresh % _EVERY == 0 or known.seen < _WARM:
            known.margins[size] = None

    # --- what is kept

    def dump(self, model: str) -> bytes | None:
        """What was learnt about a model."""
        known = self._models.get(model)
        return dumped(known.learned) if known is not None else None

    def load(self, model: str, data: bytes) -> bool:
        """Takes over what was learnt before, in place of what is known; False if it can't be read."""
        learned = loaded(data)
        if learned is None:
            return False
        self._adopt(self._models.get(model) or self._meet(model), learned)
        return True

    async def restore(self, store: Blobs) -> None:
        """Takes over all that is kept. For the start of a worker."""
        try:
            for key in await store.keys(PREFIX, MODELS):
                data = await store.get(key)
                if data is not None:
                    self.load(key.removeprefix(PREFIX), data)
        except StateLost:
            return

    async def persist(self, store: Blobs) -> None:
        """Adds what was learnt since the last time to what is kept, and takes over what others have added.

        Two workers at once may lose one's news; it is statistics.
        """
        for known in [known for known in self._models.values() if known.fresh]:
            try:
                data = await store.get(PREFIX + known.name)
                kept = (loaded(data) if data is not None else None) or Learned()
                news = loaded(dumped(known.learned)) or Learned()
                news.merge(known.told, -1)
                kept.merge(news)
                await store.put(PREFIX + known.name, dumped(kept), KEPT_S)
            except StateLost:
                return
            self._adopt(known, kept)

    # --- within

    def _adopt(self, known: _Model, learned: Learned) -> None:
        known.learned, known.told = learned, loaded(dumped(learned)) or Learned()
        known.corrections = [learned.correction(size) for size in range(len(learned.sizes))]
        known.margins = [None] * len(learned.sizes)
        known.fresh = 0
        known.seen = max(known.seen, int(learned.count))

    def _meet(self, model: str) -> _Model:
        if len(self._models) >= MODELS:
            model = f"other {family_of(model).name} models"
            if (shared := self._models.get(model)) is not None:
                return shared
        learned = Learned()
        sizes = len(learned.sizes)
        known = _Model(model, family_of(model), learned, Learned(), [1.0] * sizes, [None] * sizes)
        self._models[model] = known
        return known


def untaught(model: str, endpoint: str, body: Body | bytes) -> int:
    """The estimate by the model's family alone: the same in every process."""
    return round(_raw(family_of(model), endpoint, body))


def _raw(family: Family, endpoint: str, body: Body | bytes) -> float:
    """The estimate that nothing was learnt for."""
    if not isinstance(body, Body):
        return max(1.0, len(body) / BYTES_A_TOKEN)
    found = texts(endpoint, body)
    pieces, weights = found.pieces, family.weights
    text = pieces[0] if len(pieces) == 1 else "".join(pieces)
    count = classes.tokens(text, weights) * found.scale + found.framing if text else float(found.framing)
    if found.tools or found.media or found.samples:
        count += _extras(found, family)
    return count * family.scale if count else max(1.0, len(body) / BYTES_A_TOKEN)


def _extras(found: Texts, family: Family) -> float:
    """Tools, media, and texts of bodies that weren't parsed."""
    count = sum([classes.weigh(sample, family.weights) * factor for sample, factor in found.samples]) * found.scale
    if found.tools:
        sample = found.tools[: classes.WHOLE]
        count += classes.weigh(sample, family.weights) * family.tools * (len(found.tools) / len(sample))
    for medium in found.media or ():
        count += family.image if medium == IMAGE else _MEDIUM.get(medium, _FILE)
    return count
