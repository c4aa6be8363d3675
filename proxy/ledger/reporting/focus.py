"""FOCUS, the FinOps Open Cost and Usage Specification (https://focus.finops.org): versions 1.2 and 1.4 as CSV.

Rules: pure. A row is one day's charge of one belonging; amounts are exact to the nano-dollar, so a column's sum is the
ledger's. What FOCUS has no column for stands in columns that begin with `x_`. A billing period is a calendar month of
the report's time zone (providers bill by UTC: `--time-zone UTC` is what joins their invoices). A cost can't be null
there: what has no known price is 0, and `x_CostKnown` says `unpriced`.

One row sums tokens of several kinds, so its unit price is the mean of what was paid; the list price of the same usage
isn't kept, so list cost is what was paid, too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import orjson

from proxy.ledger.reporting.amounts import exact
from proxy.ledger.reporting.cells import Belonging, Cell
from proxy.ledger.reporting.focus_rules import BILLING_PERIOD, INVOICE_DETAIL, Dataset, cost_and_usage
from proxy.ledger.reporting.periods import Period, months, utc_text
from proxy.ledger.reporting.plain import harmless
from proxy.ledger.reporting.report import Report

Version = Literal["1.2", "1.4"]
_EXACT: Final = Context(prec=40)
_PLACES: Final = Decimal(1).scaleb(-24)  # of a unit price: its product with any quantity is exact to a nano-dollar
_NAMES: Final = {
    "openai": "OpenAI",
    "anthropic": "Anthropic",
    "azure": "Microsoft",
    "google": "Google",
    "aws": "Amazon Web Services",
    "mistral": "Mistral AI",
    "deepseek": "DeepSeek",
    "x-ai": "xAI",
    "groq": "Groq",
    "cohere": "Cohere",
}
Row = dict[str, str]


def files(report: Report, version: Version) -> dict[str, tuple[Dataset, bytes]]:
    """The data sets of a version, by name, as CSV."""
    charges = [*_charges(report)]
    rows = [_row(report, cell, version) for cell in charges]
    made = {"CostAndUsage": (cost_and_usage(version), rows)}
    if version == "1.4":
        made["BillingPeriod"] = (BILLING_PERIOD, _billing_periods(report, charges))
        made["InvoiceDetail"] = (INVOICE_DETAIL, _invoice_details(report, charges))
    return {name: (dataset, _csv(dataset, rows)) for name, (dataset, rows) in made.items()}


def _charges(report: Report) -> Iterable[Cell]:
    """What has attempts or costs, in an order that is the same each time."""
    charged = [cell for cell in report.cells if cell.of_attempts]
    return sorted(charged, key=lambda cell: (cell.day, orjson.dumps(_identity(cell.belonging))))


def _identity(belonging: Belonging) -> dict[str, Any]:
    return {name: getattr(belonging, name) for name in belonging.__struct_fields__}


def _row(report: Report, cell: Cell, version: Version) -> Row:
    who, period = cell.belonging, report.asked.period
    cost, quantity, unit = cell.sums.nanodollars, *_quantity(cell)
    provider, sku = provider_name(who), f"{who.provider or who.upstream or 'unknown'}/{who.served or who.model}"
    row = {
        **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), exact(cost)),
        **_account(who),
        **_invoice(cell, version),
        "BillingCurrency": "USD",
        **_times(cell.day, period.zone),
        "ChargeCategory": "Usage",
        "ChargeClass": "",
        "ChargeDescription": _description(who),
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": str(quantity),
        "ConsumedUnit": unit,
        **dict.fromkeys(("ListUnitPrice", "ContractedUnitPrice"), unit_price(cost, quantity)),
        "PricingCategory": "Standard" if (who.tier or "default") in ("default", "standard", "auto") else "Other",
        "PricingQuantity": str(quantity),
        "PricingUnit": unit,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": f"{provider} API",
        "SkuId": sku,
        "SkuMeter": unit,
        "SkuPriceId": f"{sku}/{who.tier or 'default'}",
        "SkuPriceDetails": _json({"x_Tier": who.tier or "default"}),
        "Tags": _json(dict(who.tags)),
        **_ours(cell),
    }
    providers = ("ProviderName", "PublisherName") if version == "1.2" else ("ServiceProviderName", "HostProviderName")
    return row | dict(zip(providers, (provider, _publisher(who) if version == "1.2" else provider), strict=True))


@lru_cache(4096)
def _times(day: date, zone: ZoneInfo) -> Row:
    """The billing and the charge period of a day."""
    one = Period(day, day, zone)
    month = next(months(one))
    return {
        "BillingPeriodStart": utc_text(month.start_s),
        "BillingPeriodEnd": utc_text(month.end_s),
        "ChargePeriodStart": utc_text(one.start_s),
        "ChargePeriodEnd": utc_text(one.end_s),
    }


def _account(who: Belonging) -> Row:
    account = who.account or who.upstream or who.provider or "unknown"
    return {
        "BillingAccountId": account,
        "BillingAccountName": who.upstream or account,
        "SubAccountId": who.provider_project or "",
        "SubAccountName": who.provider_project or "",
        "InvoiceIssuerName": provider_name(who),
    }


def _invoice(cell: Cell, version: Version) -> Row:
    found = {"InvoiceId": invoice_id(cell)}
    return found | ({"InvoiceDetailId": _detail_id(cell)} if version == "1.4" else {})


def _ours(cell: Cell) -> Row:
    who = cell.belonging
    named = {
        "x_Org": who.org,
        "x_Team": who.team,
        "x_Project": who.project,
        "x_CostCentre": who.cost_centre,
        "x_GlAccount": who.gl_account,
        "x_KeyId": who.key,
        "x_Endpoint": who.endpoint,
        "x_Kind": who.kind,
        "x_StartedBy": who.policy,
        "x_CostKnown": who.known,
    }
    sums = {
        "x_Attempts": cell.sums.attempts,
        "x_InputTokens": cell.sums.input_tokens,
        "x_CachedTokens": cell.sums.cached_tokens,
        "x_OutputTokens": cell.sums.output_tokens,
    }
    return {name: value or "" for name, value in named.items()} | {name: str(value) for name, value in sums.items()}


def _billing_periods(report: Report, charges: Sequence[Cell]) -> list[Row]:
    """A row a month and issuer."""
    issuers = sorted({provider_name(cell.belonging) for cell in charges})
    return [
        {
            "BillingPeriodCreated": utc_text(month.start_s),
            "BillingPeriodEnd": utc_text(month.end_s),
            "BillingPeriodLastUpdated": utc_text(_updated_s(report, month, charges)),
            "BillingPeriodStart": utc_text(month.start_s),
            "BillingPeriodStatus": "Open" if report.closing is None else "Closed",
            "InvoiceIssuerName": issuer,
        }
        for month in months(report.asked.period)
        for issuer in issuers
    ]


def _invoice_details(report: Report, charges: Sequence[Cell]) -> list[Row]:
    """A row a month, account, project and price."""
    lines: dict[str, list[Cell]] = {}
    for cell in charges:
        lines.setdefault(_detail_id(cell), []).append(cell)
    return [_detail(report, line, own, charges) for line, own in sorted(lines.items()) if _cost(own)]


def _detail(report: Report, line: str, own: Sequence[Cell], charges: Sequence[Cell]) -> Row:
    who, month = own[0].belonging, _month(own[0], report.asked.period)
    issued = report.closing is not None
    row = _row(report, own[0], "1.4")
    grain = {name: row[name] for name in ("ServiceName", "SkuId", "SkuPriceId", "SubAccountId") if row[name]}
    return {
        "BilledCost": exact(_cost(own)),
        "BillingAccountId": row["BillingAccountId"],
        "BillingCurrency": "USD",
        "BillingPeriodEnd": row["BillingPeriodEnd"],
        "BillingPeriodStart": row["BillingPeriodStart"],
        "ChargeCategory": "Usage",
        "InvoiceDetailCreated": row["BillingPeriodStart"],
        "InvoiceDetailDescription": _description(who),
        "InvoiceDetailGrain": _json(grain),
        "InvoiceDetailId": line,
        "InvoiceDetailLastUpdated": utc_text(_updated_s(report, month, charges)),
        "InvoiceId": row["InvoiceId"],
        "InvoiceIssueDate": utc_text(report.closing.closed_s) if report.closing is not None else "",
        "InvoiceIssueStatus": "Issued" if issued else "Open",
        "InvoiceIssuerName": row["InvoiceIssuerName"],
        "PaymentCurrency": "USD",
        "PaymentCurrencyBilledCost": exact(_cost(own)),
        "PaymentCurrencyInvoiceDetailId": line,
        "PaymentDueDate": "",
        "PaymentTerms": "as agreed with the issuer",
        "ReferenceInvoiceId": row["InvoiceId"],
    }


def _updated_s(report: Report, month: Period, charges: Sequence[Cell]) -> int:
    """When the data was last changed, as far as the ledger says: at the closing, or by the end of the last day used."""
    if report.closing is not None:
        return report.closing.closed_s
    last = max((cell.day for cell in charges if cell.day <= month.last), default=month.first)
    return min(Period(last, last, month.zone).end_s, month.end_s)


def _cost(cells: Iterable[Cell]) -> int:
    return sum(cell.sums.nanodollars for cell in cells)


def _month(cell: Cell, period: Period) -> Period:
    return next(months(Period(cell.day, cell.day, period.zone)))


def invoice_id(cell: Cell) -> str:
    """Ours, since the provider's isn't known before it comes: month and account."""
    return f"{cell.day:%Y-%m}/{_account(cell.belonging)['BillingAccountId']}"


def _detail_id(cell: Cell) -> str:
    who = cell.belonging
    parts = (who.provider_project or "-", who.served or who.model or "-", who.tier or "default")
    return f"{invoice_id(cell)}/{'/'.join(parts)}"


def provider_name(who: Belonging) -> str:
    """Who sells it, as invoices name them."""
    name = who.provider or who.upstream or "Unknown"
    return _NAMES.get(name, name)


def _publisher(who: Belonging) -> str:
    """Who makes the model, where its name tells."""
    makers = {
        "gpt": "OpenAI",
        "o1": "OpenAI",
        "o3": "OpenAI",
        "o4": "OpenAI",
        "claude": "Anthropic",
        "gemini": "Google",
    }
    model = (who.model or "").rpartition("/")[2]
    return next((maker for start, maker in makers.items() if model.startswith(start)), provider_name(who))


def _description(who: Belonging) -> str:
    tier = f", {who.tier}" if who.tier and who.tier != "default" else ""
    unpriced = "; no price is known, so its cost is not in here" if who.known == "unpriced" else ""
    return f"{who.served or who.model}, {who.endpoint}{tier}{unpriced}"


def _quantity(cell: Cell) -> tuple[int, str]:
    return (cell.sums.tokens, "Tokens") if cell.sums.tokens else (cell.sums.attempts, "Requests")


def unit_price(nanodollars: int, quantity: int) -> str:
    """Dollars a unit, so precise that its product with the quantity rounds to the cost."""
    if not quantity:
        return "0"
    price = _EXACT.quantize(_EXACT.divide(Decimal(nanodollars).scaleb(-9), Decimal(quantity)), _PLACES)
    text = f"{price:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _json(value: Mapping[str, str]) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode() if value else ""


def _csv(dataset: Dataset, rows: Iterable[Row]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    names = [*(column.name for column in dataset.columns), *dataset.ours]
    writer.writerow(names)
    amounts = {column.name for column in dataset.columns if column.kind == "decimal"}
    safe: Callable[[str, str], str] = lambda name, text: text if name in amounts else harmless(text)  # noqa: E731
    for row in rows:
        writer.writerow([safe(name, row[name]) for name in names])
    return out.getvalue().encode()
