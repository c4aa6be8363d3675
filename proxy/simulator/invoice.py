"""The invoice: what a provider would charge for, exact, per key, model, endpoint and tier.

Input is billed when the model begins, output as it is written, so an answer that the client left is billed for what had
been produced. Refusals (4xx, 5xx) are not billed unless the fault says so. Keys appear under a label, never in full.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from proxy.simulator.reply import Bill
from proxy.simulator.usage import Tally


class Row(msgspec.Struct):
    """One line of the invoice. `partial` of the `requests` were cut before their end."""

    key: str
    model: str
    endpoint: str
    tier: str
    requests: int = 0
    partial: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    input_audio: int = 0
    input_image: int = 0
    output_image: int = 0
    output_audio: int = 0

    def add(self, tally: Tally | Row, requests: int, partial: int) -> None:
        """Add what was used; written out, as every answer comes by."""
        self.requests += requests
        self.partial += partial
        self.input += tally.input
        self.output += tally.output
        self.cached += tally.cached
        self.cache_write += tally.cache_write
        self.cache_write_1h += tally.cache_write_1h
        self.reasoning += tally.reasoning
        self.input_audio += tally.input_audio
        self.input_image += tally.input_image
        self.output_image += tally.output_image
        self.output_audio += tally.output_audio


class Statement(msgspec.Struct):
    """The whole invoice: its rows, and their sums."""

    rows: list[Row]
    total: Row

    def of(self, model: str) -> Row:
        """All rows of one model, summed."""
        return _sum([row for row in self.rows if row.model == model], model)


def label(key: str) -> str:
    """How a key appears on the invoice: its first characters and a hash."""
    return f"{key[:6]}…{sha256(key.encode()).hexdigest()[:8]}" if key else ""


def _sum(rows: list[Row], model: str) -> Row:
    total = Row("*", model, "*", "*")
    for row in rows:
        total.add(row, row.requests, row.partial)
    return total


class Invoice:
    """Adds up bills."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str, str], Row] = {}

    def charge(self, key: str, bill: Bill, produced: int) -> None:
        """Bill an answer of which `produced` output tokens had been made."""
        at = (key, bill.model, bill.endpoint, bill.tier)
        row = self._rows.get(at)
        if row is None:
            row = self._rows[at] = Row(label(key), *at[1:])
        partial = produced < bill.tally.output
        row.add(bill.tally.upto(produced) if partial else bill.tally, 1, partial)

    def statement(self) -> Statement:
        """Everything billed since the start or the last reset."""
        rows = [msgspec.structs.replace(self._rows[at]) for at in sorted(self._rows)]
        return Statement(rows, _sum(rows, "*"))

    def reset(self) -> None:
        self._rows.clear()
