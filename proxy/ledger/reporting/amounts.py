"""Amounts as text: exact for programs, short for people; and in another currency.

Rules: pure. Converting is explicit: a rate, as a decimal number of units a dollar, and the day that it is of. Each
amount is converted and rounded once (half up, to a billionth), a total from the total in dollars.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Final

import msgspec

from proxy.ledger.reporting.section import Row, Section, Value

NANO: Final = 10**9


class Currency(msgspec.Struct, frozen=True):
    """What a dollar was worth, and when."""

    code: str
    rate: Decimal
    day: date

    @classmethod
    def parse(cls, code: str, rate: str, day: str) -> Currency:
        """From `EUR`, `0.92`, `2026-11-30`. Raises ValueError."""
        if not (len(code) == 3 and code.isascii() and code.isalpha()):
            raise ValueError(f"{code!r} is no currency; write three letters such as EUR")
        try:
            number = Decimal(rate)
        except InvalidOperation:
            number = Decimal(0)
        if not number.is_finite() or number <= 0:
            raise ValueError(f"{rate!r} is no rate; write how many {code.upper()} a dollar was worth, such as 0.92")
        try:
            return cls(code.upper(), number, date.fromisoformat(day))
        except ValueError:
            raise ValueError(f"{day!r} is no day; write the rate's, such as 2026-11-30") from None

    def of(self, nanodollars: int) -> int:
        """Billionths of this currency."""
        exact = Fraction(self.rate) * nanodollars
        return (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)

    def __str__(self) -> str:
        return f"{self.code} at {self.rate:f} a dollar, of {self.day}"


def converted(section: Section, currency: Currency | None) -> Section:
    """The section with its amounts in another currency, which its note and headings name."""
    if currency is None or not any(column.kind == "money" for column in section.columns):
        return section

    def of(row: Row) -> Row:
        return tuple(
            currency.of(value) if column.kind == "money" and isinstance(value, int) else value
            for column, value in zip(section.columns, row, strict=True)
        )

    columns = tuple(
        msgspec.structs.replace(column, title=column.title.replace("USD", currency.code)) for column in section.columns
    )
    note = "; ".join(part for part in (section.note, f"in {currency}") if part)
    total = None if section.total is None else of(section.total)
    return msgspec.structs.replace(
        section, columns=columns, rows=[of(row) for row in section.rows], total=total, note=note
    )


def exact(nano: int) -> str:
    """Billionths as a decimal number, with nine digits after the point: `0.001230000`."""
    whole, part = divmod(abs(nano), NANO)
    return f"{'-' * (nano < 0)}{whole}.{part:09d}"


def readable(nano: int) -> str:
    """For people: cents, and for amounts below a dollar the digits that matter, up to six."""
    if abs(nano) >= NANO or nano == 0:
        cents = (2 * abs(nano) + 10**7) // (2 * 10**7)
        return f"{'-' * (nano < 0)}{cents // 100:,}.{cents % 100:02d}"
    text = f"{Decimal(nano) / NANO:.6f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(2, '0')}" if part.strip("0") else f"{'-' * (nano < 0)}<0.000001"


def shown(value: Value, kind: str) -> str:
    """Any value for people; nothing for None."""
    if value is None:
        return ""
    if kind == "money":
        return readable(int(value))
    if kind == "count":
        return f"{int(value):,}"
    if kind == "share":
        return f"{100 * float(value):.1f} %"
    return str(value)
