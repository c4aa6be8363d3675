"""What is counted: plain counters in each worker, summed by the supervisor.

Rules:
- Worker side (`Metrics`): an increment is one look-up by a tuple of labels and a few additions. Nothing
  is formatted, locked or written here; `snapshot` is taken once a second by somebody else.
- Snapshots hold totals since the worker started, never differences: a lost one costs nothing, the newest one wins.
- Labels can't explode: models are those of the configuration and the first `SEEN_MODELS` others, everything else is
  `other`; a table that reaches `MAX_SERIES` rows counts further label sets as `other` too.
- Supervisor side (`merge`): pure addition. Counters of dead workers are kept (`retire`), their gauges are not.
- No prometheus_client here: workers import this module. The text format lives in `proxy.exposition`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from proxy.rollout.guardrail import Tally

OTHER = "other"
SEEN_MODELS = 100
MODEL_LABEL_LENGTH = 100
MAX_SERIES = 5000
LARGEST = 2**63 - 1
"""Sums saturate here: an upstream that reports absurd usage must not make a snapshot that JSON can't carry."""

# The boundaries that OpenTelemetry's GenAI conventions advise, so that dashboards made for others fit.
DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
QUICK_S = DURATION_S[0]
TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

CostKnown = Literal["observed", "estimated", "unknown", "unpriced"]


class TokenUsage(Protocol):
    """What is read of an attempt's usage (`proxy.dialects.Usage`)."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def cache_write_tokens(self) -> int: ...
    @property
    def reasoning_tokens(self) -> int: ...


class Histogram(msgspec.Struct):
    """Counts per bucket, the last one unbounded, and the sum of what was observed."""

    counts: list[int]
    sum: float = 0


class ExchangeSeries(msgspec.Struct):
    """Exchanges of one label set. `status` is what the client got, 0 if nothing."""

    endpoint: str
    model: str
    status: int
    outcome: str
    duration_s: Histogram


class AttemptSeries(msgspec.Struct):
    """Attempts (upstream calls) of one label set. `status` is the upstream's, or the name of the fault."""

    endpoint: str
    model: str
    upstream: str
    status: int | str
    duration_s: Histogram
    ttft_s: Histogram
    input_tokens: Histogram
    output_tokens: Histogram
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    observed_nanodollars: int = 0
    estimated_nanodollars: int = 0
    unpriced: int = 0


class Gauges(msgspec.Struct):
    """What is so right now. The worker adds to and subtracts from these fields directly."""

    exchanges: int = 0
    connections: int = 0
    streams: int = 0
    bytes_in_flight: int = 0
    upstream_connections: int = 0
    exchanges_waiting: int = 0
    loop_lag_us: int = 0
    exchange_limit: int = 0  # 0: none
    tasks: int = 0


class DeploymentSeries(msgspec.Struct):
    """How a deployment stands: in how many workers as what. `model` is a name or pattern of the configuration."""

    model: str
    deployment: str
    upstream: str
    states: dict[str, int] = {}
    in_flight: int = 0
    ttft_s: float = 0.0  # the slowest worker's estimate, streams and whole answers alike; 0: nobody knows
    room: float = 1.0  # what is left of the limit that is nearest, as the worker that knows least sees it


class ArmSeries(msgspec.Struct):
    """What a guardrail counts: one arm of one version (the entry's fingerprint) of a policy."""

    policy: str
    fingerprint: str
    arm: str
    tally: Tally


class Snapshot(msgspec.Struct):
    """Everything that a worker counted since it started; also the sum of several workers."""

    exchanges: list[ExchangeSeries] = []
    attempts: list[AttemptSeries] = []
    gauges: Gauges = msgspec.field(default_factory=Gauges)
    events: dict[str, int] = {}
    decisions: list[tuple[str, str, int]] = []
    savings: list[tuple[str, str, int, int]] = []  # policy, how it is known, nano-dollars saved, nano-dollars lost
    shares: list[tuple[str, str, str, float]] = []  # policy, subject, limit, and how much of it is used
    levels: list[tuple[str, str, float]] = []  # policy, what it has (a name of the program), and how much
    deployments: list[DeploymentSeries] = []
    arms: list[ArmSeries] = []


class Repeats:
    """What ends alike again and again: counted here, and added to the tables when they are looked at.

    Whoever counts adds to `n` and `seconds`, and what took `QUICK_S` or more to `slow` too.
    """

    __slots__ = ("decisions", "n", "savings", "seconds", "series", "slow")

    def __init__(
        self, series: ExchangeSeries, decisions: list[tuple[str, str]], savings: list[tuple[str, str, int]]
    ) -> None:
        self.series = series
        self.decisions = decisions
        self.savings = savings
        self.n = 0
        self.seconds = 0.0
        self.slow: list[float] = []


