"""`budget`, its pure parts: limits and windows, the ladder, accounts, bounds, and what an attempt came to."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from policies.budget import Config
from policies.budget.accounts import Accounts, header, share, shown, subject_of
from policies.budget.cost import came_to, choices, fitting_cap, worst
from policies.budget.ladder import NOTHING, Verdict, parse, verdict, written
from policies.budget.limits import NANO, PERIODS, amounts, reset_text, window
from policies.budget.limits import parse as limit
from proxy.body import scan
from proxy.dialects import Usage
from proxy.exchange import Attempt, Exchange, Identity
from proxy.pricing import RateCard, RateCards

BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")


def ns(text: str, zone: ZoneInfo = BERLIN) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * NANO


@pytest.mark.parametrize(
    ("text", "unit", "amount", "period", "span_s"),
    [
        ("500 USD/month", "usd", 500 * NANO, "month", 0),
        ("$0.01 / day", "usd", NANO // 100, "day", 0),
        ("1,500.50 usd per week", "usd", 1_500_500_000_000, "week", 0),
        ("2M tokens/day", "tok", 2_000_000, "day", 0),
        ("100k tokens/min", "tok", 100_000, "minute", 0),
        ("1.5b tokens/month", "tok", 1_500_000_000, "month", 0),
        ("1000 requests/hour", "req", 1000, "hour", 0),
        ("500 USD/rolling 30d", "usd", 500 * NANO, "rolling", 30 * 86_400),
        ("0 USD/month", "usd", 0, "month", 0),
    ],
)
def test_limits(text: str, unit: str, amount: int, period: str, span_s: int) -> None:
    """A limit as people write it, and as it is written again."""
    found = limit(text)
    assert (found.unit, found.amount, found.period, found.span_s) == (unit, amount, period, span_s)
    assert limit(found.text) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "500", "500 USD", "500/month", "500 EUR/month", "500 USD/year", "-5 USD/day", "5 USD/rolling 10s"),
        *("1.5 tokens/day", "0.0000000001 USD/day", "5 USD/rolling", None, 5, ["5 USD/day"], "99999999999999 USD/day"),
    ],
)
def test_no_limits(text: object) -> None:
    """What isn't one is an error that shows a right one, or names what is wrong."""
    with pytest.raises(PydanticCustomError):
        limit(text)


@given(st.integers(0, 2**62), st.sampled_from(["usd", "tok", "req"]))
def test_amounts(amount: int, unit: Any) -> None:
    """Any amount is written so that it is read back exactly."""
    assert limit(f"{amounts(amount, unit)}/day").amount == amount


@pytest.mark.parametrize(
    ("period", "at", "label", "ends"),
    [
        ("month", "2026-11-30T23:59:59", "month2026-11", "2026-12-01T00:00"),
        ("month", "2026-12-01T00:00:00", "month2026-12", "2027-01-01T00:00"),
        ("week", "2026-11-29T12:00:00", "week2026-11-23", "2026-11-30T00:00"),
        ("day", "2026-03-29T12:00:00", "day2026-03-29", "2026-03-30T00:00"),
        ("day", "2026-10-25T02:30:00", "day2026-10-25", "2026-10-26T00:00"),
        ("hour", "2026-11-23T14:59:59", None, "2026-11-23T15:00"),
        ("minute", "2026-11-23T14:59:59", None, "2026-11-23T15:00"),
    ],
)
def test_windows(period: str, at: str, label: str | None, ends: str) -> None:
    """Windows begin and end by the zone's clock, also on the days that have 23 or 25 hours."""
    found = window(period, ns(at), BERLIN)
    assert found.ends_ns == ns(ends)
    assert label is None or found.label == label


def test_half_hour_zones() -> None:
    """An hour of Kolkata ends at its own full hour."""
    found = window("hour", ns("2026-11-23T14:59:59", KOLKATA), KOLKATA)
    assert found.ends_ns == ns("2026-11-23T15:00", KOLKATA)


@given(
    st.integers(0, 2**32),
    st.sampled_from(PERIODS),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Australia/Lord_Howe"]),
)
def test_windows_follow_each_other(at_s: int, period: str, zone: str) -> None:
    """Each moment is in one window: its end is later, the moment before the end is in the same, the end in the next."""
    there = ZoneInfo(zone)
    found = window(period, at_s * NANO, there)
    assert found.ends_ns > at_s * NANO
    if zone != "Australia/Lord_Howe" or period not in ("hour",):  # where an hour may be half of one
        assert window(period, found.ends_ns - NANO, there) == found
    assert window(period, found.ends_ns, there).label != found.label


