"""Reports: days of any zone, cuts that add up, and what is told of a period."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select

from proxy.ledger import closing, tables
from proxy.ledger.opening import engine_of, open_ledger
from proxy.ledger.reporting.anomalies import anomalies
from proxy.ledger.reporting.budgets import Budget, Extra, Limit, budgets_of, limit_of
from proxy.ledger.reporting.cells import DIMENSIONS, NONE, UNTAGGED, Belonging, Cell, Sums, Where, cut, reader, total
from proxy.ledger.reporting.effects import effect, effects
from proxy.ledger.reporting.forecast import forecast
from proxy.ledger.reporting.periods import Period, edges, label_of, midnight_s
from proxy.ledger.reporting.report import Asked, Report, report
from proxy.ledger.reporting.savings import observed
from proxy.ledger.reporting.sections import sections
from proxy.ledger.reporting.source import Arm, reading
from proxy.ledger.reporting.statistic import t_quantile
from tests.ledger.filled import DOLLAR, Filled, at

UTC_ZONE = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")
NOVEMBER = Period.month("2026-11", UTC_ZONE)
AFTER = 2_000_000_000.0
ZONES = (
    "UTC",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "America/St_Johns",
    "Pacific/Kiritimati",
    "Pacific/Niue",
)


@pytest.fixture
def filled(engine: Engine) -> Filled:
    """An empty ledger, on each database."""
    return Filled(engine)


@pytest.fixture
def quick(tmp_path: Path) -> Filled:
    """An empty ledger in SQLite, where the database doesn't matter."""
    return Filled(open_ledger("sqlite:///ledger.db", tmp_path))


def told(filled: Filled, period: Period = NOVEMBER, **asked: Any) -> Report:
    """Writes the ledger and reports."""
    filled.write()
    return again(filled.engine, period, **asked)


def again(engine: Engine, period: Period = NOVEMBER, **asked: Any) -> Report:
    """Reports."""
    with reading(engine) as source:
        return report(source, Asked(period, **{"now_s": AFTER, **asked}))


def costs(found: Report) -> dict[tuple[str, ...], int]:
    """The lines' amounts."""
    return {line.group: line.sums.nanodollars for line in found.lines}


# --- days of a zone


@pytest.mark.parametrize(
    ("zone", "inside", "outside"),
    [
        ("Europe/Berlin", ["2026-10-31 23:00", "2026-11-30 22:59"], ["2026-10-31 22:59", "2026-11-30 23:00"]),
        ("Asia/Kolkata", ["2026-10-31 18:30", "2026-11-30 18:29"], ["2026-10-31 18:29", "2026-11-30 18:30"]),
        ("Asia/Kathmandu", ["2026-10-31 18:15", "2026-11-30 18:14"], ["2026-10-31 18:14", "2026-11-30 18:15"]),
        ("America/New_York", ["2026-11-01 04:00", "2026-12-01 04:59"], ["2026-11-01 03:59", "2026-12-01 05:00"]),
        ("Pacific/Kiritimati", ["2026-10-31 10:00", "2026-11-30 09:59"], ["2026-10-31 09:59", "2026-11-30 10:00"]),
    ],
)
def test_a_month_is_the_zones_own(zone: str, inside: list[str], outside: list[str], filled: Filled) -> None:
    """Quarters of an hour are enough for every zone, and a month that begins in summer time ends in winter time."""
    for when in inside:
        filled.use(when, 1_000)
    for when in outside:
        filled.use(when, 1)
    found = told(filled, Period.month("2026-11", ZoneInfo(zone)))
    assert found.sums.nanodollars == 2_000
    assert [day for day, amount in found.days.items() if amount] == [date(2026, 11, 1), date(2026, 11, 30)]