class Metrics:
    """A worker's counters. `models` are the names that always keep their own label."""

    def __init__(self, models: Iterable[str] = ()) -> None:
        self.gauges = Gauges()
        self.deployments: list[DeploymentSeries] = []  # as they stand; whoever takes a snapshot sets them first
        self._exchanges: dict[tuple[str, str, int, str], ExchangeSeries] = {}
        self._attempts: dict[tuple[str, str, str, int | str], AttemptSeries] = {}
        self._events: dict[str, int] = {}
        self._decisions: dict[tuple[str, str], int] = {}
        self._savings: dict[tuple[str, str], tuple[int, int]] = {}
        self._shares: dict[tuple[str, str, str], float] = {}
        self._levels: dict[tuple[str, str], float] = {}
        self._arms: dict[tuple[str, str, str], Tally] = {}
        self._repeats: list[Repeats] = []
        self._labels: dict[str, str] = {}
        self._seen = 0
        self.adopt(models)

    def adopt(self, models: Iterable[str]) -> None:
        """Give these models (of a new configuration) their own label; older ones keep theirs."""
        for model in models:
            self._labels[model] = model

    def model_label(self, name: str | None) -> str:
        """The label for a model name from a request: itself or `other`."""
        if not name:
            return ""
        label = self._labels.get(name)
        return label if label is not None else self._label_unknown(name)

    def exchange(self, endpoint: str, model_label: str, status: int, outcome: str, duration_s: float) -> None:
        """One client request has ended."""
        key = (endpoint, model_label, status, outcome)
        series = self._exchanges.get(key)
        if series is None:
            series = self._new_exchange(key)
        histogram = series.duration_s
        histogram.counts[bisect_left(DURATION_S, duration_s)] += 1
        histogram.sum += duration_s

    def attempt(
        self,
        endpoint: str,
        model_label: str,
        upstream: str,
        status_or_error: int | str,
        ttft_s: float | None,
        duration_s: float,
        usage: TokenUsage | None,
        cost_nanodollars: int | None,
        cost_known: CostKnown,
    ) -> None:
        """One upstream call has been settled. `ttft_s` is None where nothing came; `usage` where it is unknown."""
        key = (endpoint, model_label, upstream, status_or_error)
        series = self._attempts.get(key)
        if series is None:
            series = self._new_attempt(key)
        histogram = series.duration_s
        histogram.counts[bisect_left(DURATION_S, duration_s)] += 1
        histogram.sum += duration_s
        if ttft_s is not None:
            histogram = series.ttft_s
            histogram.counts[bisect_left(TTFT_S, ttft_s)] += 1
            histogram.sum += ttft_s
        if usage is not None:
            tokens = usage.input_tokens
            histogram = series.input_tokens
            histogram.counts[bisect_left(TOKENS, tokens)] += 1
            histogram.sum += tokens
            tokens = usage.output_tokens
            histogram = series.output_tokens
            histogram.counts[bisect_left(TOKENS, tokens)] += 1
            histogram.sum += tokens
            if n := usage.cached_tokens:
                series.cached_tokens += n
            if n := usage.cache_write_tokens:
                series.cache_write_tokens += n
            if n := usage.reasoning_tokens:
                series.reasoning_tokens += n
        if cost_known == "unpriced" or cost_nanodollars is None:
            series.unpriced += 1
        elif cost_known == "observed":
            series.observed_nanodollars += cost_nanodollars
        else:
            series.estimated_nanodollars += cost_nanodollars

    def repeats(
        self,
        key: tuple[str, str, int, str],
        decisions: list[tuple[str, str]],
        savings: list[tuple[str, str, int]],
    ) -> Repeats:
        """A counter of exchanges with these labels (as `exchange` has them), each with these decisions and savings."""
        series = self._exchanges.get(key)
        return Repeats(self._new_exchange(key) if series is None else series, decisions, savings)

    def repeated(self, repeats: Repeats) -> None:
        """Has what it counts added, the next time that anybody looks. Once, with its first exchange."""
        self._repeats.append(repeats)

    def _add_repeats(self) -> None:
        for one in self._repeats:
            histogram, n = one.series.duration_s, one.n
            histogram.counts[0] += n - len(one.slow)
            for duration_s in one.slow:
                histogram.counts[bisect_left(DURATION_S, duration_s)] += 1
            histogram.sum += one.seconds
            for policy, action in one.decisions:
                self.decision(policy, action, n)
            for policy, known, nanodollars in one.savings:
                self.saving(policy, known, nanodollars * n)
            one.n, one.seconds, one.slow = 0, 0.0, []
        self._repeats.clear()

    def count(self, name: str, n: int = 1) -> None:
        """A rare event. `name` is a literal of the program (documented in docs/reference/metrics.md), never input."""
        self._events[name] = self._events.get(name, 0) + n

    def decision(self, policy: str, action: str, n: int = 1) -> None:
        """A policy has acted. Both names come from the configuration and the program, never from a request."""
        key = (policy, action)
        self._decisions[key] = self._decisions.get(key, 0) + n

    def saving(self, policy: str, known: str, nanodollars: int) -> None:
        """A policy claims to have saved this; negative where what it did cost more than what it stood in for."""
        key = (policy, known)
        _add_saving(self._savings, key, max(nanodollars, 0), max(-nanodollars, 0))

    def share(self, policy: str, subject: str, limit: str, used: float) -> None:
        """How much of a limit is used now. No part of `subject` may be chosen by a client."""
        key = (policy, subject, limit)
        if key in self._shares or len(self._shares) < MAX_SERIES:
            self._shares[key] = used

    def level(self, policy: str, name: str, value: float) -> None:
        """How much of something a policy has in this worker now. Both names come from configuration and program."""
        self._levels[policy, name] = value

    def arm(self, policy: str, fingerprint: str, arm: str) -> Tally:
        """The totals of one arm of a policy with a guardrail, to be added to."""
        return self._arms.setdefault((policy, fingerprint, arm), Tally())

    def snapshot(self) -> dict[str, Any]:
        """All totals as JSON-able builtins, for `Channel.send("metrics", snapshot=…)`."""
        self._add_repeats()
        for series in self._attempts.values():
            _saturate(series)
        whole = Snapshot(
            exchanges=[*self._exchanges.values()],
            attempts=[*self._attempts.values()],
            gauges=self.gauges,
            events=self._events,
            decisions=[(policy, action, n) for (policy, action), n in self._decisions.items()],
            savings=[(*key, *sums) for key, sums in self._savings.items()],
            shares=[(*key, used) for key, used in self._shares.items()],
            levels=[(*key, value) for key, value in self._levels.items()],
            deployments=self.deployments,
            arms=[ArmSeries(*key, tally) for key, tally in self._arms.items()],
        )
        builtins: dict[str, Any] = msgspec.to_builtins(whole)
        return builtins

    def _label_unknown(self, name: str) -> str:
        if self._seen >= SEEN_MODELS or len(name) > MODEL_LABEL_LENGTH or not name.isprintable():
            return OTHER
        self._seen += 1
        self._labels[name] = name
        return name

    def _new_exchange(self, key: tuple[str, str, int, str]) -> ExchangeSeries:
        if len(self._exchanges) >= MAX_SERIES:
            key = (OTHER, OTHER, 0, OTHER)
        return self._exchanges.setdefault(key, ExchangeSeries(*key, duration_s=_empty(DURATION_S)))

    def _new_attempt(self, key: tuple[str, str, str, int | str]) -> AttemptSeries:
        if len(self._attempts) >= MAX_SERIES:
            key = (OTHER, OTHER, OTHER, OTHER)
        return self._attempts.setdefault(key, _empty_attempt(key))


