"""What FOCUS asks of its data sets, and a check of a file against it.

Rules: pure. Columns, types, nulls and allowed values are those of the specification's column definitions of versions
1.2 and 1.4 (https://focus.finops.org, https://github.com/FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec). Of its
conditional columns those are listed that apply to metered APIs. A violation is a sentence that names line and column.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final, Literal

import msgspec
import orjson

Kind = Literal["text", "decimal", "time", "json", "currency"]
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_CUSTOM: Final = re.compile(r"x_[A-Za-z0-9]+")
_NANO: Final = Decimal("0.000000001")
_EXACT: Final = Context(prec=60)


class Column(msgspec.Struct, frozen=True):
    """A column of the specification. `null`: may be empty; `allowed`: nothing else may stand there."""

    name: str
    kind: Kind = "text"
    null: bool = False
    mandatory: bool = True
    allowed: tuple[str, ...] = ()


class Dataset(msgspec.Struct, frozen=True):
    """A data set of a version. `removed`: columns that it no longer has; `ours`: columns of our own."""

    name: str
    columns: tuple[Column, ...]
    removed: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()


def _text(name: str, *allowed: str, null: bool = False, mandatory: bool = True) -> Column:
    return Column(name, "text", null, mandatory, allowed)


def _decimal(name: str, *, null: bool = False, mandatory: bool = True) -> Column:
    return Column(name, "decimal", null, mandatory)


def _time(name: str, *, null: bool = False) -> Column:
    return Column(name, "time", null)


def _json(name: str, *, mandatory: bool = False) -> Column:
    return Column(name, "json", True, mandatory)


CATEGORIES: Final = ("Usage", "Purchase", "Tax", "Credit", "Adjustment")
SERVICES: Final = (
    "AI and Machine Learning",
    "Analytics",
    "Business Applications",
    "Compute",
    "Databases",
    "Developer Tools",
    "Multicloud",
    "Identity",
    "Integration",
    "Internet of Things",
    "Management and Governance",
    "Media",
    "Migration",
    "Mobile",
    "Networking",
    "Security",
    "Storage",
    "Web",
    "Other",
)
OURS: Final = (
    "x_Org",
    "x_Team",
    "x_Project",
    "x_CostCentre",
    "x_GlAccount",
    "x_KeyId",
    "x_Endpoint",
    "x_Kind",
    "x_StartedBy",
    "x_CostKnown",
    "x_Attempts",
    "x_InputTokens",
    "x_CachedTokens",
    "x_OutputTokens",
)
_COMMON: Final = (
    _decimal("BilledCost"),
    _text("BillingAccountId"),
    _text("BillingAccountName", null=True),
    Column("BillingCurrency", "currency"),
    _time("BillingPeriodEnd"),
    _time("BillingPeriodStart"),
    _text("ChargeCategory", *CATEGORIES),
    _text("ChargeClass", "Correction", null=True),
    _text("ChargeDescription", null=True),
    _text("ChargeFrequency", "One-Time", "Recurring", "Usage-Based", mandatory=False),
    _time("ChargePeriodEnd"),
    _time("ChargePeriodStart"),
    _decimal("ConsumedQuantity", null=True, mandatory=False),
    _text("ConsumedUnit", null=True, mandatory=False),
    _decimal("ContractedCost"),
    _decimal("ContractedUnitPrice", null=True, mandatory=False),
    _decimal("EffectiveCost"),
    _text("InvoiceId", null=True, mandatory=False),
    _text("InvoiceIssuerName"),
    _decimal("ListCost"),
    _decimal("ListUnitPrice", null=True, mandatory=False),
    _text("PricingCategory", "Standard", "Dynamic", "Committed", "Other", null=True, mandatory=False),
    _decimal("PricingQuantity", null=True),
    _text("PricingUnit", null=True),
    _text("ServiceCategory", *SERVICES),
    _text("ServiceName"),
    _text("ServiceSubcategory", mandatory=False),
    _text("SkuId", null=True, mandatory=False),
    _text("SkuMeter", null=True, mandatory=False),
    _json("SkuPriceDetails"),
    _text("SkuPriceId", null=True, mandatory=False),
    _text("SubAccountId", null=True, mandatory=False),
    _text("SubAccountName", null=True, mandatory=False),
    _json("Tags"),
)


def _sorted(*columns: Column) -> tuple[Column, ...]:
    return tuple(sorted((*_COMMON, *columns), key=lambda column: column.name))


COST_AND_USAGE_1_2: Final = Dataset("CostAndUsage", _sorted(_text("ProviderName"), _text("PublisherName")), (), OURS)
COST_AND_USAGE_1_4: Final = Dataset(
    "CostAndUsage",
    _sorted(
        _text("HostProviderName"), _text("ServiceProviderName"), _text("InvoiceDetailId", null=True, mandatory=False)
    ),
    ("ProviderName", "PublisherName"),
    OURS,
)
BILLING_PERIOD: Final = Dataset(
    "BillingPeriod",
    (
        _time("BillingPeriodCreated"),
        _time("BillingPeriodEnd"),
        _time("BillingPeriodLastUpdated"),
        _time("BillingPeriodStart"),
        _text("BillingPeriodStatus", "Open", "Closed"),
        _text("InvoiceIssuerName"),
    ),
)
INVOICE_DETAIL: Final = Dataset(
    "InvoiceDetail",
    (
        _decimal("BilledCost"),
        _text("BillingAccountId"),
        Column("BillingCurrency", "currency"),
        _time("BillingPeriodEnd"),
        _time("BillingPeriodStart"),
        _text("ChargeCategory", *CATEGORIES),
        _time("InvoiceDetailCreated"),
        _text("InvoiceDetailDescription", null=True),
        _json("InvoiceDetailGrain", mandatory=True),
        _text("InvoiceDetailId"),
        _time("InvoiceDetailLastUpdated"),
        _text("InvoiceId"),
        _time("InvoiceIssueDate", null=True),
        _text("InvoiceIssueStatus", "Open", "Issued", "Voided"),
        _text("InvoiceIssuerName"),
        Column("PaymentCurrency", "currency"),
        _decimal("PaymentCurrencyBilledCost", mandatory=False),
        _text("PaymentCurrencyInvoiceDetailId", mandatory=False),
        _time("PaymentDueDate", null=True),
        _text("PaymentTerms"),
        _text("ReferenceInvoiceId"),
    ),
)


def cost_and_usage(version: str) -> Dataset:
    """The main data set of a version."""
    return COST_AND_USAGE_1_2 if version == "1.2" else COST_AND_USAGE_1_4


def violations(dataset: Dataset, content: bytes) -> list[str]:
    """What a CSV file breaks of the specification; nothing if it conforms."""
    reader = csv.DictReader(io.StringIO(content.decode()))
    found = [*_of_header(dataset, reader.fieldnames or ())]
    for line, row in enumerate(reader, 2):
        found += [f"line {line}: {text}" for text in _of_row(dataset, row)]
    return found


def _of_header(dataset: Dataset, names: object) -> Iterator[str]:
    header = [str(name) for name in names] if isinstance(names, list | tuple) else []
    known = {column.name for column in dataset.columns}
    for column in dataset.columns:
        if column.mandatory and column.name not in header:
            yield f"{column.name} is missing"
    for name in header:
        if name in dataset.removed:
            yield f"{name} is no column of this version"
        elif name not in known and not _CUSTOM.fullmatch(name):
            yield f"{name} is neither a column of the specification nor begins with x_"
    custom = [name.startswith("x_") for name in header]
    if custom != sorted(custom):
        yield "columns of the specification must stand before those that begin with x_"
    if len(set(header)) < len(header):
        yield "a column stands twice"


def _of_row(dataset: Dataset, row: Mapping[str, str | None]) -> Iterator[str]:
    for column in dataset.columns:
        if column.name in row:
            value = row[column.name] or ""
            if problem := _of_value(column, value):
                yield f"{column.name} {problem}: {value!r}"
    if dataset.name == "CostAndUsage":
        yield from _of_charge({name: value or "" for name, value in row.items()})
    if _later(row, "BillingPeriodStart", "BillingPeriodEnd"):
        yield "the billing period ends before it begins"


def _of_value(column: Column, value: str) -> str:
    if not value:
        return "" if column.null else "must not be null"
    if column.allowed and value not in column.allowed:
        return f"must be one of {', '.join(column.allowed)}"
    if column.kind == "decimal":
        return "" if _NUMBER.fullmatch(value) else "must be a plain decimal number"
    if column.kind == "currency":
        return "" if re.fullmatch(r"[A-Z]{3}", value) else "must be an ISO 4217 code"
    if column.kind == "time":
        return "" if _is_time(value) else "must be a UTC time such as 2026-11-01T00:00:00Z"
    return _of_json(value) if column.kind == "json" else ""


def _is_time(value: str) -> bool:
    if not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _of_json(value: str) -> str:
    """Key-value format: an object whose values are text, numbers, true, false or null."""
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return "must be a JSON object"
    flat = isinstance(found, dict) and not any(isinstance(inner, dict | list) for inner in found.values())
    return "" if flat else "must be a JSON object without nesting"


def _of_charge(row: Mapping[str, str]) -> Iterator[str]:
    """What a charge's columns ask of each other."""
    used = row.get("ChargeCategory") in ("Usage", "Purchase") and row.get("ChargeClass") != "Correction"
    if used:
        for name in ("PricingQuantity", "PricingUnit", "SkuId", "SkuPriceId", "ListUnitPrice", "ContractedUnitPrice"):
            if not row.get(name, "?"):
                yield f"{name} must not be null for usage"
    for name in ("PricingQuantity", "PricingUnit", "SkuPriceId", "ListUnitPrice"):
        if row.get("ChargeCategory") == "Tax" and row.get(name):
            yield f"{name} must be null for a tax"
    if row.get("ChargeCategory") != "Usage" and row.get("ConsumedQuantity"):
        yield "ConsumedQuantity must be null for what isn't usage"
    if bool(row.get("ConsumedQuantity")) != bool(row.get("ConsumedUnit")):
        yield "ConsumedQuantity and ConsumedUnit must be null together"
    if bool(row.get("SubAccountName")) and not row.get("SubAccountId"):
        yield "SubAccountName must be null without SubAccountId"
    if used:
        yield from _of_products(row)
    yield from _of_times(row)


