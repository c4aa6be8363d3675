"""Ledger against the provider's export: what is read, what is joined, and that each difference finds its cause."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from proxy.ledger.opening import open_ledger
from proxy.ledger.reconciling.books import Books
from proxy.ledger.reconciling.causes import CAUSES
from proxy.ledger.reconciling.compare import Comparison, compare
from proxy.ledger.reconciling.export import ExportError, in_dollars, read
from proxy.ledger.reconciling.items import item_of
from proxy.ledger.reconciling.ledger import Repeated, recorded
from proxy.ledger.reporting.amounts import Currency
from proxy.ledger.reporting.cells import Cell
from proxy.ledger.reporting.source import reading
from tests.ledger.filled import DOLLAR, Filled

FIRST, DAYS = date(2026, 11, 1), 10
PRICES = {"input": 2_500, "cached": 1_250, "output": 10_000}  # nano-dollars a token


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """A ledger in SQLite; `test_report` reads PostgreSQL's."""
    return open_ledger("sqlite:///ledger.db", tmp_path)


def day(number: int) -> date:
    """The day of November."""
    return FIRST + timedelta(days=number - 1)


@dataclass
class Week:
    """A provider and a ledger that agree, until something is done to one of them."""

    filled: Filled
    results: dict[date, list[dict[str, Any]]] = field(default_factory=dict)
    skipped: set[tuple[int, str, str]] = field(default_factory=set)

    def model(self, model: str, project: str = "proj_a", days: range | None = None, **changes: Any) -> None:
        """Ten days of a model: used through Weir, and billed by three line items."""
        for number in days or range(1, DAYS + 1):
            self.record(number, model, project, **changes)
            self.bill(number, model, project)

    def tokens(self, number: int) -> dict[str, int]:
        """What a day uses; cached ones are part of the input."""
        return {"input_tokens": 100_000 + 1_000 * number, "cached_tokens": 40_000, "output_tokens": 20_000 + number}

    def amounts(self, number: int) -> dict[str, int]:
        """What a day costs, by meter."""
        tokens = self.tokens(number)
        fresh = tokens["input_tokens"] - tokens["cached_tokens"]
        counts = {"input": fresh, "cached": tokens["cached_tokens"], "output": tokens["output_tokens"]}
        return {meter: counts[meter] * price for meter, price in PRICES.items()}

    def cost(self, number: int) -> int:
        """What a day costs."""
        return sum(self.amounts(number).values())

    def record(
        self, number: int, model: str, project: str = "proj_a", factor: float = 1, clock: str = "12:00", **changes: Any
    ) -> None:
        """In the ledger."""
        cost = round(self.cost(number) * factor)
        names = {"model": model, "served": model, "provider_project": project}
        self.filled.use(f"{day(number)} {clock}", cost, 50, **self.tokens(number), **names | changes)

    def bill(self, number: int, model: str, project: str = "proj_a", **factors: float) -> None:
        """On the bill. `all` or a meter's name multiplies; 0 leaves the line out."""
        words = {"input": "input", "cached": "cached input", "output": "output"}
        for meter, amount in self.amounts(number).items():
            factor = factors.get("all", 1) * factors.get(meter, 1)
            if factor:
                self.item(number, f"{model}-2026-01-15, {words[meter]}", round(amount * factor), project)

    def item(self, number: int, text: str, nano: int, project: str = "proj_a") -> None:
        """Any line."""
        amount = {"value": float(Decimal(nano) / DOLLAR), "currency": "usd"}
        result = {"object": "organization.costs.result", "amount": amount, "line_item": text, "project_id": project}
        self.results.setdefault(day(number), []).append(result)

    def page(self) -> dict[str, Any]:
        """As the costs API answers."""
        buckets = [
            {
                "object": "bucket",
                "start_time": int(datetime(when.year, when.month, when.day, tzinfo=UTC).timestamp()),
                "results": self.results.get(when, []),
            }
            for when in (day(number) for number in range(1, DAYS + 1))
        ]
        return {"object": "page", "data": buckets, "has_more": False, "next_page": None}


