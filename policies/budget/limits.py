"""Limits and their windows: `500 USD/month`, `2M tokens/day`, `500 USD/rolling 30d`.

Pure. Amounts are integers of the limit's unit: nano-dollars, tokens or requests. Calendar windows begin and end in the
policy file's time zone: a day there may have 23 or 25 hours, a week begins on Monday. A rolling window has no end.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from proxy.config.scalars import seconds, shown, wrong

Unit = Literal["usd", "tok", "req"]
NANO: Final = 10**9
_UNITS: Final[dict[str, Unit]] = {
    "usd": "usd",
    "$": "usd",
    "dollar": "usd",
    "dollars": "usd",
    "token": "tok",
    "tokens": "tok",
    "request": "req",
    "requests": "req",
}
_SCALES: Final = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
PERIODS: Final = ("minute", "hour", "day", "week", "month")
_ALIASES: Final = {"min": "minute", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month"}
_FORM: Final = re.compile(
    r"(?P<dollar>\$)?\s*(?P<number>\d[\d,_]*(?:\.\d+)?)\s*(?P<scale>[kKmMbB])?\s*(?P<unit>[A-Za-z$]+)?"
    r"\s*(?:/|\bper\b)\s*(?P<window>.+)"
)
_MOST: Final = 2**62
EXAMPLES: Final = ["500 USD/month", "2M tokens/day", "500 USD/rolling 30d"]
_EXPECTED: Final = "expected a limit such as 500 USD/month, 2M tokens/day or 500 USD/rolling 30d"


class Window(msgspec.Struct, frozen=True):
    """One window of a limit: its name in the key of its scope, and when it ends (0: it rolls)."""

    label: str
    ends_ns: int = 0


class Limit(msgspec.Struct, frozen=True):
    """An amount of a unit in a period. `text` is as it was written."""

    unit: Unit
    amount: int
    period: str  # one of PERIODS, or "rolling"
    span_s: int
    text: str

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.plain_serializer_function_ser_schema(lambda limit: limit.text)
        return core_schema.no_info_plain_validator_function(parse, serialization=text)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"title": "limit", "type": "string", "examples": EXAMPLES}

    def window(self, now_ns: int, zone: ZoneInfo) -> Window:
        """The window that this moment is in."""
        if self.period == "rolling":
            return Window(f"rolling{self.span_s}")
        return window(self.period, now_ns, zone)

    def with_amount(self, amount: int) -> Limit:
        """The same with another amount."""
        whole = amounts(amount, self.unit)
        return Limit(self.unit, amount, self.period, self.span_s, f"{whole}/{self.text.partition('/')[2]}")

    def __str__(self) -> str:
        return self.text


def parse(value: object) -> Limit:
    """A limit as people write it. Raises `PydanticCustomError` with an example of a right one."""
    if isinstance(value, Limit):
        return value
    match = _FORM.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        hint = "write the period after a slash" if isinstance(value, str) and re.match(r"\s*\$?\d", value) else ""
        raise wrong(f"{_EXPECTED}, found {shown(value)}", hint)
    unit = _unit(match["dollar"] or match["unit"])
    amount = quantity(match["number"], match["scale"] or "", unit)
    period, span_s = _period(match["window"].strip().lower())
    window_text = period if period != "rolling" else f"rolling {match['window'].strip().lower()[7:].strip()}"
    return Limit(unit, amount, period, span_s, f"{amounts(amount, unit)}/{window_text}")


def quantity(number: str, scale: str, unit: Unit) -> int:
    """`1.5`, `M` of a unit as an integer."""
    exact = Decimal(re.sub(r"[,_]", "", number)) * _SCALES[scale.lower()] * (NANO if unit == "usd" else 1)
    if exact != int(exact) or not 0 <= exact <= _MOST:
        raise wrong(f"{number}{scale} is no whole number of {'nano-dollars' if unit == 'usd' else 'them'}")
    return int(exact)


def amounts(amount: int, unit: Unit) -> str:
    """An amount as people write it: `500 USD`, `0.000123 USD`, `2000000 tokens`."""
    if unit == "usd":
        dollars = f"{Decimal(amount) / NANO:f}"
        return (dollars.rstrip("0").rstrip(".") if "." in dollars else dollars) + " USD"
    return f"{amount} {'tokens' if unit == 'tok' else 'requests'}"


def _unit(name: str | None) -> Unit:
    found = _UNITS.get((name or "").lower())
    if found is None:
        raise wrong(f"{_EXPECTED}, found no unit" if not name else f"{name!r} is no unit", "USD, tokens or requests")
    return found


def _period(text: str) -> tuple[str, int]:
    if text.startswith("rolling"):
        span_s = seconds(text.removeprefix("rolling").strip())
        if span_s < 60 or span_s != int(span_s):
            raise wrong("a rolling window is a minute or longer, in whole seconds", "write rolling 30d")
        return "rolling", int(span_s)
    period = _ALIASES.get(text, text)
    if period not in PERIODS:
        raise wrong(f"{text!r} is no period", "minute, hour, day, week, month, or rolling 30d")
    return period, 0


def window(period: str, now_ns: int, zone: ZoneInfo) -> Window:
    """The calendar window of a moment. Minutes and hours are cut by the zone's clock, the rest by its days."""
    now = datetime.fromtimestamp(now_ns // NANO, zone)
    if period in ("minute", "hour"):
        length = 60 if period == "minute" else 3600
        offset = int((now.utcoffset() or timedelta()).total_seconds())
        start = (now_ns // NANO + offset) // length * length - offset
        return Window(f"{period}{start}", (start + length) * NANO)
    day = now.date()
    if period == "day":
        first, after = day, day + timedelta(days=1)
    elif period == "week":
        first = day - timedelta(days=day.weekday())
        after = first + timedelta(days=7)
    else:
        first = day.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    ends = datetime(after.year, after.month, after.day, tzinfo=zone)
    label = first.strftime("%Y-%m") if period == "month" else first.isoformat()
    return Window(f"{period}{label}", int(ends.timestamp()) * NANO)


def begins_ns(limit: Limit, now_ns: int, zone: ZoneInfo) -> int:
    """When the window of this moment began; 0 for one that rolls."""
    if limit.period == "rolling":
        return 0
    if limit.period in ("minute", "hour"):
        return int(limit.window(now_ns, zone).label.removeprefix(limit.period)) * NANO
    day = datetime.fromtimestamp(now_ns // NANO, zone).date()
    first = day if limit.period == "day" else day - timedelta(day.weekday()) if limit.period == "week" else None
    first = day.replace(day=1) if first is None else first
    return int(datetime(first.year, first.month, first.day, tzinfo=zone).timestamp()) * NANO


def reset_text(ends_ns: int, zone: ZoneInfo) -> str:
    """When a window ends, for people: a day, or a time where it doesn't end at midnight."""
    ends = datetime.fromtimestamp(ends_ns // NANO, zone)
    return ends.date().isoformat() if (ends.hour, ends.minute) == (0, 0) else ends.isoformat(timespec="minutes")
