"""`weir journal tail`: attempts, and exchanges that needed none, as lines for people; or the records as JSON.

One line is one attempt, when it is settled. An exchange that ended without an attempt (refused, or answered by a
policy) has its line too. Costs are US dollars: `~` marks an estimate, `unpriced` what has no known price.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from proxy.cli.output import dollars, paint, span

Record = Mapping[str, Any]

HEADING = (
    f"{'TIME':<12}  {'EXCHANGE':<20}  {'MODEL':<26} {'IN':>9} {'OUT':>8} {'COST':>13} {'TTFT':>8} {'TOTAL':>8}  OUTCOME"
)
REMEMBERED = 10_000
"""Exchanges whose asked model is kept while they run; of forgotten ones only the served model is known."""

_STYLES = {"complete": "green", "partial": "yellow", "aborted": "yellow", "failed": "red"}


class Lines:
    """Turns records, in the order they were written, into the lines to print."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, str] = OrderedDict()

    def of(self, record: Record) -> Iterator[str]:
        """The lines that this record completes: none, or one."""
        match record.get("event"):
            case "reserved":
                self._remember(record, record.get("model") or record.get("asked") or "-")
            case "settled":
                model = self._models.get(record["exchange"], "-")
                self._remember(record, model)
                yield _settled(record, model)
            case "ended" if self._models.pop(record["exchange"], None) is None:
                yield _ended(record)

    def _remember(self, record: Record, model: str) -> None:
        self._models[record["exchange"]] = model
        if len(self._models) > REMEMBERED:
            self._models.popitem(last=False)


def _settled(record: Record, model: str) -> str:
    tokens = record.get("tokens") or {}
    cost = dollars(record.get("nanodollars"), estimated=record.get("known") in ("estimated", "unknown"))
    given, made = tokens.get("input_tokens"), tokens.get("output_tokens")
    return _line(record, record.get("served") or model, given, made, cost, record.get("ttft_ns"))


def _ended(record: Record) -> str:
    return _line(record, record.get("asked") or "-", None, None, dollars(record.get("nanodollars") or 0), None)


def _line(record: Record, model: str, given: int | None, made: int | None, cost: str, ttft_ns: int | None) -> str:
    at = datetime.fromtimestamp(record["at"] / 1e9).astimezone()
    outcome = str(record.get("outcome") or "-")
    status = f" {record['status']}" if record.get("status") else ""
    refused = (record.get("status") or 0) >= 400
    shown = paint(outcome, "red" if refused else _STYLES.get(outcome, "dim"))
    return (
        f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}  {record['exchange']:<20}  {_short(model, 26):<26}"
        f" {_count(given):>9} {_count(made):>8} {cost:>13}"
        f" {span(ttft_ns):>8} {span(record.get('total_ns')):>8}  {shown}{status}"
    )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