def merge(snapshots: Iterable[Mapping[str, Any] | Snapshot]) -> Snapshot:
    """The sum of several snapshots. Raises `msgspec.ValidationError` for one that isn't a snapshot."""
    exchanges: dict[tuple[str, str, int, str], ExchangeSeries] = {}
    attempts: dict[tuple[str, str, str, int | str], AttemptSeries] = {}
    decisions: dict[tuple[str, str], int] = {}
    savings: dict[tuple[str, str], tuple[int, int]] = {}
    events: dict[str, int] = {}
    shares: dict[tuple[str, str, str], float] = {}
    levels: dict[tuple[str, str], float] = {}
    deployments: dict[tuple[str, str], DeploymentSeries] = {}
    arms: dict[tuple[str, str, str], Tally] = {}
    gauges = Gauges()
    for given in snapshots:
        snapshot = given if isinstance(given, Snapshot) else msgspec.convert(given, Snapshot)
        for exchange in snapshot.exchanges:
            exchange_key = (exchange.endpoint, exchange.model, exchange.status, exchange.outcome)
            if exchange_key not in exchanges:
                exchanges[exchange_key] = ExchangeSeries(*exchange_key, duration_s=_empty(DURATION_S))
            _add_fields(exchanges[exchange_key], exchange)
        for attempt in snapshot.attempts:
            attempt_key = (attempt.endpoint, attempt.model, attempt.upstream, attempt.status)
            if attempt_key not in attempts:
                attempts[attempt_key] = _empty_attempt(attempt_key)
            _add_fields(attempts[attempt_key], attempt)
        for name, n in snapshot.events.items():
            events[name] = events.get(name, 0) + n
        for policy, action, n in snapshot.decisions:
            decisions[policy, action] = decisions.get((policy, action), 0) + n
        for policy, known, saved, lost in snapshot.savings:
            _add_saving(savings, (policy, known), saved, lost)
        for policy, subject, limit, used in snapshot.shares:  # all speak of the same: who looked last isn't known
            shares[policy, subject, limit] = max(used, shares.get((policy, subject, limit), 0.0))
        for policy, name, value in snapshot.levels:
            levels[policy, name] = levels.get((policy, name), 0.0) + value
        for one in snapshot.deployments:
            _add_standing(deployments, one)
        _add_arms(arms, snapshot)
        _add_fields(gauges, snapshot.gauges)
    return Snapshot(
        exchanges=[*exchanges.values()],
        attempts=[*attempts.values()],
        gauges=gauges,
        events=events,
        decisions=[(policy, action, n) for (policy, action), n in decisions.items()],
        savings=[(*key, *sums) for key, sums in savings.items()],
        shares=[(*key, used) for key, used in shares.items()],
        levels=[(*key, value) for key, value in levels.items()],
        deployments=[*deployments.values()],
        arms=[ArmSeries(*key, tally) for key, tally in arms.items()],
    )


