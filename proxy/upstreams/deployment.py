"""A model at an upstream, by one of its keys: whether it can be called now.

Rules:
1. `watched` is false for a deployment without a rival as long as it is well: then its calls cost nothing more.
2. Where clients bring their own keys, limits and refusals are theirs: they say nothing about the next client.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

from proxy.errors import WeirError
from proxy.exchange import Attempt
from proxy.metrics import DeploymentSeries
from proxy.upstreams.flight import Flight
from proxy.upstreams.key import Key
from proxy.upstreams.line import Tally
from proxy.upstreams.outliers import Seen
from proxy.upstreams.rendezvous import seed_of

if TYPE_CHECKING:
    from proxy.upstreams.line import Line
    from proxy.upstreams.upstream import Upstream

Clock = Callable[[], float]


class Bar(IntEnum):
    """Why a deployment shouldn't be called, the least bad first; from `WAITING` on it would be no use."""

    FREE = 0
    NEAR_LIMIT = 1
    EJECTED = 2
    BROKEN = 3
    KEY_ASIDE = 4
    WAITING = 5
    FULL = 6


class Deployment:
    """One place where a model runs."""

    __slots__ = (
        "_clock",
        "_rivals",
        "_wall",
        "bit",
        "credit",
        "ejected_until",
        "ejections",
        "key",
        "label",
        "line",
        "max_concurrent",
        "model",
        "others",
        "seed",
        "upstream",
        "watched",
        "weight",
    )

    def __init__(
        self,
        upstream: Upstream,
        model: str | None,
        weight: float = 1.0,
        *,
        key: Key | None = None,
        max_concurrent: int | None = None,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        self.upstream = upstream
        self.model = model
        self.weight = weight
        self.key = upstream.keys[0] if key is None else key
        name = f"{upstream.name}{self.key.label}"
        self.label = f"{name}/{model}" if model else name
        self.line: Line = upstream.line(self.key, model)
        self.max_concurrent = max_concurrent
        self.others: tuple[str, ...] = ()  # the labels of the model's other deployments
        self.watched = False
        self.bit = 1
        self.seed = seed_of(self.label)
        self.credit = 0.0  # of smooth weighted round robin
        self.ejected_until = 0.0
        self.ejections = 0
        self._rivals = False
        self._clock, self._wall = clock, wall

    def __repr__(self) -> str:
        return f"<Deployment {self.label}>"

    def among(self, deployments: list[Deployment]) -> None:
        """These serve the model, this one among them."""
        self.others = tuple([other.label for other in deployments if other is not self])
        self.bit = 1 << deployments.index(self)
        self._rivals = self.watched = bool(self.others) or self.max_concurrent is not None

    # --- whether it can be called

    def bar(self, model: str | None, tokens: int, now: float) -> Bar:
        """What speaks against calling it now, with so many tokens."""
        line = self.line
        if self.max_concurrent is not None and line.in_flight >= self.max_concurrent:
            return Bar.FULL
        if self.upstream.own_key:
            allowance = line.allowance(model)
            if now < allowance.not_before:
                return Bar.WAITING
            if now < allowance.denied_until or not self.key.usable(now):
                return Bar.KEY_ASIDE
        if not line.health.breaker.admits(now):
            return Bar.BROKEN
        if now < self.ejected_until:
            return Bar.EJECTED
        if self.upstream.own_key and not allowance.has_room(tokens, now):
            return Bar.NEAR_LIMIT
        return Bar.FREE

    def state(self, now: float) -> str:
        """How it stands, in a word."""
        bar = self.bar(self.model, 0, now)
        if self.line.health.breaker.until is not None and bar in (Bar.FREE, Bar.BROKEN, Bar.NEAR_LIMIT):
            return self.line.health.breaker.state(now)
        return "ok" if bar is Bar.FREE else bar.name.lower()

    def standing(self, pattern: str, now: float) -> DeploymentSeries:
        """How it stands, for metrics."""
        line = self.line
        return DeploymentSeries(
            pattern,
            self.label,
            self.upstream.name,
            {self.state(now): 1},
            line.in_flight,
            max([latency.estimate_s(now, idle=False) for latency in line.health.latency]),
            line.share_left(now),
        )

    def waits_s(self, model: str | None, now: float) -> float:
        """How long until it asked to be called again; a second where it is full."""
        left_s = self.line.allowance(model).not_before - now if self.upstream.own_key else 0.0
        return max(left_s, 1.0 if self.max_concurrent is not None and self.line.in_flight >= self.max_concurrent else 0)

    def eject(self, now: float, for_s: float) -> None:
        """Leaves it out for a while."""
        self.ejected_until = now + for_s
        self.ejections += 1
        self.line.tally = Tally()

    def seen(self, now: float) -> Seen:
        """How its calls went of late."""
        tally = self.line.tally
        answered, seconds = tally.answered, tally.seconds
        return Seen(
            (answered[0], answered[1]),
            (seconds[0], seconds[1]),
            tally.failed,
            now < self.ejected_until,
            self.ejections,
            id(self.line.health),
        )

    def reviewed(self, now: float, window_s: float) -> None:
        """A new time for comparing begins; whoever behaved for all of the one before is trusted more."""
        self.line.tally = Tally()
        if self.ejections and now - self.ejected_until >= window_s:
            self.ejections -= 1

    # --- its calls

    def begin(self, attempt: Attempt) -> Flight:
        """A call begins; the flight's `land` must be called when it is over."""
        now, line = self._clock(), self.line
        line.in_flight += 1
        if self.upstream.own_key:
            line.own_allowance(self.model or attempt.request.model).take(attempt.estimated_input_tokens, now)
            self.key.sent(now)
        return Flight(self, attempt, now, line.health.breaker.begin(now))

    def failed(self, attempt: Attempt, error: WeirError) -> None:
        """A call that nobody watched has failed: from now on they are watched, until it is well again."""
        self.watched = True
        Flight(self, attempt, self._clock(), False).failed(error)

    @property
    def now(self) -> float:
        """The time that all its waits are told in."""
        return self._clock()

    @property
    def unix_s(self) -> float:
        """The time that upstreams tell theirs in."""
        return self._wall()

    def settled(self, now: float) -> None:
        """A call went well: without rivals, it needn't be watched once it is quiet."""
        if not self._rivals and self.line.health.breaker.quiet(now):
            self.watched = False