def test_days_of_23_and_25_hours(filled: Filled) -> None:
    """Berlin's 29 March 2026 lacks an hour, 25 October has one more: neither loses or lends a quarter."""
    for month, day in ((3, 29), (10, 25)):
        first = midnight_s(date(2026, month, day) - timedelta(days=1), BERLIN)
        end = midnight_s(date(2026, month, day) + timedelta(days=2), BERLIN)
        for moment in range(first, end, 900):
            filled.use(datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M"), 1)
    filled.write()
    spring = again(filled.engine, Period(date(2026, 3, 28), date(2026, 3, 30), BERLIN))
    autumn = again(filled.engine, Period(date(2026, 10, 24), date(2026, 10, 26), BERLIN))
    assert [*spring.days.values()] == [96, 92, 96]
    assert [*autumn.days.values()] == [96, 100, 96]


def test_quarters_that_cut_no_day_are_refused() -> None:
    """Monrovia was 44 minutes and 30 seconds behind until 1972."""
    with pytest.raises(ValueError, match="quarter of an hour"):
        edges(Period.month("1971-06", ZoneInfo("Africa/Monrovia")))


def test_periods() -> None:
    """A month's previous is the month before; that of other days, as many right before; weeks begin on Monday."""
    assert Period.month("2026-03", UTC_ZONE).previous.name == "2026-02"
    assert Period(date(2026, 3, 3), date(2026, 3, 9), UTC_ZONE).previous.name == "2026-02-24..2026-03-02"
    assert label_of(date(2026, 1, 1), "week") == "2026-W01"
    assert label_of(date(2027, 1, 1), "week") == "2026-W53"
    for wrong in ("2026-13", "November", "2026-1"):
        with pytest.raises(ValueError):
            Period.month(wrong, UTC_ZONE)


# --- cuts


def _anything(chance: random.Random, filled: Filled, uses: int) -> int:
    """Fills a ledger at random around November; returns the sum of what is November in UTC."""
    whole = 0
    for _ in range(uses):
        moment = at("2026-10-29 00:00") // 10**9 + 900 * chance.randrange(36 * 96)
        when = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")
        nano = chance.choice([None, 0, 1, chance.randrange(10**6), chance.randrange(2**53, 2**55)])
        fields: dict[str, Any] = {
            "team": chance.choice([None, "search", "=cmd", "docs"]),
            "model": chance.choice(["gpt-4o", "claude"]),
            "known": chance.choice(["observed", "estimated", "unknown"]),
            "tags": chance.choice([{}, {"env": "prod"}, {"env": "dev", "user": f"u{chance.randrange(3)}"}]),
            "cost_centre": chance.choice([None, "CC1"]),
        }
        filled.use(when, nano, chance.randrange(1, 5), **fields)
        filled.exchange(when, team=fields["team"], tags=fields["tags"])
        whole += nano or 0 if when.startswith("2026-11") else 0
    return whole


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    by=st.lists(st.sampled_from([*DIMENSIONS, "day", "week", "month", "tag:env"]), max_size=3),
)
def test_every_cut_adds_up_to_the_ledger(seed: int, by: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """In every zone and by whatever is cut, the lines' sums are the ledger's own, to the nano-dollar."""
    filled = Filled(open_ledger("sqlite:///ledger.db", tmp_path_factory.mktemp("ledger")))
    whole = _anything(random.Random(seed), filled, 40)
    filled.write()
    assert again(filled.engine).sums.nanodollars == whole
    for zone in ZONES:
        period = Period.month("2026-11", ZoneInfo(zone))
        found = again(filled.engine, period, by=tuple(by) or ("team",))
        with filled.engine.begin() as db:
            q = tables.quarters.c
            within = (q.quarter >= period.start_s // 900, q.quarter < period.end_s // 900)
            query = select(func.sum(q.nanodollars), func.sum(q.attempts), func.sum(q.unpriced)).where(*within)
            ledger = [int(value or 0) for value in db.execute(query).one()]
        lines = total(Cell(date.min, Belonging(), line.sums) for line in found.lines)
        for sums in (found.sums, lines):
            assert [sums.nanodollars, sums.attempts, sums.unpriced] == ledger
        assert sum(found.days.values()) == ledger[0]
        assert sections(found)[1].total is not None


def test_reports_read_what_ingest_wrote(home: Path, engine: Engine) -> None:
    """From the journal to the report: same cost, same identity, same arms and savings."""
    from proxy.ledger.ingest import Ingest
    from proxy.ledger.labels import Accounts, Billing
    from tests.ledger.told import NOON, exchange_id, journal, whole

    records = [record for number in range(5) for record in whole(exchange_id(number), cost=1_000 + number)]
    journal(home, *records)
    accounts = Accounts(lambda key, team, project: ("CC1", "6000"), lambda name: Billing("openai", "org-1", "proj_a"))
    ingest = Ingest(engine, home, clock=lambda: NOON + 10**13, accounts=accounts)
    while not ingest.step().caught_up:
        pass
    found = again(engine, by=("team", "cost_centre", "gl_account", "provider", "provider_project", "tag:env"))
    assert costs(found) == {("search", "CC1", "6000", "openai", "proj_a", "prod"): 5_010}
    assert (found.sums.exchanges, found.sums.attempts, found.sums.unpriced) == (5, 5, 0)


def test_subtotals_and_untagged_lines(filled: Filled) -> None:
    """Observed, estimated, unknown and unpriced exclude each other; what nobody can be charged with has its line."""
    filled.use("2026-11-03 10:00", 100)
    filled.use("2026-11-03 10:00", 20, known="estimated", tags={"env": "prod"})
    filled.use("2026-11-03 10:00", 3, known="unknown", team=None)
    filled.use("2026-11-03 10:00", None, 7, team=None)
    found = told(filled, by=("tag:env",))
    sums = found.sums
    assert (sums.observed, sums.estimated, sums.unknown, sums.unpriced, sums.nanodollars) == (100, 20, 3, 7, 123)
    assert (found.untagged.nanodollars, found.untagged.unpriced) == (3, 7)
    assert costs(found) == {(UNTAGGED,): 103, ("prod",): 20}
    summary = {str(row[0]).strip(): row[1:3] for row in sections(found)[0].rows}
    assert summary["Untagged"] == (3, 8)
    assert summary["unpriced"] == (None, 7)


def test_exchanges_show_where_they_can_be_told(filled: Filled) -> None:
    """An exchange has a team and no model: it counts in a cut by team, and makes no line of its own in one by model."""
    filled.use("2026-11-03 10:00", 100)
    filled.exchange("2026-11-03 10:00", 4)
    filled.write()
    by_team, by_model = again(filled.engine, by=("team",)), again(filled.engine, by=("model",))
    assert [(line.group, line.sums.exchanges) for line in by_team.lines] == [(("search",), 4)]
    assert [line.group for line in by_model.lines] == [("gpt-4o",)]


def test_conditions(quick: Filled) -> None:
    """Patterns and lists; all conditions hold; nothing stands for what isn't there."""
    for team, env in (("search", "prod"), ("docs", "prod"), ("data", "dev"), (None, "dev")):
        quick.use("2026-11-03 10:00", 10, team=team, tags={"env": env})
    quick.write()

    def teams(*conditions: str) -> set[str]:
        return {group[0] for group in costs(again(quick.engine, where=Where.parse(conditions)))}

    assert teams("team=d*") == {"docs", "data"}
    assert teams("team=search,data", "tag:env=dev") == {"data"}
    assert teams(f"team={NONE}") == {NONE}
    for wrong in ("team", "team=", "colour=red"):
        with pytest.raises(ValueError):
            Where.parse([wrong])
    with pytest.raises(ValueError, match="tag:NAME"):
        reader("tem")


def test_unit_costs(quick: Filled) -> None:
    """By exchange, by attempt, by a thousand tokens, and by each value of a tag, rounded half up."""
    for user in ("ann", "bob", "bob"):
        quick.use("2026-11-03 10:00", 1_000, tags={"user": user}, input_tokens=100, output_tokens=20)
    quick.exchange("2026-11-03 10:00", 2)
    found = told(quick, users="user")
    rows = {str(row[0]): row[1:3] for row in sections(found)[0].rows}
    assert rows["Per exchange"] == (1_500, 2)
    assert rows["Per attempt"] == (1_000, 3)
    assert rows["Per 1,000 tokens"] == (8_333, 360)
    assert rows["Per user"] == (1_500, 2)


# --- what crosses the end of a period


def test_accruals_of_an_open_month(filled: Filled) -> None:
    """A batch sent in November and settled in December costs December; November's report shows it, and so does
    December's."""
    filled.attempt("2026-11-30 22:00", "2026-12-01 03:30", 500, tier="batch")
    filled.attempt("2026-11-30 23:59", "2026-12-01 00:01", 40)
    filled.attempt("2026-12-01 10:00", "2026-12-01 10:01", 6)
    november, december = told(filled), again(filled.engine, Period.month("2026-12", UTC_ZONE))
    assert november.sums.nanodollars == 0
    assert november.accrued is not None
    assert december.accrued is not None
    assert (november.accrued.settled, november.accrued.settled_attempts) == (540, 2)
    assert (december.sums.nanodollars, december.accrued.carried, december.accrued.carried_attempts) == (546, 540, 2)
    assert (november.accrued.carried, december.accrued.settled) == (0, 0)


def test_a_closed_month_is_the_same_for_ever(home: Path, engine: Engine) -> None:
    """What is settled later, other budgets, and the time at which one asks don't change a byte of it."""
    from proxy.ledger.ingest import Ingest
    from proxy.ledger.reporting.page import to_html
    from proxy.ledger.reporting.plain import to_csv, to_json
    from proxy.ledger.reporting.workbook import to_xlsx
    from tests.ledger.told import SECOND, exchange_id, journal, reserved, settled, whole

    def ingested(now: str) -> None:
        ingest = Ingest(engine, home, clock=lambda: at(now))
        while not ingest.step().caught_up:
            pass

    def written(now_s: float, budget: int = 100) -> list[bytes]:
        found = again(engine, now_s=now_s, compare=True, budgets=(Budget("teams", (), (Limit("usd", budget, 0),)),))
        parts = sections(found)
        return [to_json(found, parts), to_xlsx(parts), to_html(parts), *(to_csv(part) for part in parts)]

    november = at("2026-11-10 12:00")
    sent = [reserved(exchange_id(90), at("2026-11-30 23:50"))]
    journal(home, *whole(exchange_id(1), november), *whole(exchange_id(2), november + SECOND), *sent)
    ingested("2026-12-01 00:10")
    open_ = written(float(at("2026-12-01 00:20") // 10**9))
    budgets = (Budget("teams", (), (Limit("usd", 100, 0),)),)
    closing.close(engine, closing.month("2026-11"), at("2026-12-02 00:00"), budgets=budgets)
    first = written(float(at("2026-12-02 00:00") // 10**9))
    late = settled(exchange_id(90), at("2026-12-02 03:00"), nanodollars=99_000)
    journal(home, *whole(exchange_id(3), november + 2 * SECOND), late, started_ns=november + 1)
    ingested("2027-02-01 00:00")
    assert written(float(at("2027-02-01 00:00") // 10**9), budget=999) == first
    assert first != open_
    december = again(engine, Period.month("2026-12", UTC_ZONE))
    assert december.sums.nanodollars == 99_000 + 7_000
    assert december.accrued is not None
    assert (december.accrued.carried_attempts, december.accrued.carried) == (2, 106_000)


# --- comparisons


@given(st.integers(0, 10**15), st.integers(0, 10**12), st.integers(0, 10**15), st.integers(0, 10**12))
def test_price_and_volume_are_the_difference(before: int, old: int, now: int, new: int) -> None:
    """To the nano-dollar, whatever they are; the same unit price has no price effect."""
    found = effect(("m",), Sums(input_tokens=old, observed=before), Sums(input_tokens=new, observed=now))
    assert found.volume + found.price == now - before
    same = effect(("m",), Sums(input_tokens=old, observed=7 * old), Sums(input_tokens=new, observed=7 * new))
    assert same.price == 0


def test_price_and_volume() -> None:
    """Twice the tokens at 1.5 times the price: 100 dollars more for volume, 100 more for price."""
    before = [
        Cell(date(2026, 10, 1), Belonging(model="m", known="observed"), Sums(input_tokens=100, observed=100 * DOLLAR))
    ]
    now = [
        Cell(date(2026, 11, 1), Belonging(model="m", known="observed"), Sums(input_tokens=200, observed=300 * DOLLAR))
    ]
    (found,) = effects(before, now)
    assert (found.volume, found.price) == (100 * DOLLAR, 100 * DOLLAR)


def test_compared_with_the_previous_month(filled: Filled) -> None:
    """Lines show both, what is gone stays visible, movers are ordered by how much."""
    filled.use("2026-10-03 10:00", 500, team="old")
    filled.use("2026-10-03 10:00", 100)
    filled.use("2026-11-03 10:00", 400)
    found = told(filled, compare=True)
    parts = {part.key: part for part in sections(found)}
    spend = parts["spend"]
    index = [column.key for column in spend.columns].index("before")
    assert [(row[0], row[1], *row[index : index + 2]) for row in spend.rows] == [
        ("search", 400, 100, 300),
        ("old", 0, 500, -500),
    ]
    assert spend.total is not None
    assert spend.total[index : index + 2] == (600, -200)
    assert [(mover.group[0], mover.change) for mover in found.movers] == [("old", -500), ("search", 300)]
    assert sum(item.change for item in found.effects) == -200


# --- budgets


def test_limits_as_written() -> None:
    """The forms that a policy file may hold; anything else is none."""
    assert limit_of("500 USD/month") == Limit("usd", 500 * DOLLAR, 0)
    assert limit_of("$1,234.5/week") == Limit("usd", 1_234_500_000_000, 604_800)
    assert limit_of("2M tokens/day") == Limit("tok", 2_000_000, 86_400)
    assert limit_of("100 USD/rolling 30d") == Limit("usd", 100 * DOLLAR, 30 * 86_400)
    assert limit_of("60 requests per minute") == Limit("req", 60, 60)
    assert limit_of("5 USD") is None
    assert limit_of("5 USD/fortnight") is None


@pytest.mark.parametrize(
    "text", ["500 USD/month", "$0.5/day", "2M tokens/day", "500 USD/rolling 30d", "9k requests/hour"]
)
def test_limits_mean_what_the_budget_takes_them_for(text: str) -> None:
    """The report's reading of a limit is the policy's own."""
    from policies.budget.limits import parse

    ours, theirs = limit_of(text), parse(text)
    assert ours is not None
    assert (ours.unit, ours.amount) == (theirs.unit, theirs.amount)


def test_a_limit_for_a_period() -> None:
    """By the month it counts whole for a month and in part for days; by the day, once for each."""
    week = Period(date(2026, 11, 24), date(2026, 12, 1), UTC_ZONE)
    assert Limit("usd", 3_100, 0).of(NOVEMBER) == 3_100
    assert Limit("usd", 9_300, 0).of(week) == 9_300 * 7 // 30 + 9_300 // 31
    assert Limit("usd", 10, 86_400).of(NOVEMBER) == 300


def test_budget_against_actual(quick: Filled) -> None:
    """Subjects with overrides, top-ups that still count, what nobody named, and those who spent nothing."""
    budget = Budget(
        "teams",
        ("team",),
        (Limit("usd", 1_000, 0),),
        (("docs", Limit("usd", 300, 0)),),
        (Extra("search", "usd", 50, date(2026, 11, 15)), Extra("search", "usd", 7, date(2026, 10, 15))),
    )
    quick.use("2026-11-03 10:00", 2_100)
    quick.use("2026-11-03 10:00", 10, team=None)
    found = told(quick, budgets=(budget,))
    rows = [(actual.subject, actual.limit, actual.spent, actual.left) for actual in found.budgets]
    assert rows == [("search", 1_050, 2_100, -1_050), ("(none)", 1_000, 10, 990), ("docs", 300, 0, 300)]


def test_budgets_come_from_the_policy_files(tmp_path: Path) -> None:
    """As they are resolved, with the rows of the file that finance owns."""
    from proxy.config.loading import load

    (tmp_path / "weir.yaml").write_text(
        "version: 1\nupstreams: {openai: {url: https://api.openai.com/v1}}\npolicies: policies.yaml\n"
    )
    (tmp_path / "policies.yaml").write_text(
        "version: 1\npolicies:\n  - use: budget\n    name: teams\n    per: team\n    limit: 500 USD/month\n"
        "    overrides: {search: 4000 USD/month}\n    limits_from: limits.csv\n"
    )
    (tmp_path / "limits.csv").write_text(
        "subject,limit,top_up,expires\ndocs,800 USD/month,,\ndocs,,50 USD,2026-12-15\n"
    )
    (budget,) = budgets_of(load(tmp_path / "weir.yaml", {}))
    assert (budget.name, budget.per) == ("teams", ("team",))
    for subject, amount in (("search", 4000), ("docs", 850), ("other", 500)):
        assert budget.of(subject, NOVEMBER) == [("usd", amount * DOLLAR)]


# --- forecast and anomalies


def _daily(first: date, days: int, amount: Callable[[date], int]) -> dict[date, int]:
    return {first + timedelta(days=n): amount(first + timedelta(days=n)) for n in range(days)}


def test_a_steady_week_is_forecast_closely() -> None:
    """The same every weekday, little at weekends: what is left of the month is what those days cost, within 3 %."""

    def amount(day: date) -> int:
        return 100 if day.weekday() < 5 else 20

    now_s = float(midnight_s(date(2026, 11, 16), UTC_ZONE))
    daily = _daily(date(2026, 9, 21), 56, amount)
    found = forecast(daily, NOVEMBER, now_s)
    assert found is not None
    spent = sum(amount(day) for day in NOVEMBER.days if day.day < 16)
    rest = sum(amount(day) for day in NOVEMBER.days if day.day >= 16)
    assert found.spent == spent
    assert abs(found.expected - spent - rest) <= 0.03 * rest
    assert found.low <= spent + rest <= found.high


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_holds_what_it_promises(seed: int) -> None:
    """Of 200 noisy months with a weekly pattern, about nine tenths end within the interval of their 15th day."""
    chance = random.Random(seed)
    inside = 0
    for _ in range(200):
        daily = _daily(
            date(2026, 9, 1), 91, lambda day: round((1e6 if day.weekday() < 5 else 4e5) * chance.gauss(1, 0.2))
        )
        past = {day: amount for day, amount in daily.items() if day < date(2026, 11, 16)}
        found = forecast(past, NOVEMBER, midnight_s(date(2026, 11, 16), UTC_ZONE))
        assert found is not None
        inside += found.low <= sum(daily[day] for day in NOVEMBER.days) <= found.high
    assert 160 <= inside <= 195, f"seed {seed}"


def test_forecasts_that_cant_be_made(quick: Filled) -> None:
    """Too few days: none. A month that is over: what it cost. A closed one isn't forecast."""
    daily = {date(2026, 11, day): 10 for day in (1, 2, 3)}
    assert forecast(daily, NOVEMBER, midnight_s(date(2026, 11, 4), UTC_ZONE)) is None
    over = forecast(daily, NOVEMBER, NOVEMBER.end_s)
    assert over is not None
    assert (over.expected, over.low, over.high) == (30, 30, 30)
    for day in range(1, 11):
        quick.use(f"2026-11-{day:02d} 10:00", DOLLAR)
    found = told(quick, now_s=float(midnight_s(date(2026, 11, 11), UTC_ZONE)))
    assert found.forecast is not None
    assert found.forecast.expected == 30 * DOLLAR


def test_the_running_day_counts_for_what_is_left_of_it() -> None:
    """At noon half a day is still to come."""
    daily = _daily(date(2026, 10, 1), 31 + 14, lambda day: 1_000)
    noon = midnight_s(date(2026, 11, 15), UTC_ZONE) + 43_200
    found = forecast(daily | {date(2026, 11, 15): 500}, NOVEMBER, noon)
    assert found is not None
    assert found.expected == 14 * 1_000 + 500 + 500 + 15 * 1_000


@pytest.mark.parametrize(
    ("share", "freedom", "expected"),
    [(0.975, 10, 2.2281), (0.95, 27, 1.7033), (0.95, 4, 2.1318), (0.975, 1, 12.706), (0.975, 2, 4.3027)],
)
def test_quantiles_of_students_t(share: float, freedom: int, expected: float) -> None:
    """Against the published table."""
    assert t_quantile(share, freedom) == pytest.approx(expected, rel=5e-3)


def test_anomalies_are_days_unlike_their_weekdays() -> None:
    """A quiet Sunday is usual, ten times a Tuesday isn't; a team's day is judged by itself."""

    def cells(team: str, odd: dict[date, int]) -> list[Cell]:
        who = Belonging(team=team, known="observed")
        days = [date(2026, 9, 1) + timedelta(days=n) for n in range(91)]
        usual = {day: DOLLAR * (10 if day.weekday() < 5 else 1) + day.day * 10**7 for day in days}
        return [Cell(day, who, Sums(attempts=1, observed=amount)) for day, amount in (usual | odd).items()]

    both = cells("search", {date(2026, 11, 10): 100 * DOLLAR}) + cells("docs", {})
    (found,) = anomalies(both, ("team",), NOVEMBER.first, NOVEMBER.last)
    assert (found.day, found.group, found.nanodollars) == (date(2026, 11, 10), ("search",), 100 * DOLLAR)
    assert found.usual == pytest.approx(10 * DOLLAR, rel=0.05)


# --- savings


def test_savings_are_net_of_overhead(filled: Filled) -> None:
    """A judge that the policy started is deducted, a call that it shared between clients isn't."""
    filled.saving("2026-11-03 10:00", 1_000)
    filled.saving("2026-11-03 10:15", 500, known="observed")
    filled.use("2026-11-03 10:00", 300, kind="judge", started_by="cache")
    filled.use("2026-11-03 10:00", 9_000, kind="shared", started_by="cache")
    filled.use("2026-11-03 10:00", 70, kind="shadow", started_by="cascade")
    found = told(filled)
    assert [(claim.policy, claim.gross, claim.overhead, claim.net) for claim in found.claims] == [
        ("cache", 1_500, 300, 1_200),
        ("cascade", 0, 70, -70),
    ]


def test_observed_savings_hold_the_truth() -> None:
    """Treated exchanges cost 30 % less: in 95 of 100 draws the interval holds what was really saved."""
    held = 0
    for seed in range(100):
        chance = random.Random(seed)
        costs_ = {"treated": [chance.lognormvariate(14, 1) * 0.7 for _ in range(2_000)]}
        costs_["holdout"] = [chance.lognormvariate(14, 1) for _ in range(400)]
        who = Belonging(tenant="t", key="k")
        arms = [
            Arm("cache", arm, who, len(own), round(sum(own)), sum((round(x) // 10_000) ** 2 for x in own))
            for arm, own in costs_.items()
        ]
        (found,) = observed(arms, [])
        truth = 2_000 * 0.3 * 1_202_604 * 1.6487
        assert found.low is not None
        assert found.high is not None
        assert not found.by_key
        held += found.low <= truth <= found.high
    assert 88 <= held <= 99


def test_observed_savings_of_whole_keys() -> None:
    """Where each key is in one arm, keys are what was drawn: their scatter makes the interval, not exchanges."""
    arms = []
    for index in range(20):
        arm, mean = ("holdout", 2_000_000) if index < 8 else ("treated", 1_000_000)
        mean += 100_000 * (index % 4)
        arms.append(Arm("cache", arm, Belonging(key=f"k{index}"), 1_000, 1_000 * mean, 1_000 * (mean // 10_000) ** 2))
    (found,) = observed(arms, [])
    assert found.by_key
    assert found.net == 12_000 * 1_000_000
    assert found.low is not None
    assert found.low < found.net - 10**9


def test_arms_come_from_the_ledger(filled: Filled) -> None:
    """Both arms over the whole period, in the zone's days; one arm alone says nothing."""
    filled.arm("2026-10-31 23:15", "treated", [100_000] * 10, key="k1")
    filled.arm("2026-11-10 10:00", "treated", [100_000, 120_000] * 5, key="k1")
    filled.arm("2026-11-10 10:00", "holdout", [300_000, 310_000] * 4, key="k1")
    filled.arm("2026-11-10 10:00", "treated", [1], policy="other", key="k1")
    found = told(filled, Period.month("2026-11", BERLIN))
    (effect_,) = found.observed
    assert (effect_.policy, effect_.treated, effect_.held_out) == ("cache", 20, 8)
    assert effect_.net == ((305_000 - 105_000) * 20)
    assert again(filled.engine).observed[0].treated == 10


def test_a_cut_by_time_is_in_order(quick: Filled) -> None:
    """Days, weeks and months come as time goes, not by amount."""
    for day, amount in ((3, 1), (10, 500), (17, 20)):
        quick.use(f"2026-11-{day:02d} 10:00", amount)
    found = told(quick, by=("week", "model"))
    assert [line.group for line in found.lines] == [(f"2026-W{week}", "gpt-4o") for week in (45, 46, 47)]


def test_one_snapshot(url: str, home: Path, filled: Filled) -> None:
    """What is written while a report is made isn't in half of it."""
    filled.use("2026-11-03 10:00", 100)
    filled.write()
    reader_ = engine_of(url, home, reading=True)
    with reading(reader_) as source:
        before = total(source.cells(NOVEMBER)).nanodollars
        with filled.engine.begin() as db:
            db.execute(tables.days.update().values(nanodollars=999))
        assert total(source.cells(NOVEMBER)).nanodollars == before == 100
    reader_.dispose()


def test_cutting_keeps_each_cell_once() -> None:
    """A cell is in one line, whatever its names are."""
    cells = [
        Cell(date(2026, 11, 1), Belonging(team=name, known="observed"), Sums(observed=1)) for name in (None, NONE, "a")
    ]
    assert sum(line.sums.observed for line in cut(cells, ("team",))) == 3