@pytest.fixture
def week(engine: Engine) -> Week:
    """An empty one."""
    return Week(Filled(engine))


def compared(week: Week, tmp_path: Path, page: dict[str, Any] | None = None, **names: str) -> Comparison:
    """Writes both books, and compares them."""
    week.filled.write()
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(page or week.page()))
    export = read("openai", [file])
    with reading(week.filled.engine) as source:
        cells = recorded(source, "openai", min(export.days), max(export.days))
        return compare(Books(export, cells, names), Repeated(source.connection, "openai"))


def causes(found: Comparison, model: str | None = None) -> set[str]:
    """The causes that were named."""
    return {item.cause for item in found.findings if model in (None, item.model)}


def test_books_that_agree_have_no_findings(week: Week, tmp_path: Path) -> None:
    """The same amounts by meter are the same, though decimal fractions of dollars were binary on the way."""
    week.model("gpt-4o")
    week.model("gpt-4o-mini", "proj_b")
    found = compared(week, tmp_path)
    assert found.findings == []
    assert found.recorded == found.billed == 2 * sum(week.cost(number) for number in range(1, DAYS + 1))
    assert len(found.lines) == 2 * DAYS


# --- twenty discrepancies, each of another kind


def _missing_in_export(week: Week) -> None:
    week.model("m-a1", days=range(1, 11))
    week.record(4, "m-a2")
    week.model("m-a2", days=range(6, 9))


def _missing_in_ledger(week: Week) -> None:
    week.model("m-b1", days=range(1, 6))
    week.bill(7, "m-b1")


def _model_outside(week: Week) -> None:
    week.bill(3, "m-c1")


def _project_outside(week: Week) -> None:
    week.bill(3, "m-keep", "proj_other")


def _duplicate_in_export(week: Week) -> None:
    week.model("m-d1")
    week.results[day(5)].append(dict(next(r for r in week.results[day(5)] if r["line_item"].startswith("m-d1"))))


def _duplicate_in_ledger(week: Week) -> None:
    week.model("m-e1")
    for _ in range(2):
        names = {"model": "m-e1", "served": "m-e1"}
        week.filled.attempt("2026-11-06 09:00", "2026-11-06 09:01", 7 * DOLLAR, "req_same", **names)
    week.item(6, "m-e1-2026-01-15, output", 7 * DOLLAR)


def _utc_day_edge(week: Week) -> None:
    week.model("m-f1")
    week.filled.use("2026-11-05 00:00", 77_000_000, model="m-f1", served="m-f1", input_tokens=0, output_tokens=0)
    week.item(4, "m-f1-2026-01-15, output", 77_000_000)


def _batch_day(week: Week) -> None:
    week.model("m-g1")
    week.filled.use("2026-11-07 03:00", 55_000_000, model="m-g1", served="m-g1", tier="batch", input_tokens=0)
    week.item(5, "m-g1-2026-01-15 batch, output", 55_000_000)


def _other_project(week: Week) -> None:
    week.model("m-h1")
    week.model("m-h1", "proj_b")
    week.filled.use("2026-11-03 12:00", 33_000_000, model="m-h1", served="m-h1", provider_project="proj_b")
    week.item(3, "m-h1-2026-01-15, output", 33_000_000, "proj_a")


def _other_model(week: Week) -> None:
    week.model("m-i1")
    week.model("m-i2")
    week.filled.use("2026-11-03 12:00", 44_000_000, model="m-i1", served="m-i1")
    week.item(3, "m-i2-2026-01-15, output", 44_000_000)


def _tier(week: Week) -> None:
    week.model("m-j1", days=range(1, 5))
    week.record(6, "m-j1", tier="flex", factor=0.5)
    week.bill(6, "m-j1")