def test_resets() -> None:
    """A day where it ends at midnight, else a time."""
    assert reset_text(ns("2026-12-01T00:00"), BERLIN) == "2026-12-01"
    assert reset_text(ns("2026-12-01T15:00"), BERLIN) == "2026-12-01T15:00+01:00"


LADDER = {"80%": "warn", "90%": {"use_model": "gpt-4o-mini"}, "95%": {"tier": "flex", "queue": "30s"}, "99%": "refuse"}


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (0.79, NOTHING),
        (0.8, Verdict(warned=0.8)),
        (0.94, Verdict(warned=0.8, models=(("*", "gpt-4o-mini"),))),
        (0.95, Verdict(warned=0.8, models=(("*", "gpt-4o-mini"),), tier="flex", wait_s=30.0)),
        (1.5, Verdict(warned=0.8, models=(("*", "gpt-4o-mini"),), tier="flex", wait_s=30.0, refused=0.99)),
    ],
)
def test_the_ladder(used: float, expected: Verdict) -> None:
    """All steps that were reached hold together."""
    steps = parse(LADDER)
    assert verdict(steps, used) == expected
    assert parse(written(steps)) == steps


def test_batches() -> None:
    """How long requests can wait then: a day, unless it is said."""
    steps = parse({"50%": "batch", "90%": {"batch": "2h"}})
    assert [verdict(steps, used).batch_s for used in (0.4, 0.5, 0.9)] == [None, 86_400.0, 7200.0]
    assert parse(written(steps)) == steps


def test_cheaper_models() -> None:
    """The higher step has the first word; a model isn't replaced by itself."""
    steps = parse({"50%": {"use_model": {"gpt-4o": "gpt-4o-mini"}}, "90%": {"use_model": "gpt-4.1-nano"}})
    assert verdict(steps, 0.6).model("gpt-4o") == "gpt-4o-mini"
    assert verdict(steps, 0.6).model("o3") is None
    assert verdict(steps, 0.95).model("gpt-4o") == "gpt-4.1-nano"
    assert verdict(steps, 0.95).model("gpt-4.1-nano") is None


@pytest.mark.parametrize(
    "ladder",
    [
        {"100%": {"use_model": "x"}},
        {"100%": {"tier": "flex"}},
        {"100%": "batch"},
        {"90%": {"batch": "soon"}},
        {"120%": "warn"},
        {"80": "warn"},
        {0.8: "warn"},
        {"80%": "shout"},
        {"80%": {}},
        {"80%": {"tier": "priority"}},
        {"80%": {"use_model": 5}},
        {"80%": {"warn": "loudly"}},
        ["80%"],
    ],
)
def test_no_ladders(ladder: object) -> None:
    """A step that still spends stands below 100 %; what is no step is an error."""
    with pytest.raises(PydanticCustomError):
        parse(ladder)


