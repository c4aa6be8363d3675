"""Clients' requests and the calls of upstreams: how many, how long, how many tokens, at which cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from proxy.endpoints import all_endpoints
from proxy.exposition.series import NANO, counted, filled, sum_into
from proxy.metrics import DURATION_S, TOKENS, TTFT_S, AttemptSeries, ExchangeSeries, Histogram

_ATTEMPT = ("gen_ai_operation_name", "gen_ai_request_model", "upstream", "error_type")
_OPERATIONS = {endpoint.name: endpoint.operation for endpoint in all_endpoints() if endpoint.operation}


def operation(endpoint: str) -> str:
    """OpenTelemetry's `gen_ai.operation.name` of an endpoint; endpoints without one keep their own name."""
    return _OPERATIONS.get(endpoint, endpoint)


def exchanges(series: Iterable[ExchangeSeries]) -> Iterator[Metric]:
    """Clients' requests."""
    count = CounterMetricFamily(
        "weir_exchanges",
        "Client requests that ended, by the status that the client got (0: none) and the outcome.",
        labels=("endpoint", "gen_ai_request_model", "status", "outcome"),
    )
    duration = HistogramMetricFamily(
        "gen_ai_server_request_duration_seconds",
        "From the first byte of a client's request to the end of its answer.",
        labels=("gen_ai_operation_name", "gen_ai_request_model", "error_type"),
    )
    summed: dict[tuple[str, ...], Histogram] = {}
    for one in series:
        count.add_metric((one.endpoint, one.model, str(one.status), one.outcome), sum(one.duration_s.counts))
        error = str(one.status) if one.status >= 400 else "" if one.outcome == "complete" else one.outcome
        sum_into(summed, (operation(one.endpoint), one.model, error), one.duration_s)
    yield count
    yield filled(duration, summed, DURATION_S)


def attempts(series: list[AttemptSeries]) -> Iterator[Metric]:
    """Calls of upstreams."""
    count = CounterMetricFamily(
        "weir_attempts",
        "Upstream calls, by the upstream's status or the name of the fault.",
        labels=("endpoint", "gen_ai_request_model", "upstream", "status"),
    )
    for one in series:
        labels = (one.endpoint, one.model, one.upstream, str(one.status))
        count.add_metric(labels, sum(one.duration_s.counts))
    yield count
    yield _timing(
        "gen_ai_client_operation_duration_seconds",
        "Duration of upstream calls.",
        DURATION_S,
        series,
        lambda one: one.duration_s,
    )
    yield _timing(
        "gen_ai_server_time_to_first_token_seconds",
        "From sending an upstream call to the first token of its answer.",
        TTFT_S,
        series,
        lambda one: one.ttft_s,
    )
    yield from _tokens(series)
    yield from _costs(series)


def _timing(
    name: str,
    text: str,
    bounds: tuple[float, ...],
    series: Iterable[AttemptSeries],
    pick: Callable[[AttemptSeries], Histogram],
) -> Metric:
    summed: dict[tuple[str, ...], Histogram] = {}
    for one in series:
        sum_into(summed, (operation(one.endpoint), one.model, one.upstream, _error_type(one.status)), pick(one))
    return filled(HistogramMetricFamily(name, text, labels=_ATTEMPT), summed, bounds)


def _tokens(series: Iterable[AttemptSeries]) -> Iterator[Metric]:
    usage = HistogramMetricFamily(
        "gen_ai_client_token_usage",
        "Tokens of an upstream call; input includes cached tokens, output includes reasoning.",
        labels=("gen_ai_operation_name", "gen_ai_request_model", "upstream", "gen_ai_token_type"),
    )
    detail = CounterMetricFamily(
        "weir_tokens",
        "Tokens with a price of their own, already counted as input or output.",
        labels=("gen_ai_request_model", "upstream", "kind"),
    )
    summed: dict[tuple[str, ...], Histogram] = {}
    kinds: dict[tuple[str, ...], int] = {}
    for one in series:
        where = (operation(one.endpoint), one.model, one.upstream)
        sum_into(summed, (*where, "input"), one.input_tokens)
        sum_into(summed, (*where, "output"), one.output_tokens)
        for kind in ("cached", "cache_write", "reasoning"):
            labels = (one.model, one.upstream, kind)
            kinds[labels] = kinds.get(labels, 0) + getattr(one, f"{kind}_tokens")
    yield filled(usage, summed, TOKENS)
    yield counted(detail, kinds)


def _costs(series: Iterable[AttemptSeries]) -> Iterator[Metric]:
    cost = CounterMetricFamily(
        "weir_cost_dollars",
        "Cost of upstream calls in US dollars: observed from reported usage, or estimated.",
        labels=("gen_ai_request_model", "upstream", "known"),
    )
    unpriced = CounterMetricFamily(
        "weir_unpriced_attempts",
        "Upstream calls whose price is unknown: they are in no sum of costs.",
        labels=("gen_ai_request_model", "upstream"),
    )
    dollars: dict[tuple[str, ...], float] = {}
    unknown: dict[tuple[str, ...], int] = {}
    for one in series:
        for known, nanodollars in (("observed", one.observed_nanodollars), ("estimated", one.estimated_nanodollars)):
            labels = (one.model, one.upstream, known)
            dollars[labels] = dollars.get(labels, 0.0) + nanodollars * NANO
        unknown[one.model, one.upstream] = unknown.get((one.model, one.upstream), 0) + one.unpriced
    yield counted(cost, dollars)
    yield counted(unpriced, unknown)


def _error_type(status: int | str) -> str:
    """OpenTelemetry's `error.type`: a fault's name or an error status; empty for success."""
    return status if isinstance(status, str) else str(status) if status >= 400 else ""