def _residency(week: Week) -> None:
    week.model("m-k1", days=range(1, 5))
    week.record(6, "m-k1")
    week.bill(6, "m-k1", all=1.1)


def _amount_unit(week: Week) -> None:
    week.model("m-l1", days=range(1, 5))
    week.record(6, "m-l1")
    week.bill(6, "m-l1", all=100)


def _contract_price(week: Week) -> None:
    for number in range(1, DAYS + 1):
        week.record(number, "m-m1")
        week.bill(number, "m-m1", all=0.85)


def _price_change(week: Week) -> None:
    week.model("m-n1", days=range(1, 6))
    for number in range(6, DAYS + 1):
        week.record(number, "m-n1")
        week.bill(number, "m-n1", all=1.3)


def _meter_price(week: Week) -> None:
    week.model("m-o1", days=range(1, 9))
    week.record(9, "m-o1")
    week.bill(9, "m-o1", output=1.25)


def _cached_as_full(week: Week) -> None:
    week.model("m-p1", days=range(1, 9))
    week.record(9, "m-p1")
    amounts = week.amounts(9)
    week.bill(9, "m-p1", cached=0, input=(amounts["input"] + 2 * amounts["cached"]) / amounts["input"])


def _estimated(week: Week) -> None:
    week.model("m-q1")
    week.filled.use("2026-11-05 12:00", 20_000_000, model="m-q1", served="m-q1", known="estimated")
    week.item(5, "m-q1-2026-01-15, output", 15_100_000)


def _unpriced(week: Week) -> None:
    week.model("m-r1")
    week.filled.use("2026-11-05 12:00", None, 3, model="m-r1", served="m-r1")
    week.item(5, "m-r1-2026-01-15, output", 28_000_000)


def _fee(week: Week) -> None:
    week.item(2, "code interpreter sessions", 30_000_000)


def _credit(week: Week) -> None:
    week.item(8, "promotional credit", -5 * DOLLAR)


def _tax(week: Week) -> None:
    week.item(9, "VAT 19%", 3 * DOLLAR)


def _key_outside(week: Week) -> None:
    week.model("m-t1")
    for meter, nano in (("input", 31_234_567), ("output", 19_876_543)):
        week.item(5, f"m-t1-2026-01-15, {meter}", nano)


def _less_billed(week: Week) -> None:
    week.model("m-u1")
    week.record(5, "m-u1", clock="14:00", factor=0.37)


INJECTED: dict[str, tuple[str, Callable[[Week], None]]] = {
    "missing_in_export": ("m-a2", _missing_in_export),
    "missing_in_ledger": ("m-b1", _missing_in_ledger),
    "model_outside_weir": ("m-c1", _model_outside),
    "project_outside_weir": ("m-keep", _project_outside),
    "duplicate_in_export": ("m-d1", _duplicate_in_export),
    "duplicate_in_ledger": ("m-e1", _duplicate_in_ledger),
    "utc_day_edge": ("m-f1", _utc_day_edge),
    "batch_day": ("m-g1", _batch_day),
    "other_project": ("m-h1", _other_project),
    "other_model": ("m-i1", _other_model),
    "tier": ("m-j1", _tier),
    "residency": ("m-k1", _residency),
    "amount_unit": ("m-l1", _amount_unit),
    "contract_price": ("m-m1", _contract_price),
    "price_change": ("m-n1", _price_change),
    "meter_price": ("m-o1", _meter_price),
    "cached_as_full": ("m-p1", _cached_as_full),
    "estimated": ("m-q1", _estimated),
    "unpriced": ("m-r1", _unpriced),
    "fee": ("", _fee),
    "credit": ("", _credit),
    "tax": ("", _tax),
    "key_outside_weir": ("m-t1", _key_outside),
    "less_billed": ("m-u1", _less_billed),
}