@pytest.mark.parametrize(
    "options",
    [
        {"per": "department"},
        {"per": "tag:"},
        {"limit": []},
        {"hard": False, "ladder": {"90%": "refuse"}},
        {"hard": False, "shrink": True},
        {"webhook": {"url": "https://example.com"}},
        {"per": ["team", "model"], "overrides": {"search": "5 USD/day"}},
        {"max_output": 0},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    """They are found when the file is read."""
    with pytest.raises(ValidationError):
        Config.model_validate({"limit": "5 USD/day", **options})


def request(model: str = "gpt-4o", tags: dict[str, str] | None = None, **identity: Any) -> Any:
    exchange = Exchange(Identity("tenant", **identity), tags=tags or {})
    return SimpleNamespace(exchange=exchange, model=model)


def test_subjects() -> None:
    """Each combination is one; what has no team has a budget of its own."""
    asked = request(team="search", tags={"run": "7"})
    assert subject_of(("team", "model", "tag:run"), asked) == ("search", "gpt-4o", "7")
    assert subject_of(("project", "tag:env"), asked) == ("(none)", "(none)")
    assert subject_of((), asked) == ()
    assert shown(("team", "tag:run"), ("search", "7")) == "team search, run 7"
    assert shown((), ()) == "everything"


def accounts(**options: Any) -> Accounts:
    return Accounts("b", Config.model_validate({"per": "team", "limit": "500 USD/month", **options}), BERLIN)


def test_scopes() -> None:
    """Keys begin with the unit and say whose, and which window; no two budgets, subjects or windows share one."""
    at = ns("2026-11-23T12:00")
    lines = accounts(limit=["500 USD/month", "1M tokens/rolling 1h"]).of(("a/b:c",), at).lines
    assert [line.scope.key for line in lines] == [
        "usd:b:team=a%2Fb%3Ac:month2026-11",
        "tok:b:team=a%2Fb%3Ac:rolling3600",
    ]
    assert lines[0].scope.ends_ns == ns("2026-12-01T00:00")
    assert (lines[1].scope.ends_ns, lines[1].scope.span_ns) == (0, 3600 * NANO)


def test_an_account_ends_with_its_window() -> None:
    """It is the same object until then, and a new scope from then on."""
    of = accounts().of
    first = of(("search",), ns("2026-11-30T23:59:59"))
    assert of(("search",), ns("2026-11-30T23:59:59")) is first
    assert of(("search",), ns("2026-12-01T00:00")).lines[0].scope.key.endswith("month2026-12")


def test_overrides() -> None:
    """One takes the place of the limit of its unit and period, and stands beside the others."""
    of = accounts(
        limit=["500 USD/month", "30 USD/day"],
        overrides={"search": ["4000 USD/month", "1M tokens/day"]},
        rows=[{"subject": "ads", "limit": "7 USD/day"}],
    )
    at = ns("2026-11-23T12:00")
    assert [str(one) for one in of.limits(("search",), at)[0]] == ["4000 USD/month", "30 USD/day", "1000000 tokens/day"]
    assert [str(one) for one in of.limits(("ads",), at)[0]] == ["500 USD/month", "7 USD/day"]
    assert [str(one) for one in of.limits(("other",), at)[0]] == ["500 USD/month", "30 USD/day"]


def test_top_ups_expire() -> None:
    """They count until their last day is over in the file's zone; then the account is made anew."""
    rows = [{"subject": "search", "top_up": "500 USD", "expires": "2026-11-25"}]
    of = accounts(rows=rows).of
    during = of(("search",), ns("2026-11-25T23:59:59"))
    assert during.lines[0].scope.limit == 1000 * NANO
    assert str(during.lines[0].limit) == "1000 USD/month"
    after = of(("search",), ns("2026-11-26T00:00"))
    assert (after.lines[0].scope.limit, after.lines[0].scope.key) == (500 * NANO, during.lines[0].scope.key)


def test_header() -> None:
    """Whose, how much of what, until when; a name that could break a header can't."""
    account = accounts().of(("se\r\nx-evil: é",), ns("2026-11-23T12:00"))
    (line,) = account.lines
    assert header(account, line, 410 * NANO, BERLIN) == (b"team se??x-evil: ?; 82% of 500 USD/month; resets 2026-12-01")
    assert share(line, 250 * NANO) == 0.5


@pytest.fixture(scope="module")
def mini(cards: RateCards) -> RateCard:
    found = cards.card("openai", "gpt-4o-mini", datetime.now(UTC))
    assert found is not None
    return found


def attempt(card: RateCard | None, endpoint: str = "chat.completions", n: int = 1, **fields: Any) -> Attempt:
    body = scan(orjson.dumps({"model": "gpt-4o-mini", **fields}))
    asked: Any = SimpleNamespace(body=body, endpoint=SimpleNamespace(name=endpoint), model="gpt-4o-mini")
    exchange: Any = None
    made = Attempt(exchange, asked, 1, "d", "u", "gpt-4o-mini", n, fields.get("max_tokens"))
    made.card = card
    return made


WORDS = [{"role": "user", "content": "one two three"}]


@given(
    text=st.text(max_size=400),
    cap=st.integers(1, 5000),
    n=st.integers(1, 4),
    used=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_the_bound_holds(mini: RateCard, text: str, cap: int, n: int, used: tuple[float, float, float]) -> None:
    """No usage within a token a byte and the cap costs more than what is reserved, on no tier that may be served."""
    most = worst(attempt(mini, n=n, messages=[{"role": "user", "content": text}], max_tokens=cap), None)
    assert most.nanodollars is not None
    assert most.tokens is not None
    size = len(text.encode("utf-8", "replace"))
    tokens_in, tokens_out = round(size * used[0]), round(n * cap * used[1])
    usage = Usage(tokens_in, tokens_out, cached_tokens=round(tokens_in * used[2]))
    for tier in (None, "default", "flex", "priority"):
        assert (mini.cost(usage, tier) or 0) <= most.nanodollars
    assert tokens_in + tokens_out <= most.tokens


def test_text_that_is_read_longer(mini: RateCard) -> None:
    """Beyond ASCII bytes bound plain text, but where a vocabulary normalises, the longer form that it may read."""
    text = "\ufdfa" * 50
    made = attempt(mini, messages=[{"role": "user", "content": text}], max_tokens=5)
    own, longer = len(text.encode()) + 60, len(unicodedata.normalize("NFKC", text).encode())
    as_sent = worst(made, None)
    made.model = "claude-sonnet-4-5"
    normalised = worst(made, None)
    assert as_sent.tokens is not None
    assert normalised.tokens is not None
    assert own <= as_sent.tokens < own + 200 < longer <= normalised.tokens


def test_what_has_no_bound(mini: RateCard) -> None:
    """No price, no maximum, tools of the provider, stored context, a form: each says why."""
    assert worst(attempt(None, messages=WORDS, max_tokens=5), None).why == "unpriced_model"
    for fields in (
        {"messages": WORDS, "web_search_options": {}},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
    ):
        assert worst(attempt(mini, **fields), None).why == "unbounded_cost"
    assert worst(attempt(mini, "responses", input="x", previous_response_id="r"), None).why == "unbounded_cost"
    assert worst(attempt(mini, "responses", input="x", tools=[{"type": "web_search"}]), None).why == "unbounded_cost"
    unknown = attempt(None, messages=WORDS)
    assert worst(unknown, None).tokens is None
    assert worst(unknown, 100).tokens is not None


def test_images_have_a_bound(mini: RateCard) -> None:
    """An image counts as the most that one can come to, whatever its size in bytes."""
    image = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
    plain = worst(attempt(mini, messages=WORDS, max_tokens=5), None)
    seen = worst(attempt(mini, messages=[{"role": "user", "content": [image]}], max_tokens=5), None)
    assert plain.tokens is not None
    assert seen.tokens is not None
    assert seen.tokens > plain.tokens + 30_000


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"content": "x", "audio": {"id": "a"}}]},
        {"messages": WORDS, "prediction": {"type": "content", "content": "words " * 500}},
        {"messages": WORDS, "tools": [{"type": "function", "function": {"name": "f", "description": "words " * 500}}]},
    ],
)
def test_what_costs_more_is_seen(mini: RateCard, fields: dict[str, Any]) -> None:
    """Sound, predictions and tools don't pass for plain text of their length."""
    plain = worst(attempt(mini, messages=WORDS, max_tokens=5), None)
    found = worst(attempt(mini, max_tokens=5, **fields), None)
    assert found.why or (found.tokens or 0) > (plain.tokens or 0)


