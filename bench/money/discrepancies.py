"""Ways in which a provider's export differs from what was used; each is made in a copy of the right one.

A change gets the buckets and whose line it may touch; it returns nothing. What `weir reconcile` must call it stands
beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Final

from bench.money.week import LEFT_OUT, PROJECTS, result

Buckets = list[dict[str, Any]]
Change = Callable[[Buckets], None]
SEARCH, SUPPORT, LAB = PROJECTS
DAY: Final = 2  # in the middle of the week


def _lines(bucket: dict[str, Any], project: str, model: str, meter: str = "") -> Iterator[dict[str, Any]]:
    for line in bucket["results"]:
        name, _, kind = line["line_item"].partition(", ")
        dated = name.removeprefix(model)
        same = name.startswith(model) and (not dated or dated.startswith("-20"))
        if line["project_id"] == project and same and meter in ("", kind):
            yield line


def _times(bucket: dict[str, Any], factor: float, project: str, model: str, meter: str = "") -> None:
    for line in _lines(bucket, project, model, meter):
        line["amount"]["value"] *= factor


def _drop(bucket: dict[str, Any], project: str, model: str) -> None:
    gone = [id(line) for line in _lines(bucket, project, model)]
    bucket["results"] = [line for line in bucket["results"] if id(line) not in gone]


def _missing_in_export(buckets: Buckets) -> None:
    _drop(buckets[DAY], SUPPORT, "o4-mini")


def _missing_in_ledger(buckets: Buckets) -> None:
    day, project, model = LEFT_OUT
    buckets[day]["results"].append(result(project, f"{model}-2025-04-16, output", 70_000_000))


def _model_outside(buckets: Buckets) -> None:
    buckets[DAY]["results"].append(result(SEARCH, "gpt-4.1-2025-04-14, output", 70_000_000))


def _project_outside(buckets: Buckets) -> None:
    buckets[DAY]["results"].append(result("proj_other", "gpt-4o-2024-08-06, output", 70_000_000))


def _duplicate(buckets: Buckets) -> None:
    buckets[DAY]["results"].append(copy.deepcopy(next(_lines(buckets[DAY], SEARCH, "gpt-4o", "output"))))


def _other_project(buckets: Buckets) -> None:
    for line in _lines(buckets[DAY], SUPPORT, "gpt-4o", "output"):
        moved = line["amount"]["value"] / 2
        line["amount"]["value"] -= moved
        next(_lines(buckets[DAY], SEARCH, "gpt-4o", "output"))["amount"]["value"] += moved


def _other_model(buckets: Buckets) -> None:
    for line in _lines(buckets[DAY], SUPPORT, "gpt-4o", "output"):
        moved = line["amount"]["value"] / 3
        line["amount"]["value"] -= moved
        next(_lines(buckets[DAY], SUPPORT, "o4-mini", "output"))["amount"]["value"] += moved


def _day_edge(buckets: Buckets) -> None:
    for line in _lines(buckets[DAY], LAB, "gpt-4o", "output"):
        moved = line["amount"]["value"] / 10
        line["amount"]["value"] -= moved
        next(_lines(buckets[DAY - 1], LAB, "gpt-4o", "output"))["amount"]["value"] += moved


def _tier(buckets: Buckets) -> None:
    for line in _lines(buckets[DAY], LAB, "o4-mini"):
        line["amount"]["value"] /= 2
        line["line_item"] = line["line_item"].replace(",", " flex,")


def _residency(buckets: Buckets) -> None:
    _times(buckets[DAY], 1.1, SUPPORT, "gpt-4o-mini")


def _unit(buckets: Buckets) -> None:
    _times(buckets[DAY], 100, SUPPORT, "gpt-4o-mini")


def _contract(buckets: Buckets) -> None:
    for bucket in buckets:
        _times(bucket, 0.85, SUPPORT, "gpt-4o")


def _price_change(buckets: Buckets) -> None:
    for bucket in buckets[3:]:
        _times(bucket, 1.3, SEARCH, "gpt-4o")


def _meter(buckets: Buckets) -> None:
    _times(buckets[DAY], 1.25, SEARCH, "gpt-4o-mini", "output")


def _cached_as_full(buckets: Buckets) -> None:
    cached = next(_lines(buckets[DAY], SEARCH, "gpt-4o", "cached input"))
    next(_lines(buckets[DAY], SEARCH, "gpt-4o", "input"))["amount"]["value"] += 2 * cached["amount"]["value"]
    buckets[DAY]["results"].remove(cached)


def _fee(buckets: Buckets) -> None:
    buckets[DAY]["results"].append(result(SEARCH, "code interpreter sessions", 30_000_000))


def _credit(buckets: Buckets) -> None:
    buckets[DAY]["results"].append(result(SEARCH, "promotional credit", -500_000_000))


def _tax(buckets: Buckets) -> None:
    buckets[DAY]["results"].append(result(SEARCH, "VAT 19 %", 190_000_000))


def _no_day(buckets: Buckets) -> None:
    buckets[DAY]["results"] = []


def _not_final(buckets: Buckets) -> None:
    for line in buckets[-1]["results"]:
        line["amount"]["value"] *= 0.4


def _time_zone(buckets: Buckets) -> None:
    for bucket in buckets:
        bucket["start_time"] += 8 * 3600
        _times(bucket, 1.07, SEARCH, "gpt-4o")


def _key_elsewhere(buckets: Buckets) -> None:
    _times(buckets[DAY], 1.37, LAB, "gpt-4o")


def _less(buckets: Buckets) -> None:
    _times(buckets[DAY], 0.91, LAB, "gpt-4o")


def _no_model(buckets: Buckets) -> None:
    buckets[DAY]["results"].append(result(SEARCH, "various", 40_000_000))


DISCREPANCIES: Final[tuple[tuple[str, Change], ...]] = (
    ("missing_in_export", _missing_in_export),
    ("missing_in_ledger", _missing_in_ledger),
    ("model_outside_weir", _model_outside),
    ("project_outside_weir", _project_outside),
    ("duplicate_in_export", _duplicate),
    ("other_project", _other_project),
    ("other_model", _other_model),
    ("utc_day_edge", _day_edge),
    ("tier", _tier),
    ("residency", _residency),
    ("amount_unit", _unit),
    ("contract_price", _contract),
    ("price_change", _price_change),
    ("meter_price", _meter),
    ("cached_as_full", _cached_as_full),
    ("fee", _fee),
    ("credit", _credit),
    ("tax", _tax),
    ("day_missing_in_export", _no_day),
    ("export_not_final", _not_final),
    ("time_zone", _time_zone),
    ("key_outside_weir", _key_elsewhere),
    ("less_billed", _less),
    ("not_understood", _no_model),
)


def injected(buckets: Buckets, change: Change) -> Buckets:
    """A copy with one of them."""
    changed = copy.deepcopy(buckets)
    change(changed)
    return changed
