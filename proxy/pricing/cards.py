"""Rate cards: what a model costs at a provider at a time, looked up in the compiled tables.

Rules:
1. A model that isn't in the tables, or has no price there, has no card: it is unpriced, never free.
2. A provider without the model may sell another's (Azure those of OpenAI): its fallbacks are asked, one step far.
3. Looking up a name costs a dictionary look-up after the first time, whatever names clients invent: the memory of them
   is bounded.
4. Nothing here imports the price database; `RateCards.compile` does, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from proxy.pricing import known
from proxy.pricing.card import RateCard
from proxy.pricing.names import FIRST_PARTIES, OPEN_WEIGHTS, dashed, matches, stems
from proxy.pricing.overrides import change_at, override_for, overrides_of
from proxy.pricing.sheet import Rate
from proxy.pricing.tables import FORMAT, Dated, Override, Priced, Provider, Tables, When, pack, unpack
from proxy.pricing.units import REQUEST

if TYPE_CHECKING:
    from proxy.config.upstreams import Price

REMEMBERED: Final = 4096
SOON: Final = timedelta(days=1)  # a bound holds for answers that end by then
_Asked = tuple[str | None, str, str | None, bool]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_ENCODE: Final = msgspec.msgpack.Encoder(order="deterministic").encode


class RateCards:
    """All cards. Made by `compile` or `from_bytes`."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        try:
            self._tables = msgspec.msgpack.decode(packed, type=Tables)
        except msgspec.DecodeError as error:
            raise ValueError(f"not compiled rate cards: {error}") from None
        if self._tables.format != FORMAT:
            raise ValueError(f"compiled rate cards of format {self._tables.format}, not {FORMAT}")
        self.hash = sha256(packed).hexdigest()
        self._providers: dict[str, Provider] = {}
        self._models: dict[tuple[str | None, str], tuple[str | None, Priced]] = {}
        self._cards: dict[_Asked, tuple[list[tuple[int, ...]], RateCard]] = {}

    @classmethod
    def compile(cls, overrides: Mapping[str, Iterable[Price]] | None = None) -> RateCards:
        """From the price database and the deployment file's `prices`. Slow: for the supervisor, never a worker."""
        from proxy.pricing.published import published

        return cls(_ENCODE(published(overrides_of(overrides or {}))))

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        return self._packed

    @classmethod
    def from_bytes(cls, packed: bytes) -> RateCards:
        """Cards that were compiled before. Raises ValueError if these aren't."""
        return cls(packed)

    @property
    def source(self) -> str:
        """Which price database they were compiled from."""
        return self._tables.source

    def card(
        self, provider: str | None, model: str, at: datetime, *, upstream: str | None = None, regional: bool = False
    ) -> RateCard | None:
        """What a model, as it is asked for or served, costs at a provider. None: unpriced.

        A provider of None means that the upstream's isn't known: then the model's maker is looked for among the first
        parties, and counts if exactly one of them has the model. `upstream` is its name in the deployment file, which
        may give it prices of its own; `regional` says that its address keeps data in one region.
        """
        asked = provider, model.strip().lower(), upstream and upstream.lower(), regional
        found, priced = self._model(provider, asked[1])
        override = self._override(provider, found, priced, asked[1], asked[2]) if self._tables.overrides else None
        if override is None and not priced.standard:
            return None
        states = _states(priced, override, at)
        remembered = self._cards.get(asked)
        if remembered is not None and remembered[0] == [state for _, state in states]:
            card = remembered[1]
        else:
            card, *later = [RateCard.of(found, priced, when, override, regional) for when, _ in states]
            card.later = tuple(later)
            _remember(self._cards, asked, ([state for _, state in states], card))
        return card if card.priced else None

    def overridden(self, overrides: Mapping[str, Iterable[Price]]) -> RateCards:
        """The same published prices, with these of a deployment file in place of its own."""
        return RateCards(_ENCODE(msgspec.structs.replace(self._tables, overrides=overrides_of(overrides))))

    def names(self, provider: str | None) -> list[str]:
        """Names of models at a provider; at the first parties, if it isn't known. Slow: for people who mistyped one."""
        asked = FIRST_PARTIES if provider is None else (self._known_as(provider.strip().lower()),)
        blocks = [self._provider(each) for each in asked if each in self._tables.providers]
        ids = {msgspec.msgpack.decode(model, type=Priced).id for block in blocks for model in block.models}
        return sorted(ids.union(*(block.exact for block in blocks)))

    def _override(
        self, provider: str | None, seller: str | None, priced: Priced, name: str, upstream: str | None
    ) -> Override | None:
        def version_of() -> list[str]:
            return [stem for stem, sure in stems(name) if self._same(provider, stem, priced, sure)]

        return override_for(self._tables.overrides, seller, name, upstream, version_of)

    def _same(self, provider: str | None, stem: str, priced: Priced, sure: bool) -> bool:
        """Whether the price lists know a version for the same model as its name; `sure`: where they don't say."""
        named = self._model(provider, stem)[1]
        return named.id == priced.id if named.standard and priced.standard else sure

    def _model(self, provider: str | None, name: str) -> tuple[str | None, Priced]:
        known = self._models.get((provider, name))
        if known is None:
            known = self._find(provider, name)
            _remember(self._models, (provider, name), known)
        return known

    def _find(self, provider: str | None, name: str) -> tuple[str | None, Priced]:
        if provider is not None:
            known = self._known_as(provider.strip().lower())
            found = self._at_provider(known, name) if known in self._tables.providers else None
            return known, found or Priced(name, [], [])
        maker, _, rest = name.partition("/")
        if rest and maker in FIRST_PARTIES:
            return maker, self._at_provider(maker, rest) or Priced(name, [], [])
        makers = () if OPEN_WEIGHTS.search(name) else FIRST_PARTIES
        makes = [(maker, found) for maker in makers if (found := self._spelled(maker, name)) is not None]
        if len(makes) > 1:  # one sells another's
            named = [maker for maker, clause in self._tables.makers if matches(clause, name)]
            makes = [(maker, found) for maker, found in makes if maker in named]
        return makes[0] if len(makes) == 1 else (None, Priced(name, [], []))

    def _known_as(self, provider: str) -> str:
        if provider in self._tables.providers:
            return provider
        return next((known for known, clause in self._tables.aliases if matches(clause, provider)), provider)

    def _at_provider(self, provider: str, name: str) -> Priced | None:
        if (found := self._spelled(provider, name)) is not None:
            return found
        for other in self._provider(provider).fallbacks:
            # Another's model sold here: at its standard price, without its maker's tiers. Azure's are those of OpenAI.
            if (found := self._spelled(other, name)) is not None:
                tiers = found.tiers if (provider, other) == ("azure", "openai") else []
                standard = [_resold(provider, dated) for dated in found.standard]
                return msgspec.structs.replace(found, tiers=tiers, standard=standard)
        return None

    def _spelled(self, provider: str, name: str) -> Priced | None:
        return self._own(provider, name) or (self._own(provider, other) if (other := dashed(name)) != name else None)

    def _own(self, provider: str, name: str) -> Priced | None:
        """The first model that matches, in the order of the price database."""
        block = self._provider(provider)
        best = block.exact.get(name)
        for index, clause in block.patterns:
            if best is not None and index >= best:
                break
            if matches(clause, name):
                best = index
                break
        if best is None:
            return None
        priced = msgspec.msgpack.decode(block.models[best], type=Priced)
        fee = known.by_request(provider, name)
        return priced if fee is None else _with_fee(priced, fee)

    def _provider(self, name: str) -> Provider:
        block = self._providers.get(name)
        if block is None:
            block = self._providers[name] = msgspec.msgpack.decode(self._tables.providers[name], type=Provider)
        return block

    def __repr__(self) -> str:
        return f"<RateCards {self.source} {self.hash[:12]}>"


