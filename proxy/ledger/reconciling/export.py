"""Reads what providers export of their costs, exactly.

OpenAI: pages of the costs API (daily buckets of UTC; an amount in dollars a project and line item), or its CSV.
Anthropic: pages of the cost report (amounts in cents, as decimal strings; a workspace is a project), or a CSV in
dollars.

Rules: an amount is a decimal number, kept to the nano-dollar. A file holds one page, a list of them, or one a line.
What can't be understood is an error that names file and place; nothing is skipped quietly.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from proxy.ledger.reconciling.items import Item, item_of
from proxy.ledger.reporting.amounts import Currency

Provider = Literal["openai", "anthropic"]
_NANO: Final = Decimal(10**9)
_DAY_S: Final = 86_400


class ExportError(ValueError):
    """A file isn't what was said; the text names it and says why."""


class ExportLine(msgspec.Struct, frozen=True):
    """One line: a day's amount of a project. `nano` is billionths of `currency`; `raw` is all that it says."""

    day: date
    project: str
    text: str
    item: Item
    nano: int
    currency: str = "USD"
    context: str | None = None
    raw: str = ""


class Export(msgspec.Struct):
    """All files together. `days` are those that the export covers, with costs or without."""

    provider: Provider
    lines: list[ExportLine] = []
    days: set[date] = set()
    incomplete: bool = False  # the last page says that more follow
    shifted_s: int = 0  # days begin so long after UTC's midnight

    @property
    def currencies(self) -> set[str]:
        """The currencies of its amounts."""
        return {line.currency for line in self.lines}


def read(provider: Provider, files: Iterable[Path]) -> Export:
    """All files of a provider. Raises ExportError, OSError."""
    export = Export(provider)
    for file in files:
        text = file.read_text("utf-8-sig")
        try:
            if text.lstrip()[:1] in ("{", "["):
                _pages(export, _json(text))
            else:
                _table(export, text)
        except (KeyError, TypeError, ValueError, InvalidOperation, AttributeError, OverflowError) as error:
            raise ExportError(f"{file}: not a cost export of {provider}: {_reason(error)}") from None
    if not export.days:
        raise ExportError("the export holds no day")
    return export


def _reason(error: Exception) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error) or "a number can't be read"


def _json(text: str) -> list[dict[str, Any]]:
    """One page, a list of pages, or a page a line; decimal numbers as they are written."""
    try:
        found = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError:
        found = [json.loads(line, parse_float=Decimal) for line in text.splitlines() if line.strip()]
    return found if isinstance(found, list) else [found]


def _pages(export: Export, pages: Sequence[dict[str, Any]]) -> None:
    for page in pages:
        for bucket in page["data"]:
            day = _begin(export, bucket.get("start_time", bucket.get("starting_at")))
            for result in bucket["results"]:
                export.lines.append(_openai(day, result) if export.provider == "openai" else _anthropic(day, result))
    export.incomplete = bool(pages and pages[-1].get("has_more"))


def _begin(export: Export, start: object) -> date:
    """The day of a bucket, by UTC; how far it begins from midnight is kept."""
    if isinstance(start, int | Decimal):
        moment = datetime.fromtimestamp(int(start), UTC)
    else:
        moment = datetime.fromisoformat(str(start).replace("Z", "+00:00"))
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    shift = int(moment.timestamp()) % _DAY_S
    export.shifted_s = export.shifted_s or shift
    day = (moment + timedelta(seconds=_DAY_S - shift) if shift > _DAY_S // 2 else moment).date()
    export.days.add(day)
    return day


def _openai(day: date, result: Mapping[str, Any]) -> ExportLine:
    amount, text = result["amount"], str(result.get("line_item") or "")
    nano = _amount(amount["value"])
    project = str(result.get("project_id") or "")
    currency = str(amount.get("currency", "usd")).upper()
    return ExportLine(day, project, text, item_of(text, nano), nano, currency, raw=_raw(result))


def _raw(result: Mapping[str, Any]) -> str:
    return json.dumps(result, sort_keys=True, default=str)


def _anthropic(day: date, result: Mapping[str, Any]) -> ExportLine:
    """Amounts are in the currency's smallest unit: `"123.45"` of USD is 1.2345 dollars."""
    nano = _amount(result["amount"], Decimal("0.01"))
    text = str(result.get("description") or result.get("cost_type") or "")
    model, kind = result.get("model"), str(result.get("cost_type") or "tokens")
    item = item_of(text if kind == "tokens" else kind, nano, str(model) if model else None, result.get("service_tier"))
    if (meter := result.get("token_type")) and item.sort == "usage":
        item = msgspec.structs.replace(item, meter=item_of(str(meter), 0, "-").meter)
    project = str(result.get("workspace_id") or "")
    currency = str(result.get("currency") or "USD").upper()
    return ExportLine(day, project, text, item, nano, currency, result.get("context_window"), _raw(result))


# --- CSV

_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "day": ("start_time_iso", "start_time", "usage_date_utc", "usage_date", "date", "timestamp", "day"),
    "amount": ("amount_value", "cost_usd", "amount", "cost", "cost_in_major", "amount_usd"),
    "currency": ("amount_currency", "currency"),
    "project": ("project_id", "workspace_id", "workspace", "project", "project_name"),
    "item": ("line_item", "description", "usage_type", "name"),
    "model": ("model", "model_version"),
    "meter": ("token_type",),
    "tier": ("service_tier",),
    "context": ("context_window",),
}


def _table(export: Export, text: str) -> None:
    reader = csv.DictReader(io.StringIO(text))
    names = {str(name).strip().lower(): str(name) for name in reader.fieldnames or ()}
    found = {what: next((names[n] for n in known if n in names), None) for what, known in _COLUMNS.items()}
    if found["day"] is None or found["amount"] is None:
        raise ValueError(f"its first line names no day or no amount, but {', '.join(names) or 'nothing'}")
    for row in reader:
        cells = {what: (row.get(name) or "").strip() for what, name in found.items() if name}
        export.lines += _row(export, cells, json.dumps([*row.values()], default=str))


def _row(export: Export, row: Mapping[str, str], raw: str) -> Iterator[ExportLine]:
    if not row["day"]:
        return
    day = _begin(export, int(row["day"]) if row["day"].isdigit() else row["day"])
    if not row["amount"]:
        return
    nano = _amount(row["amount"])
    text = ", ".join(part for part in (row.get("item", ""), row.get("meter", "")) if part)
    item = item_of(text, nano, row.get("model") or None, row.get("tier") or None)
    currency = (row.get("currency") or "USD").upper()
    yield ExportLine(day, row.get("project", ""), text, item, nano, currency, row.get("context") or None, raw)


def _amount(value: object, unit: Decimal = Decimal(1)) -> int:
    """Billionths, rounded once; scientific notation is understood, as JSON may hold it."""
    number = Decimal(str(value)) * unit * _NANO
    if not number.is_finite():
        raise ValueError(f"{value!r} is no amount")
    return int(number.to_integral_value())


def in_dollars(export: Export, currency: Currency) -> None:
    """Turns the amounts of a currency into dollars, each rounded once, half up."""
    for index, line in enumerate(export.lines):
        if line.currency == currency.code:
            exact = Fraction(line.nano) / Fraction(currency.rate)
            nano = (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)
            export.lines[index] = msgspec.structs.replace(line, nano=nano, currency="USD")
