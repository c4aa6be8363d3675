"""`metric-names.md`: every metric with its type, its labels and the text that Prometheus gets."""

from __future__ import annotations

from prometheus_client import Metric

from proxy.exposition import Facts, families
from proxy.metrics import Snapshot

_BEGINNING = """# Names of metrics

<!-- Written by `python -m proxy.reference`; change the texts in `proxy/exposition/`, then run it again. -->

In the order of `GET /metrics`. What they mean together, and what values labels have, is said [here](metrics.md).

| name | type | labels | |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return _BEGINNING + "".join(_row(family) for family in families(Snapshot(), Facts()))


def _row(family: Metric) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |\n"