def _usual(week: Week) -> None:
    """So much agrees that a few differences don't look like whole days."""
    week.model("m-keep")
    week.filled.use("2026-11-10 12:00", 900 * DOLLAR, model="m-keep", served="m-keep", input_tokens=0)
    week.item(10, "m-keep-2026-01-15, output", 900 * DOLLAR)


def test_every_injected_discrepancy_is_named_in_one_export(week: Week, tmp_path: Path) -> None:
    """24 discrepancies of different kinds at once: each has a finding of its own cause; they are all of it."""
    _usual(week)
    for _, inject in INJECTED.values():
        inject(week)
    found = compared(week, tmp_path)
    assert len(INJECTED) >= 20
    missed = {
        cause: causes(found, model) for cause, (model, _) in INJECTED.items() if cause not in causes(found, model)
    }
    assert missed == {}
    wrong = {
        (item.model, item.cause)
        for item in found.findings
        if item.cause not in {cause for cause, (model, _) in INJECTED.items() if model in (item.model, "")}
        and item.model not in ("m-h1", "m-i2")
    }
    assert wrong == set()
    assert sum(item.residual for item in found.findings) == found.billed - found.recorded


@pytest.mark.parametrize("cause", INJECTED)
def test_an_injected_discrepancy_is_named(cause: str, week: Week, tmp_path: Path) -> None:
    """Alone, each has its cause and no other finding."""
    _, inject = INJECTED[cause]
    _usual(week)
    inject(week)
    found = compared(week, tmp_path)
    assert causes(found) == {cause}, found.findings
    assert all(item.text.startswith(CAUSES[cause]) for item in found.findings)
    assert sum(item.residual for item in found.findings) == found.billed - found.recorded


def test_whole_days_are_named(week: Week, tmp_path: Path) -> None:
    """A day that one of the books lacks is that, not so many models; the newest day isn't complete yet."""
    week.model("gpt-4o")
    week.model("gpt-4o-mini")
    week.results[day(4)] = []
    week.results[day(10)] = week.results[day(10)][:2]
    for model in ("gpt-4o", "gpt-4o-mini"):
        week.bill(1, model, "proj_a")
    week.results[day(1)] = []
    found = compared(week, tmp_path)
    assert {(item.day, item.cause) for item in found.findings} == {
        (day(1), "day_missing_in_export"),
        (day(4), "day_missing_in_export"),
        (day(10), "export_not_final"),
    }


def test_a_day_that_the_ledger_lacks(week: Week, tmp_path: Path) -> None:
    """Nothing was recorded that day: the proxy was bypassed."""
    week.model("gpt-4o", days=range(1, 6))
    week.model("gpt-4o", days=range(7, 11))
    week.bill(6, "gpt-4o")
    assert causes(compared(week, tmp_path)) == {"day_missing_in_ledger"}


def test_an_export_that_goes_on(week: Week, tmp_path: Path) -> None:
    """The last page says that more follow: what isn't there may be on the next."""
    week.model("gpt-4o")
    week.results[day(10)] = []
    page = week.page() | {"has_more": True}
    assert causes(compared(week, tmp_path, page)) == {"export_incomplete"}


def test_days_of_another_zone(week: Week, tmp_path: Path) -> None:
    """An export whose days don't begin at midnight UTC: the sums agree, and the days don't."""
    for number in range(1, DAYS + 1):
        week.filled.use(f"{day(number)} 02:00", 10_000_000 * number, model="gpt-4o", served="gpt-4o")
        week.filled.use(f"{day(number)} 12:00", 25_000_000, model="gpt-4o", served="gpt-4o")
        week.item(number, "gpt-4o-2024-08-06, output", 25_000_000 + 10_000_000 * (number % DAYS + 1))
    page = week.page()
    for bucket in page["data"]:
        bucket["start_time"] += 5 * 3600
    found = compared(week, tmp_path, page)
    assert causes(found) == {"time_zone"}
    assert "05:00 UTC" in found.findings[0].text


