"""FOCUS exports conform to the specification, and lose nothing."""

from __future__ import annotations

import csv
import io
import random
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger import closing
from proxy.ledger.opening import open_ledger
from proxy.ledger.reporting.focus import files, unit_price
from proxy.ledger.reporting.focus_rules import BILLING_PERIOD, COST_AND_USAGE_1_2, COST_AND_USAGE_1_4, violations
from proxy.ledger.reporting.periods import Period
from proxy.ledger.reporting.report import Asked, Report, report
from proxy.ledger.reporting.source import reading
from tests.ledger.filled import DOLLAR, Filled, at

NOVEMBER = Period.month("2026-11", ZoneInfo("UTC"))
MUST_HAVE = [
    "BilledCost",
    "EffectiveCost",
    "ListCost",
    "ContractedCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodStart",
    "BillingPeriodEnd",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "PricingQuantity",
    "PricingUnit",
    "InvoiceIssuerName",
    "ServiceCategory",
    "ServiceName",
    "ConsumedQuantity",
    "ConsumedUnit",
    "SkuId",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "ListUnitPrice",
    "Tags",
    "InvoiceId",
]


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    """A ledger with some of everything."""
    filled = Filled(open_ledger("sqlite:///ledger.db", tmp_path))
    chance = random.Random(3)
    for number in range(60):
        filled.use(
            f"2026-11-{1 + number % 28:02d} {number % 24:02d}:15",
            chance.choice([0, 1, 7, 123_456_789, 10**15 + 1]),
            team=chance.choice(["search", "=HYPERLINK(1)", None]),
            known=chance.choice(["observed", "estimated", "unknown"]),
            tier=chance.choice(["default", "flex", None]),
            provider_project=chance.choice(["proj_a", None]),
            account=chance.choice(["org-1", None]),
            tags=chance.choice([{}, {"env": "prod", "note": 'a "b", c'}]),
        )
    filled.use("2026-11-05 10:00", None, 4)
    filled.use("2026-11-06 10:00", 5_000, 2, input_tokens=0, output_tokens=0, model="gpt-image-1", served="gpt-image-1")
    filled.use("2026-11-06 10:00", 9 * DOLLAR, provider="anthropic", upstream="claude", model="claude-haiku-4-5")
    filled.exchange("2026-11-06 10:00", 3)
    filled.write()
    return filled


def made(filled: Filled, period: Period = NOVEMBER) -> Report:
    """The report behind the export."""
    with reading(filled.engine) as source:
        return report(source, Asked(period, 2e9))


def table(content: bytes) -> list[dict[str, str]]:
    """Its rows."""
    return [*csv.DictReader(io.StringIO(content.decode()))]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata"])
def test_exports_conform_and_add_up(zone: str, filled: Filled) -> None:
    """Both versions pass the rules; the column's sum is the ledger's, to the nano-dollar."""
    found = made(filled, Period.month("2026-11", ZoneInfo(zone)))
    for version in ("1.2", "1.4"):
        written = files(found, version)  # type: ignore[arg-type]
        for dataset, content in written.values():
            assert violations(dataset, content) == []
        rows = table(written["CostAndUsage"][1])
        assert rows
        for cost in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
            assert sum(Decimal(row[cost]) for row in rows) * DOLLAR == found.sums.nanodollars
        assert set(MUST_HAVE) <= rows[0].keys()


def test_the_versions_differ_as_they_should(filled: Filled) -> None:
    """1.4 has no ProviderName and PublisherName, names who hosts and who sells, and comes with two more data sets."""
    found = made(filled)
    old, new = files(found, "1.2"), files(found, "1.4")
    header_old, header_new = table(old["CostAndUsage"][1])[0].keys(), table(new["CostAndUsage"][1])[0].keys()
    assert {"ProviderName", "PublisherName"} <= header_old
    assert not {"ProviderName", "PublisherName"} & header_new
    assert {"ServiceProviderName", "HostProviderName", "InvoiceDetailId"} <= header_new
    assert list(old) == ["CostAndUsage"]
    assert list(new) == ["CostAndUsage", "BillingPeriod", "InvoiceDetail"]


def test_invoice_details_are_what_was_charged(filled: Filled) -> None:
    """Each charge joins one invoice line, and each line is the sum of its charges."""
    written = files(made(filled), "1.4")
    lines = {row["InvoiceDetailId"]: Decimal(row["BilledCost"]) for row in table(written["InvoiceDetail"][1])}
    sums: dict[str, Decimal] = {}
    for row in table(written["CostAndUsage"][1]):
        sums[row["InvoiceDetailId"]] = sums.get(row["InvoiceDetailId"], Decimal(0)) + Decimal(row["BilledCost"])
    assert {name: amount for name, amount in sums.items() if amount} == lines
    assert {row["InvoiceIssuerName"] for row in table(written["BillingPeriod"][1])} == {"OpenAI", "Anthropic"}