def _of_products(row: Mapping[str, str]) -> Iterator[str]:
    """A unit price times the quantity is the cost, to the nano-dollar."""
    for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
        numbers = [row.get(name, "") for name in (price, "PricingQuantity", cost)]
        if all(_NUMBER.fullmatch(number) for number in numbers):
            unit, quantity, whole = map(Decimal, numbers)
            product = _EXACT.multiply(unit, quantity).quantize(_NANO, ROUND_HALF_UP, _EXACT)
            if product != whole.quantize(_NANO, ROUND_HALF_UP, _EXACT):
                yield f"{price} times PricingQuantity is {product:f}, not {cost}"


def _of_times(row: Mapping[str, str]) -> Iterator[str]:
    if _later(row, "ChargePeriodStart", "ChargePeriodEnd"):
        yield "the charge period ends before it begins"
    start, end = row.get("BillingPeriodStart", ""), row.get("BillingPeriodEnd", "")
    if _is_time(start) and _is_time(end):
        days = (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() / 86_400
        if not 27.9 <= days <= 31.1:
            yield "the billing period isn't a month"
        if row.get("ChargeClass") != "Correction" and not start <= row.get("ChargePeriodStart", start) < end:
            yield "the charge period isn't in the billing period"


def _later(row: Mapping[str, str | None], first: str, then: str) -> bool:
    one, other = row.get(first) or "", row.get(then) or ""
    return _is_time(one) and _is_time(other) and one >= other