def arms_of(snapshots: Iterable[Snapshot]) -> dict[tuple[str, str, str], Tally]:
    """The arms alone, summed, by policy, version and arm: what a guardrail looks at each second."""
    found: dict[tuple[str, str, str], Tally] = {}
    for snapshot in snapshots:
        _add_arms(found, snapshot)
    return found


def _add_arms(into: dict[tuple[str, str, str], Tally], snapshot: Snapshot) -> None:
    for one in snapshot.arms:
        into.setdefault((one.policy, one.fingerprint, one.arm), Tally()).add(one.tally)


def retire(snapshot: Mapping[str, Any] | Snapshot) -> Snapshot:
    """What remains of a worker that is gone: its counters without its gauges."""
    remains = merge([snapshot])
    remains.gauges = Gauges()
    remains.shares, remains.levels, remains.deployments = [], [], []
    return remains


def _add_saving(sums: dict[tuple[str, str], tuple[int, int]], key: tuple[str, str], saved: int, lost: int) -> None:
    have_saved, have_lost = sums.get(key, (0, 0))
    sums[key] = min(have_saved + saved, LARGEST), min(have_lost + lost, LARGEST)


def _add_standing(sums: dict[tuple[str, str], DeploymentSeries], one: DeploymentSeries) -> None:
    into = sums.get((one.model, one.deployment))
    if into is None:
        into = sums[one.model, one.deployment] = DeploymentSeries(one.model, one.deployment, one.upstream)
    for state, workers in one.states.items():
        into.states[state] = into.states.get(state, 0) + workers
    into.in_flight += one.in_flight
    into.ttft_s = max(into.ttft_s, one.ttft_s)
    into.room = min(into.room, one.room)


def _add_fields(into: msgspec.Struct, other: msgspec.Struct) -> None:
    """Add every number and histogram of `other`; labels (strings, and `status`) stay as they are."""
    for name in into.__struct_fields__:
        mine, theirs = getattr(into, name), getattr(other, name)
        if isinstance(mine, Histogram):
            mine.counts = [a + b for a, b in zip(mine.counts, theirs.counts, strict=True)]
            mine.sum += theirs.sum
        elif name != "status" and isinstance(mine, int):
            setattr(into, name, min(mine + theirs, LARGEST))


def _saturate(series: AttemptSeries) -> None:
    for name in series.__struct_fields__:
        value = getattr(series, name)
        if isinstance(value, int) and value > LARGEST:
            setattr(series, name, LARGEST)
        elif isinstance(value, Histogram) and value.sum > LARGEST:
            value.sum = LARGEST


def _empty(bounds: tuple[float, ...]) -> Histogram:
    return Histogram([0] * (len(bounds) + 1))


def _empty_attempt(key: tuple[str, str, str, int | str]) -> AttemptSeries:
    return AttemptSeries(
        *key,
        duration_s=_empty(DURATION_S),
        ttft_s=_empty(TTFT_S),
        input_tokens=_empty(TOKENS),
        output_tokens=_empty(TOKENS),
    )