def test_without_a_cap_the_model_has_one(mini: RateCard) -> None:
    """What the model can write at most is counted; the policy's own number only where that isn't known."""
    assert worst(attempt(mini, messages=WORDS), 7).cap == 16_384


def test_answers_are_counted() -> None:
    """Every prompt has its own answers, and all that the best is chosen from are billed."""
    body = scan(orjson.dumps({"model": "m", "prompt": ["a", "b", "c"], "best_of": 4}))
    assert choices("completions", body, 2) == 12
    assert choices("completions", scan(b'{"prompt":[1,2,3]}'), 2) == 2
    assert choices("chat.completions", body, 2) == 2


@pytest.mark.parametrize(
    ("usage", "nanodollars", "known", "mode", "expected"),
    [
        (Usage(10, 5), 70, "observed", "worst", (70, 15, 1)),
        (Usage(10, 5), 70, "estimated", "worst", (900, 900, 1)),
        (Usage(10, 5), 70, "estimated", "estimate", (70, 15, 1)),
        (None, 0, "observed", "worst", (0, 0, 0)),
        (None, 0, "unpriced", "worst", (0, 0, 0)),
        (None, 50, "unknown", "worst", (900, 900, 1)),
        (None, 50, "unknown", "estimate", (50, 900, 1)),
        (Usage(10, 5), None, "unpriced", "estimate", (900, 15, 1)),
    ],
)
def test_what_it_came_to(usage: Any, nanodollars: int | None, known: Any, mode: Any, expected: tuple[int, ...]) -> None:
    """Never 0 after it was sent, unless the upstream says that nothing was billed."""
    done = attempt(None, messages=WORDS)
    done.usage, done.nanodollars, done.known = usage, nanodollars, known
    units: tuple[Any, ...] = ("usd", "tok", "req")
    assert tuple(came_to(done, unit, 900, mode) for unit in units) == expected


@given(
    low=st.integers(0, 10**9), rate=st.integers(1, 10**5), cap=st.integers(1, 10**5), room=st.integers(0, 2 * 10**10)
)
def test_fitting_caps(low: int, rate: int, cap: int, room: int) -> None:
    """The cap that is found fits, and at most two tokens more would have."""
    found = fitting_cap(low, low + rate * cap, cap, room)
    assert 0 <= found <= cap
    assert found == 0 or low + rate * found <= room
    assert found == cap or low + rate * (found + 2) > room or room >= low + rate * (cap - 1)


def test_days_of_the_zone() -> None:
    """The day that clocks go forward is 23 hours long."""
    found = window("day", ns("2026-03-29T00:00"), BERLIN)
    assert timedelta(microseconds=(found.ends_ns - ns("2026-03-29T00:00")) / 1000) == timedelta(hours=23)