def test_a_fee_that_the_ledger_counts_with_its_model(week: Week, tmp_path: Path) -> None:
    """Searches are a line of their own on the bill, and part of the attempt's cost in the ledger."""
    week.model("gpt-4o")
    week.filled.use("2026-11-05 12:00", 40_000_000, model="gpt-4o", served="gpt-4o")
    week.item(5, "web search tool calls", 40_000_000)
    found = compared(week, tmp_path)
    assert causes(found) == {"fee_in_model"}
    assert sum(item.residual for item in found.findings) == 0


def test_an_export_without_projects_or_line_items(week: Week, tmp_path: Path) -> None:
    """What it doesn't tell apart isn't told apart in the ledger."""
    for number in range(1, DAYS + 1):
        week.record(number, "gpt-4o", "proj_a")
        week.record(number, "gpt-4o-mini", "proj_b")
        week.item(number, "", 2 * week.cost(number), "")
    found = compared(week, tmp_path)
    assert found.findings == []
    assert {(project, recorded == billed) for _, project, recorded, billed in found.lines} == {("*", True)}


def test_a_project_is_called_something_else(week: Week, tmp_path: Path) -> None:
    """With one on each side they are the same; with more, --map says which."""
    for number in range(1, DAYS + 1):
        week.record(number, "gpt-4o", "openai")
        week.bill(number, "gpt-4o", "proj_x")
    assert compared(week, tmp_path).findings == []


def test_projects_are_mapped(week: Week, tmp_path: Path) -> None:
    """Two of them, under the ledger's names."""
    for number in range(1, DAYS + 1):
        for ours, theirs in (("one", "proj_1"), ("two", "proj_2")):
            week.record(number, "gpt-4o", ours)
            week.bill(number, "gpt-4o", theirs)
    assert compared(week, tmp_path, proj_1="one", proj_2="two").findings == []


# --- reading


def test_anthropics_report_is_in_cents(tmp_path: Path) -> None:
    """Amounts are decimal strings of cents; workspace, model, tier, token type and context have fields of their own."""
    file = tmp_path / "report.json"
    result = {
        "amount": "123.4567",
        "currency": "USD",
        "workspace_id": "wrkspc_1",
        "description": "Claude Sonnet 4.5 Usage - Input Tokens",
        "cost_type": "tokens",
        "context_window": "200k-1M",
        "model": "claude-sonnet-4-5-20250929",
        "service_tier": "batch",
        "token_type": "cache_read_input_tokens",
    }
    search = {"amount": "20", "currency": "USD", "workspace_id": None, "description": None, "cost_type": "web_search"}
    bucket = {"starting_at": "2026-11-03T00:00:00Z", "ending_at": "2026-11-04T00:00:00Z", "results": [result, search]}
    file.write_text(json.dumps({"data": [bucket], "has_more": False}))
    line, fee = read("anthropic", [file]).lines
    assert (line.day, line.project, line.nano) == (date(2026, 11, 3), "wrkspc_1", 1_234_567_000)
    assert (line.item.model, line.item.meter, line.item.tier, line.context) == (
        "claude-sonnet-4-5",
        "cached",
        "batch",
        "200k-1M",
    )
    assert (fee.item.sort, fee.nano) == ("fee", 200_000_000)


def test_openais_csv_is_read(tmp_path: Path) -> None:
    """By the names of its columns, in any order; amounts with more digits than a nano-dollar are rounded once."""
    file = tmp_path / "costs.csv"
    file.write_text(
        "start_time,start_time_iso,amount_value,amount_currency,line_item,project_id\n"
        '1793491200,2026-11-01T00:00:00+00:00,0.1234567894999,usd,"gpt-4o-2024-08-06, input",proj_a\n'
        '1793577600,2026-11-02T00:00:00+00:00,1e-3,usd,"gpt-4o-2024-08-06, output",proj_a\n'
    )
    export = read("openai", [file])
    assert [(line.day, line.nano) for line in export.lines] == [(day(1), 123_456_789), (day(2), 1_000_000)]
    assert export.lines[0].item == item_of("gpt-4o, input")


