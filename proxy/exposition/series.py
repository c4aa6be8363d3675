"""From what was counted to Prometheus' families: sums by labels, buckets, values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from proxy.metrics import Histogram

NANO = 1e-9  # dollars of a nano-dollar


def sum_into(sums: dict[tuple[str, ...], Histogram], labels: tuple[str, ...], more: Histogram) -> None:
    """Adds to the histogram of these labels."""
    have = sums.get(labels)
    if have is None:
        sums[labels] = Histogram([*more.counts], more.sum)
        return
    have.counts = [a + b for a, b in zip(have.counts, more.counts, strict=True)]
    have.sum += more.sum


def filled(
    family: HistogramMetricFamily, sums: dict[tuple[str, ...], Histogram], bounds: tuple[float, ...]
) -> HistogramMetricFamily:
    """With a sample for each of these histograms that has any."""
    for labels, histogram in sums.items():
        total, buckets = 0, []
        for bound, count in zip([*map(_bound, bounds), "+Inf"], histogram.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        if total:
            family.add_metric(labels, buckets, histogram.sum)
    return family


def _bound(value: float) -> str:
    return str(float(value))


def counted(family: CounterMetricFamily, values: Mapping[Any, float]) -> CounterMetricFamily:
    """With these values."""
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def info(name: str, text: str, label: str, value: str) -> Metric:
    """A family that is 1, and whose label is what there is to say."""
    family = GaugeMetricFamily(f"{name}_info", text, labels=(label,))
    family.add_metric((value,), 1)
    return family
