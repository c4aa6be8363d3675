"""How budgets stand, as an operator asks for it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from policies.budget import operate
from policies.budget.limits import NANO, begins_ns
from policies.budget.limits import parse as limit
from proxy.errors import WeirError
from proxy.metrics import Snapshot
from proxy.operating import Operating
from proxy.state.memory import MemoryStore
from proxy.state.protocol import Hold, Part, Scope
from tests.plane.running import entry

BERLIN = ZoneInfo("Europe/Berlin")
NOW_NS = int(datetime(2026, 11, 11, tzinfo=BERLIN).timestamp()) * NANO  # a third of November is over
END_NS = int(datetime(2026, 12, 1, tzinfo=BERLIN).timestamp()) * NANO


async def status(store: MemoryStore | None, *shares: tuple[str, str, str, float], **arguments: Any) -> Any:
    policies = (
        entry("budget", per="team", limit="30 USD/month", overrides={"ads": "3 USD/month"}, time_zone="Europe/Berlin"),
        entry("headers"),
    )
    here = Operating(store, Snapshot(shares=list(shares)), policies)
    return await operate("status", arguments, here, lambda: NOW_NS)


@pytest.mark.parametrize(
    ("text", "began"),
    [
        ("1 USD/month", "2026-11-01T00:00"),
        ("1 USD/week", "2026-11-09T00:00"),
        ("1 USD/day", "2026-11-11T00:00"),
        ("1 USD/hour", "2026-11-11T13:00"),
        ("1 USD/minute", "2026-11-11T13:20"),
    ],
)
def test_windows_begin(text: str, began: str) -> None:
    """In the file's zone."""
    now_ns = int(datetime(2026, 11, 11, 13, 20, 30, tzinfo=BERLIN).timestamp()) * NANO
    there = datetime.fromisoformat(began).replace(tzinfo=BERLIN)
    assert begins_ns(limit(text), now_ns, BERLIN) == int(there.timestamp()) * NANO


async def test_how_budgets_stand() -> None:
    """Subjects that are named and those that were met: used, reserved, where it leads, and when it begins anew."""
    store = MemoryStore(lambda: NOW_NS)
    team = Scope("usd:budget:team=search:month2026-11", 30 * NANO, END_NS)
    await store.reserve(Hold("a", "w", NOW_NS + NANO, (Part(team, 2 * NANO),)))
    await store.adjust("a", [2 * NANO], [12 * NANO], NOW_NS + NANO, [team])
    shares = (("budget", "team search", "30 USD/month", 0.4), ("other", "team x", "1 USD/day", 0.1))
    search, ads = (await status(store, *shares))["budgets"]
    assert (search["subject"], search["used"], search["reserved"]) == ("team search", 12 * NANO, 2 * NANO)
    assert (search["percent"], search["forecast"], search["resets"]) == (40.0, 36 * NANO, "2026-12-01")
    assert (ads["subject"], ads["limit"], ads["used"], ads["forecast"]) == ("team ads", "3 USD/month", 0, 0)
    assert await status(store, budget="unknown") == {"budgets": []}


async def test_nothing_shared() -> None:
    """Without a state nothing is reserved, and nobody can say how it stands."""
    with pytest.raises(WeirError, match="share no state"):
        await status(None)
