"""Why a day of a project and model differs: the causes, in the order in which they are thought of.

Rules: pure. Each cause is a question that the two books can answer; the first that fits is named, with the numbers
that speak for it. What none fits is named for what it is: more was billed than went through Weir (a key is used
elsewhere), or less than was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from statistics import median
from typing import Final

import msgspec

from proxy.ledger.reconciling.books import CLOSE, Billed, Books, Key, Recorded, Repeats, near
from proxy.ledger.reporting.amounts import readable

CAUSES: Final[dict[str, str]] = {
    "rounding": "less than any invoice shows",
    "duplicate_in_export": "the same line stands in the export more than once",
    "duplicate_in_ledger": "the provider's request ids stand in the ledger more than once",
    "credit": "a credit, discount or refund, which the ledger doesn't know",
    "tax": "a tax, which the ledger doesn't know",
    "fee": "a fee that isn't metered by the request: tools, storage, training",
    "fee_in_model": "a fee that the ledger counts with the model that caused it",
    "not_understood": "a line that names no model",
    "day_missing_in_export": "the export has nothing of that day",
    "day_missing_in_ledger": "the ledger has nothing of that day: was the proxy bypassed, or its journal not ingested?",
    "export_not_final": "the export's last day isn't complete yet",
    "export_incomplete": "the export's last page says that more follow",
    "project_outside_weir": "nothing of that project goes through Weir",
    "model_outside_weir": "nothing of that model goes through Weir",
    "key_outside_weir": "more was billed than went through Weir: a key of the project is used elsewhere, too",
    "missing_in_export": "recorded, and not billed",
    "missing_in_ledger": "billed, and not recorded that day",
    "less_billed": "less was billed than recorded",
    "unpriced": "the ledger has attempts without a known price",
    "estimated": "the ledger's cost is an estimate there",
    "utc_day_edge": "billed on the day beside: sent before midnight, settled after it",
    "batch_day": "a batch, billed on another day than it was settled",
    "time_zone": "the days of the export are cut elsewhere: the sums agree, the days don't",
    "other_project": "billed to another project: which one does the key belong to?",
    "other_model": "billed under another model's name",
    "tier": "billed at another service tier",
    "residency": "billed with the surcharge for data residency, 1.1 times",
    "long_context": "billed at the rate of long contexts",
    "amount_unit": "cents were taken for dollars, or the other way round",
    "contract_price": "another price on every day: a contract, or a discount?",
    "price_change": "another price from a day on",
    "meter_price": "another price of one kind of token",
    "cached_as_full": "cached input was billed at the full price",
}


class Finding(msgspec.Struct, frozen=True):
    """A part of the difference, and why it may be there. `residual` is billed less recorded, in nano-dollars."""

    day: date
    project: str
    model: str
    cause: str
    residual: int
    text: str


class Named(msgspec.Struct, frozen=True):
    """A cause, and the numbers that speak for it."""

    cause: str
    text: str = ""


class Case:
    """One difference, with everything that there is to ask."""

    def __init__(self, books: Books, key: Key, repeats: Repeats) -> None:
        self.books, self.key, self.repeats = books, key, repeats
        self.residual = books.residual(key)
        self.recorded = books.recorded.get(key) or Recorded()
        self.billed = books.billed.get(key) or Billed()
        self.ratio = books.ratio(key)


Question = Callable[[Case], Named | None]


def finding(books: Books, key: Key, repeats: Repeats) -> Finding:
    """The finding of one key; its books differ."""
    case = Case(books, key, repeats)
    named = next(found for question in QUESTIONS if (found := question(case)) is not None)
    text = f"{CAUSES[named.cause]}{f' ({named.text})' if named.text else ''}"
    return Finding(key.day, key.project, key.model, named.cause, case.residual, text)


# --- whole days, projects, models


def _rounding(case: Case) -> Named | None:
    return None if case.books.differs(case.key) else Named("rounding")


def _shifted(case: Case) -> Named | None:
    shift = case.books.export.shifted_s
    said = f"its days begin at {shift // 3600:02d}:{shift % 3600 // 60:02d} UTC"
    return Named("time_zone", said) if shift else None


def _whole_day(case: Case) -> Named | None:
    books, day = case.books, case.key.day
    recorded, billed = books.day_sums(day)
    if not billed and recorded:
        last = day == books.last or all(not books.day_sums(other)[1] for other in books.export.days if other > day)
        incomplete = books.export.incomplete and last
        return Named("export_incomplete" if incomplete else "export_not_final" if last else "day_missing_in_export")
    if billed and not recorded and not any(key.day == day for key in books.recorded):
        return Named("day_missing_in_ledger")
    if day == books.last and len(books.export.days) > 1 and billed < 0.8 * recorded and case.residual < 0:
        return Named("export_not_final", f"{100 * billed / recorded:.0f} % of what was recorded")
    return None


def _outside(case: Case) -> Named | None:
    if case.key.project not in case.books.projects:
        return Named("project_outside_weir")
    return Named("model_outside_weir") if case.key.model not in case.books.models else None


# --- the same amount elsewhere


def _time_zone(case: Case) -> Named | None:
    books = case.books
    series = books.series(case.key)
    residuals = [books.residual(key) for key in series]
    recorded = sum(books.recorded[key].nanodollars for key in series if key in books.recorded)
    off = sum(books.differs(key) for key in series)
    agree = abs(sum(residuals)) <= CLOSE * recorded and sum(map(abs, residuals)) > 2 * CLOSE * recorded
    return Named("time_zone") if len(series) >= 4 and 2 * off > len(series) and agree else None


def _moved(case: Case) -> Named | None:
    books, key = case.books, case.key
    batch = "batch" in case.recorded.tiers or "batch" in case.billed.tiers
    if other := books.opposite(key, books.neighbours(key, 3 if batch else 1)):
        batch = batch or "batch" in (books.recorded.get(other) or Recorded()).tiers
        return Named("batch_day" if batch else "utc_day_edge", f"{other.day}")
    projects = [key._replace(project=project) for project in sorted({k.project for k in books.keys} - {key.project})]
    if other := books.opposite(key, projects):
        return Named("other_project", other.project)
    models = [key._replace(model=model) for model in sorted({k.model for k in books.keys} - {key.model})]
    other = books.opposite(key, models)
    return Named("other_model", other.model) if other else None


# --- one side only


def _one_side(case: Case) -> Named | None:
    sums = case.recorded.sums
    if not case.billed.nanodollars and case.recorded.nanodollars:
        if near(sums.estimated + sums.unknown, sums.nanodollars):
            return Named("estimated", "nothing was billed")
        return Named("export_incomplete" if case.books.export.incomplete else "missing_in_export")
    if not case.recorded.nanodollars and case.billed.nanodollars:
        return _unpriced(case) or Named("missing_in_ledger")
    return None


def _unpriced(case: Case) -> Named | None:
    count = case.recorded.sums.unpriced
    return Named("unpriced", f"{count:,} of {case.recorded.sums.attempts:,}") if count and case.residual > 0 else None


# --- both sides, at another price


def _price(case: Case) -> Named | None:
    ratio = case.ratio
    if ratio is None:
        return None
    if any(abs(ratio / factor - 1) < CLOSE for factor in (100, 0.01)):
        return Named("amount_unit", f"{ratio:g} times")
    if named := _repeated(case) or _at_tier(case, ratio):
        return named
    if "200k-1M" in case.billed.contexts and ratio > 1:
        return Named("long_context", "200k-1M")
    if abs(ratio / 1.1 - 1) < CLOSE / 5:
        return Named("residency", f"{ratio:.3f} times")
    return _always(case, ratio) or _since(case, ratio)


def _repeated(case: Case) -> Named | None:
    if case.residual < 0 and near(case.repeats(case.key), -case.residual, 0.02):
        return Named("duplicate_in_ledger", readable(-case.residual))
    return None


def _at_tier(case: Case, ratio: float) -> Named | None:
    """Batch and flex are half the price: some or all of it was billed at the other one."""
    ours, theirs = {tier for tier in case.recorded.tiers if tier != "default"}, case.billed.tiers
    said = f"{', '.join(sorted(theirs)) or 'standard'} billed, {', '.join(sorted(ours)) or 'standard'} recorded"
    if any(abs(ratio / factor - 1) < CLOSE for factor in (0.5, 2)) and (ours or theirs or ratio < 1):
        return Named("tier", said)
    cheap = sum(case.recorded.tiers.get(tier, 0) for tier in ("batch", "flex"))
    if ours != theirs and cheap and near(cheap, case.residual, 0.02):
        return Named("tier", said)
    return Named("tier", said) if theirs - ours else None


def _always(case: Case, ratio: float) -> Named | None:
    ratios = _ratios(case)
    if len(ratios) >= 3 and all(abs(other / ratio - 1) < CLOSE for _, other in ratios):
        return Named("contract_price", f"{ratio:.3f} times the recorded one")
    return None


def _since(case: Case, ratio: float) -> Named | None:
    """The days before agree, those from a day on differ alike."""
    ratios = _ratios(case)
    same = [abs(other / ratio - 1) < CLOSE for _, other in ratios]
    start = same.index(True)
    before = [abs(other - 1) < CLOSE for _, other in ratios[:start]]
    if all(same[start:]) and len(same) - start >= 2 and before and all(before):
        return Named("price_change", f"{ratio:.3f} times since {ratios[start][0]}")
    return None


def _ratios(case: Case) -> list[tuple[date, float]]:
    pairs = [(key.day, case.books.ratio(key)) for key in case.books.series(case.key)]
    return [(day, ratio) for day, ratio in pairs if ratio is not None]


def _one_meter(case: Case) -> Named | None:
    """Against what a token of each kind was billed at on the other days."""
    usual = {meter: price for meter in case.billed.meters if (price := _usual(case, meter)) is not None}
    if case.recorded.tokens("cached") and "cached" not in case.billed.meters and _usual(case, "cached") is not None:
        return Named("cached_as_full", f"{case.recorded.tokens('cached'):,} tokens")
    off = []
    for meter, price in usual.items():
        tokens = case.recorded.tokens(meter)
        factor = case.billed.meters[meter] / tokens / price if tokens and price else 1.0
        if abs(factor - 1) > 2 * CLOSE:
            off.append((meter, factor))
    if len(off) == 1 and len(usual) > 1:
        return Named("meter_price", f"{off[0][0]}: {off[0][1]:.3f} times the usual one")
    return None


def _usual(case: Case, meter: str) -> float | None:
    """What a token of this kind was billed at on the other days, in nano-dollars."""
    prices = []
    for key in case.books.series(case.key):
        billed, recorded = case.books.billed.get(key), case.books.recorded.get(key)
        if key != case.key and billed and recorded and recorded.tokens(meter) and billed.meters.get(meter):
            prices.append(billed.meters[meter] / recorded.tokens(meter))
    return median(prices) if len(prices) >= 2 else None


# --- what is left


def _estimated(case: Case) -> Named | None:
    unsure = case.recorded.sums.estimated + case.recorded.sums.unknown
    if unsure and abs(case.residual) <= unsure:
        return Named("estimated", f"{readable(unsure)} of {readable(case.recorded.nanodollars)}")
    return None


def _left(case: Case) -> Named | None:
    return Named("key_outside_weir" if case.residual > 0 else "less_billed")


QUESTIONS: Final[Sequence[Question]] = (
    _rounding,
    _shifted,
    _whole_day,
    _outside,
    _time_zone,
    _moved,
    _one_side,
    _unpriced,
    _price,
    _estimated,
    _one_meter,
    _left,
)