def _with_fee(priced: Priced, fee: Rate) -> Priced:
    standard = [
        msgspec.structs.replace(dated, rates=pack({REQUEST: fee, **unpack(dated.rates)})) for dated in priced.standard
    ]
    return msgspec.structs.replace(priced, standard=standard, added=[*priced.added, REQUEST])


def _resold(provider: str, dated: Dated) -> Dated:
    return msgspec.structs.replace(dated, rates=pack(known.resold(provider, unpack(dated.rates))))


def _states(priced: Priced, override: Override | None, at: datetime) -> list[tuple[datetime, tuple[int, ...]]]:
    """Which prices hold now, and which others will within a day, each with a time when they do."""
    every = (*priced.standard, *priced.tiers)
    states: dict[tuple[int, ...], datetime] = {}
    for when in _moments([*(dated.when for dated in every), *_first_days(override)], at):
        change = change_at(override, when)
        since = -1 if change is None else change.since
        states.setdefault((since, *(dated.when.holds(when) for dated in every)), when)
    return [(when, state) for state, when in states.items()]


def _first_days(override: Override | None) -> list[When]:
    return [When(change.since) for change in override.changes] if override is not None else []


def _moments(whens: list[When], at: datetime) -> list[datetime]:
    """Now, and each time within a day at which one of these may begin to hold."""
    if all(when.since == 0 and when.start == when.end for when in whens):
        return [at]
    utc = at.astimezone(UTC) if at.tzinfo is not None else at
    midnight = utc.replace(hour=0, minute=0, second=0, microsecond=0)
    seconds = {0, *(edge for when in whens for edge in (when.start, when.end))}
    edges = (midnight + timedelta(days=day, seconds=second) for day in (0, 1) for second in seconds)
    return [at, *sorted(edge for edge in edges if utc < edge <= utc + SOON)]


def _remember(memory: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(memory) >= REMEMBERED:
        memory.clear()
    memory[key] = value