@pytest.mark.parametrize(
    "text", ["{}", '{"data": [{"results": []}]}', "a,b\n1,2\n", "", '{"data": [{"start_time": 1}]}']
)
def test_what_isnt_an_export_is_refused(text: str, tmp_path: Path) -> None:
    """With the file's name, and nothing skipped."""
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ExportError):
        read("openai", [file])


def test_another_currency_is_converted_by_the_rate_that_is_given(tmp_path: Path) -> None:
    """0.92 euros are a dollar: each amount is rounded once."""
    file = tmp_path / "costs.csv"
    file.write_text(
        'date,amount,currency,line_item\n2026-11-01,0.92,eur,"gpt-4o, input"\n2026-11-01,1,eur,"gpt-4o, output"\n'
    )
    export = read("openai", [file])
    assert export.currencies == {"EUR"}
    in_dollars(export, Currency.parse("eur", "0.92", "2026-11-30"))
    assert [line.nano for line in export.lines] == [DOLLAR, 1_086_956_522]
    assert export.currencies == {"USD"}


@pytest.mark.parametrize(
    ("text", "sort", "model", "meter", "tier"),
    [
        ("gpt-4o-mini-2024-07-18, input", "usage", "gpt-4o-mini", "input", None),
        ("gpt-4o-mini-2024-07-18, cached input", "usage", "gpt-4o-mini", "cached", None),
        ("o4-mini-2025-04-16 | batch | output", "usage", "o4-mini", "output", "batch"),
        ("batch, gpt-4o-2024-08-06, output", "usage", "gpt-4o", "output", "batch"),
        ("text-embedding-3-small", "usage", "text-embedding-3-small", None, None),
        ("Claude Opus 4.1 Usage - Output Tokens", "usage", "claude-opus-4-1", "output", None),
        ("web search tool calls", "fee", None, None, None),
        ("assistants api | file search", "fee", None, None, None),
        ("Sales tax", "tax", None, None, None),
        ("credit grant", "credit", None, None, None),
    ],
)
def test_line_items_are_understood(
    text: str, sort: str, model: str | None, meter: str | None, tier: str | None
) -> None:
    """As providers write them."""
    item = item_of(text)
    assert (item.sort, item.model, item.meter, item.tier) == (sort, model, meter, tier)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.sampled_from(["proj_a", "proj_b", ""]),
            st.sampled_from(["gpt-4o, input", "gpt-4o, output", "o4-mini, input", "tax", "credit", "file search", "?"]),
            st.integers(-(10**12), 10**12),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_findings_add_up_to_the_difference(lines: list[tuple[int, str, str, int]]) -> None:
    """Whatever an export says, every nano-dollar of the difference has one finding."""
    from proxy.ledger.reconciling.export import Export, ExportLine
    from proxy.ledger.reporting.cells import Belonging, Sums

    export = Export("openai", [], {day(number) for number in range(1, 5)})
    for index, (number, project, text, nano) in enumerate(lines):
        export.lines.append(ExportLine(day(number), project, text, item_of(text, nano), nano, raw=str(index % 7)))
    who = Belonging(provider="openai", provider_project="proj_a", model="gpt-4o", known="observed")
    cells = [Cell(day(number), who, Sums(attempts=1, observed=10**9 * number)) for number in (1, 2, 3)]
    found = compare(Books(export, cells, {}))
    assert sum(item.residual for item in found.findings) == found.billed - found.recorded
    assert found.billed == sum(nano for _, _, _, nano in lines)
    assert found.recorded == 6 * 10**9
    assert {item.cause for item in found.findings} <= set(CAUSES)
