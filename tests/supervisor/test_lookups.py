"""What workers ask of the supervisor, answered from real files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from proxy.journal import Journal
from proxy.supervisor.lookups import Lookups
from proxy.supervisor.usage import TenantUsage
from tests.supervisor.conftest import plan, running

NOON = datetime.now(UTC).replace(day=15, hour=12, minute=0, second=0, microsecond=0)


def ended(exchange: str, tenant: str, at: datetime = NOON, cost: int | None = 10) -> dict[str, Any]:
    return {
        "event": "ended",
        "at": int(at.timestamp() * 1e9),
        "exchange": exchange,
        "tenant": tenant,
        "nanodollars": cost,
        "status": 200,
        "outcome": "complete",
    }


def settled(exchange: str, given: int, made: int) -> dict[str, Any]:
    tokens = {"input_tokens": given, "output_tokens": made}
    return {"event": "settled", "at": 0, "exchange": exchange, "attempt": 1, "tokens": tokens, "nanodollars": 10}


def write(home: Path, *records: dict[str, Any]) -> None:
    journal = Journal(home / "journal", 0)
    for record in records:
        journal.append(record)
    journal.flush()
    journal.close()


async def test_an_exchange_is_told_to_its_tenant_only(home: Path) -> None:
    """A worker asks for a client; another tenant's exchange is as unknown as one that never was."""
    async with running(plan(home)) as here:
        write(home, ended("mine", "acme"), ended("theirs", "other"))
        assert (await here.ask("/lookup/mine"))["record"]["outcome"] == "complete"
        assert (await here.ask("/lookup/theirs"))["record"] is None
        assert (await here.ask("/lookup/none"))["record"] is None
        told = await here.supervisor.explain("theirs", None)
        assert told is not None
        assert told["exchange"] == "theirs"


async def test_a_lookup_that_fails_is_answered(home: Path) -> None:
    """A damaged journal is no reason to let a client wait: nothing is known, and the log says why."""
    async with running(plan(home)) as here:
        (home / "journal").mkdir()
        (home / "journal" / "1-w0.journal").mkdir()
        assert (await here.ask("/lookup/any"))["record"] is None
        assert "IsADirectory" in here.log("look-up failed")[0]["error"]


def test_usage_is_summed_by_day_and_month(home: Path) -> None:
    """Tokens of every attempt, cost of every exchange, what has no price counted apart; other tenants' left out."""
    write(
        home,
        settled("a", 100, 10),
        settled("a", 50, 5),
        ended("a", "acme"),
        ended("b", "acme", cost=None),
        ended("c", "acme", NOON - timedelta(days=1)),
        ended("d", "acme", NOON - timedelta(days=20)),
        ended("e", "other"),
    )
    told = TenantUsage(home, lambda: NOON).of("acme")
    today = {"exchanges": 2, "input_tokens": 150, "output_tokens": 15, "nanodollars": 10, "unpriced": 1}
    assert told["today"] == today
    assert told["month"] == {**today, "exchanges": 3, "nanodollars": 20}


def test_usage_follows_the_journal(home: Path) -> None:
    """Later records are added, earlier ones not counted twice; yesterday's are no longer today's."""
    now = NOON
    usage = TenantUsage(home, lambda: now)
    write(home, ended("a", "acme"))
    assert usage.of("acme")["today"]["exchanges"] == 1
    write(home, ended("b", "acme"))
    assert usage.of("acme")["today"]["exchanges"] == 2
    now = NOON + timedelta(days=1)
    assert usage.of("acme")["today"]["exchanges"] == 0
    assert usage.of("acme")["month"]["exchanges"] == 2


async def test_owners_of_objects_are_remembered(home: Path) -> None:
    """The first maker stays, also for the next process."""
    lookups = Lookups(home)
    assert await lookups.answer({"kind": "record", "ids": ["file-abcdef"], "tenant": "acme"}) == {}
    assert await lookups.answer({"kind": "record", "ids": ["file-abcdef"], "tenant": "thief"}) == {}
    await lookups.close()
    again = Lookups(home)
    assert await again.answer({"kind": "owners", "ids": ["file-abcdef", "x"]}) == {"owners": {"file-abcdef": "acme"}}
    assert await again.answer({"kind": "nonsense"}) is None
    await again.close()