def test_a_closed_month_is_closed_and_the_same_each_time(filled: Filled) -> None:
    """Status and date of issue are those of the closing; the bytes don't depend on when it is asked."""
    open_ = table(files(made(filled), "1.4")["BillingPeriod"][1])
    assert {row["BillingPeriodStatus"] for row in open_} == {"Open"}
    closing.close(filled.engine, closing.month("2026-11"), at("2026-12-02 08:00"))
    first, second = files(made(filled), "1.4"), files(made(filled), "1.4")
    assert first == second
    assert {row["BillingPeriodStatus"] for row in table(first["BillingPeriod"][1])} == {"Closed"}
    details = table(first["InvoiceDetail"][1])
    assert {(row["InvoiceIssueStatus"], row["InvoiceIssueDate"]) for row in details} == {
        ("Issued", "2026-12-02T08:00:00Z")
    }


def test_unpriced_charges_are_said_to_be(filled: Filled) -> None:
    """A cost can't be null there: it is 0, and both a column and the description say that no price is known."""
    rows = [row for row in table(files(made(filled), "1.2")["CostAndUsage"][1]) if row["x_CostKnown"] == "unpriced"]
    assert [(row["BilledCost"], row["x_Attempts"]) for row in rows] == [("0.000000000", "4")]
    assert "no price is known" in rows[0]["ChargeDescription"]


def test_names_are_no_formulas(filled: Filled) -> None:
    """A team may be called anything; a spreadsheet doesn't take it for a formula."""
    teams = {row["x_Team"] for row in table(files(made(filled), "1.2")["CostAndUsage"][1])}
    assert "'=HYPERLINK(1)" in teams
    assert not any(team.startswith("=") for team in teams)


@given(st.integers(0, 10**17), st.integers(1, 10**13))
def test_unit_prices_times_quantities_are_costs(nanodollars: int, quantity: int) -> None:
    """The price has so many digits that its product rounds to the cost."""
    product = Decimal(unit_price(nanodollars, quantity)) * quantity
    assert round(product * DOLLAR) == nanodollars


BROKEN: dict[str, tuple[Any, str]] = {
    "no cost": ({"BilledCost": ""}, "BilledCost must not be null"),
    "a cost with a sign": ({"BilledCost": "+1"}, "plain decimal"),
    "scientific": ({"EffectiveCost": "1e-3"}, "plain decimal"),
    "a currency's symbol": ({"BillingCurrency": "$"}, "ISO 4217"),
    "a local time": ({"ChargePeriodStart": "2026-11-01T00:00:00+01:00"}, "UTC time"),
    "a day as billing period": ({"BillingPeriodEnd": "2026-11-02T00:00:00Z"}, "isn't a month"),
    "a charge outside": ({"ChargePeriodStart": "2026-12-05T00:00:00Z"}, "isn't in the billing period"),
    "an unknown category": ({"ChargeCategory": "Tokens"}, "must be one of"),
    "an unknown service": ({"ServiceCategory": "LLM"}, "must be one of"),
    "usage without quantity": ({"PricingQuantity": ""}, "must not be null for usage"),
    "a price that isn't the cost's": ({"ListUnitPrice": "5"}, "times PricingQuantity"),
    "tags in tags": ({"Tags": '{"a": {"b": 1}}'}, "without nesting"),
    "tags that aren't JSON": ({"Tags": "env=prod"}, "JSON object"),
    "a unit without quantity": ({"ConsumedQuantity": ""}, "null together"),
    "a name without id": ({"SubAccountId": "", "SubAccountName": "x"}, "without SubAccountId"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_the_rules_is_found(case: str, filled: Filled) -> None:
    """The check isn't one that passes everything: each broken value has its sentence, with the line."""
    changes, sentence = BROKEN[case]
    rows = table(files(made(filled), "1.2")["CostAndUsage"][1])[:2]
    row = next(row for row in rows if row["BilledCost"])
    row |= changes
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    found = violations(COST_AND_USAGE_1_2, out.getvalue().encode())
    assert any(sentence in text and text.startswith("line ") for text in found), found


def test_headers_are_checked(filled: Filled) -> None:
    """Missing, removed, unknown and doubled columns, and ours before theirs."""
    content = files(made(filled), "1.2")["CostAndUsage"][1]
    found = violations(COST_AND_USAGE_1_4, content)
    assert "ProviderName is no column of this version" in found
    assert "HostProviderName is missing" in found
    head = b"x_A,BillingPeriodStart,BillingPeriodStart,Colour\r\n"
    found = violations(BILLING_PERIOD, head)
    assert "Colour is neither a column of the specification nor begins with x_" in found
    assert "columns of the specification must stand before those that begin with x_" in found
    assert "a column stands twice" in found
