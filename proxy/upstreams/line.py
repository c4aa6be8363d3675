"""What is known of one model at one upstream by one key: how its calls went, what is under way, what is left.

It belongs to the upstream and outlives reloads that don't change that. Rules:
1. `Health` is of the model at the upstream, whatever the key; `Line` adds what differs from key to key.
2. Where clients bring their own keys, a refusal or a limit is that client's and says nothing about the next one.
3. What a client can bring about (its own deadline, its own mistakes, leaving) is no failure of the upstream.
"""

from __future__ import annotations

from typing import Final

from proxy.config.balancing import Breaker as Rules
from proxy.upstreams.allowance import Allowance
from proxy.upstreams.breaker import Breaker
from proxy.upstreams.key import Key
from proxy.upstreams.latency import PeakEwma

_MODELS: Final = 256  # names that pass through come from clients


class Tally:
    """How calls went of late, of answers that stream and of those that come whole: for comparing with others."""

    __slots__ = ("answered", "failed", "seconds")

    def __init__(self) -> None:
        self.answered = [0, 0]  # by whether they stream
        self.seconds = [0.0, 0.0]  # to their first token, all together
        self.failed = 0

    def __repr__(self) -> str:
        return f"<Tally {self.answered} answered, {self.failed} failed>"


class Health:
    """How a model at an upstream does."""

    __slots__ = ("breaker", "latency")

    def __init__(self, rules: Rules) -> None:
        self.breaker = Breaker(rules)
        self.latency = (PeakEwma(), PeakEwma())  # of whole answers, of streams


class Line:
    """One key's way to a model at an upstream. `model` is None where clients' names pass through."""

    __slots__ = ("_allowances", "_one", "health", "in_flight", "key", "model", "tally")

    def __init__(self, key: Key, model: str | None, health: Health) -> None:
        self.key = key
        self.model = model
        self.health = health
        self.in_flight = 0
        self.tally = Tally()
        self._one = Allowance()
        self._allowances: dict[str | None, Allowance] = {model: self._one}

    def __repr__(self) -> str:
        return f"<Line {self.model or '*'}{self.key.label} {self.in_flight} in flight>"

    def answered(self, took_s: float, streamed: bool, now: float) -> None:
        """An answer came, to its first token."""
        self.health.latency[streamed].add(took_s, now)
        self.tally.answered[streamed] += 1
        self.tally.seconds[streamed] += took_s

    def failed(self, streamed: bool, now: float) -> None:
        """None came."""
        self.health.latency[streamed].failed(now)
        self.tally.failed += 1

    def allowance(self, model: str | None) -> Allowance:
        """What is left of a model's limits."""
        return self._one if self.model is not None else self._allowances.get(model, self._one)

    def own_allowance(self, model: str | None) -> Allowance:
        """The same, to be written: a name that passes through gets its own, as long as there aren't too many."""
        if self.model is not None:
            return self._one
        found = self._allowances.get(model)
        if found is None:
            found = Allowance()
            if len(self._allowances) < _MODELS:
                self._allowances[model] = found
        return found

    def share_left(self, now: float) -> float:
        """What is left of the limit that is nearest."""
        return min(allowance.share_left(now) for allowance in self._allowances.values())
