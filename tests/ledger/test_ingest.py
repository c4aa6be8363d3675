"""The journal in the ledger: each record once, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from proxy.exchange import Decision
from proxy.journal import Entry, Estimate, frame
from proxy.ledger import ingest as ingesting
from proxy.ledger.ingest import Ingest
from proxy.ledger.labels import Accounts, Billing
from proxy.ledger.tables import (
    arm_days,
    days,
    dimensions,
    exchanges,
    open_attempts,
    quarters,
    saving_quarters,
    savings,
)
from tests.ledger.steps import Clock, all_of, rows, sound, spent, taken
from tests.ledger.told import NOON, SECOND, Segment, ended, exchange_id, journal, reserved, saving, settled, whole

HOUR = 3600 * SECOND


def test_an_exchange_becomes_rows_that_say_everything(engine: Engine, home: Path) -> None:
    """An attempt's row has its identity, models, tokens, cost, times and outcome; the exchange has one, too."""
    journal(home, *whole(exchange_id(1)))
    owner = {"search": ("cc-7", "6100")}
    accounts = Accounts(
        owner=lambda key, team, project: owner.get(team or "", (None, None)),
        upstream=lambda name: Billing("openai", "org-1", "proj-1"),
    )
    done = taken(engine, home, accounts=accounts)
    assert (done.events, done.rows) == (3, 2)
    (row,) = rows(engine)
    assert (row.exchange, row.attempt, row.entry, row.version) == (exchange_id(1), 1, "use", 0)
    assert (row.of_org, row.of_team, row.of_project, row.of_key) == ("acme", "search", "ranker", "k1")
    assert (row.of_cost_centre, row.of_gl_account) == ("cc-7", "6100")
    assert row.of_tags == '{"app":"a","env":"prod"}'
    assert (row.of_asked, row.of_model, row.of_served) == ("gpt-4o", "gpt-4o", "gpt-4o-2024-08-06")
    assert (row.of_upstream, row.of_provider, row.of_account, row.of_provider_project) == (
        "openai",
        "openai",
        "org-1",
        "proj-1",
    )
    assert (row.of_endpoint, row.of_kind, row.of_known, row.of_tier) == (
        "chat.completions",
        "client",
        "observed",
        "default",
    )
    assert (row.nanodollars, row.input_tokens, row.output_tokens, row.cached_tokens) == (7_000, 120, 40, 20)
    assert row.usage == '{"prompt_tokens":120,"completion_tokens":40}'
    assert (row.ttft_ns, row.total_ns, row.outcome, row.status) == (200_000_000, SECOND, "complete", 200)
    assert (row.estimate_input_tokens, row.estimate_output_cap, row.estimate_nanodollars) == (100, 50, 9_000)
    (end,) = rows(engine, exchanges)
    assert (end.exchange, end.status, end.outcome, end.of_team, end.of_model) == (
        exchange_id(1),
        200,
        "complete",
        "search",
        None,
    )
    sound(engine)


def test_roll_ups_are_the_sums_of_the_rows(engine: Engine, home: Path) -> None:
    """Quarter hours and days add up what the rows say, by dimension."""
    records: list[Entry] = []
    for number in range(20):
        records += whole(exchange_id(number), NOON + number * 300 * SECOND, 1_000 + number)
    journal(home, *records)
    taken(engine, home)
    assert spent(engine) == spent(engine, days) == sum(1_000 + number for number in range(20))
    by_quarter = rows(engine, quarters)
    costs = [row for row in by_quarter if row.attempts]
    assert [row.attempts for row in costs] == [3, 3, 3, 3, 3, 3, 2]
    assert sum(row.exchanges for row in by_quarter) == 20
    (day,) = [row for row in rows(engine, days) if row.attempts]
    assert (day.attempts, day.input_tokens, day.cached_tokens, day.ttfts) == (20, 2400, 400, 20)
    sound(engine)


def test_what_is_told_twice_is_counted_once(engine: Engine, home: Path) -> None:
    """A segment that was copied under another name changes nothing."""
    records = [*whole(exchange_id(1)), *whole(exchange_id(2))]
    journal(home, *records)
    taken(engine, home)
    journal(home, *records, started_ns=NOON + 1)
    done = taken(engine, home)
    assert (done.events, done.rows, done.duplicates) == (6, 0, 4)
    assert spent(engine) == 14_000
    assert rows(engine, open_attempts) == []
    sound(engine)


def test_records_of_one_attempt_may_come_far_apart(engine: Engine, home: Path) -> None:
    """What was reserved waits in the ledger until it is settled, also for a new ingest."""
    segment = Segment(home)
    first, second, third = whole(exchange_id(1))
    for count, record in enumerate((first, second, third)):
        segment.write(record)
        taken(engine, home)
        assert len(rows(engine, open_attempts)) == (1 if count == 0 else 0)
    assert [row.of_team for row in rows(engine)] == ["search"]
    sound(engine)


@pytest.mark.parametrize("batch_bytes", [1, 700, 5_000])
def test_batches_of_any_size_come_to_the_same(engine: Engine, home: Path, batch_bytes: int) -> None:
    """However the journal is cut into transactions, the rows are the same."""
    for worker in range(3):
        records: list[Entry] = []
        for number in range(10):
            records += whole(exchange_id(number, f"{worker}" * 12), NOON + number, worker=worker)
        journal(home, *records, writer=f"w{worker}")
    done = taken(engine, home, batch_bytes=batch_bytes)
    assert (done.events, done.rows) == (90, 60)
    assert spent(engine) == 30 * 7_000
    sound(engine)


def test_a_settled_attempt_that_nobody_announced_is_counted(engine: Engine, home: Path) -> None:
    """Money isn't lost because the record before it was."""
    journal(home, settled(exchange_id(1)))
    taken(engine, home)
    (row,) = rows(engine)
    assert (row.nanodollars, row.of_team, row.of_served) == (7_000, None, "gpt-4o-2024-08-06")
    sound(engine)


def test_unpriced_is_not_zero(engine: Engine, home: Path) -> None:
    """An attempt without a price has none in its row, is in no sum, and is counted as such."""
    journal(home, reserved(exchange_id(1)), settled(exchange_id(1), nanodollars=None, known="unpriced"))
    taken(engine, home)
    (row,) = rows(engine)
    assert row.nanodollars is None
    (rolled,) = rows(engine, quarters)
    assert (rolled.of_known, rolled.unpriced, rolled.nanodollars) == ("unpriced", 1, 0)


def test_what_was_not_billed_used_no_tokens(engine: Engine, home: Path) -> None:
    """A refusal of the provider's is an attempt that failed; the tokens estimated for it are in no sum, nor price."""
    estimated = {"tokens": {"input_tokens": 100, "output_tokens": 24}, "usage": None, "nanodollars": 0}
    one, two = exchange_id(1), exchange_id(2)
    journal(
        home,
        *(reserved(one), settled(one, outcome="failed", status=503, **estimated)),
        *(reserved(two), settled(two, known="estimated", **estimated)),  # a model that is free: it was used
    )
    taken(engine, home)
    assert [(row.input_tokens, row.output_tokens) for row in rows(engine)] == [(0, 0), (100, 24)]
    assert {row.tokens for row in rows(engine)} == {'{"input_tokens":100,"output_tokens":24}'}
    assert sum(row.attempts_failed for row in rows(engine, quarters)) == 1
    sound(engine)


def test_savings_and_the_arms_of_a_holdout_are_kept(engine: Engine, home: Path) -> None:
    """Each saving has its counterfactual; exchanges of a holdout are summed by group."""
    inside = [Decision("cache", "p.yaml:3", "treated", {}), Decision("cache", "p.yaml:3", "hit", {})]
    outside = [Decision("cache", "p.yaml:3", "holdout", {})]
    journal(
        home,
        ended(exchange_id(1), attempts=0, nanodollars=0, savings=[saving()], decisions=inside),
        reserved(exchange_id(2)),
        settled(exchange_id(2)),
        ended(exchange_id(2), decisions=outside),
    )
    taken(engine, home)
    (one,) = rows(engine, savings)
    assert (one.policy, one.nanodollars, one.model, one.known, one.arm) == (
        "cache",
        500,
        "gpt-4o",
        "modelled",
        "treated",
    )
    assert one.tokens == '{"input_tokens":10,"output_tokens":5}'
    (rolled,) = rows(engine, saving_quarters)
    assert (rolled.savings, rolled.nanodollars, rolled.input_tokens) == (1, 500, 10)
    groups = {row.arm: (row.exchanges, row.nanodollars) for row in rows(engine, arm_days)}
    assert groups == {"treated": (1, 0), "holdout": (1, 7_000)}
    sound(engine)


def test_what_detached_exchanges_cost_names_who_started_them(engine: Engine, home: Path) -> None:
    """The overhead of a policy can be told from roll-ups alone."""
    journal(home, *whole(exchange_id(2), kind="judge", parent=exchange_id(1), started_by="cascade"))
    taken(engine, home)
    (cost,) = [row for row in rows(engine, quarters) if row.attempts]
    assert (cost.of_kind, cost.of_started_by, cost.nanodollars) == ("judge", "cascade", 7_000)
    assert rows(engine)[0].parent == exchange_id(1)


# --- processes that died


def test_an_attempt_whose_worker_died_becomes_an_estimate(engine: Engine, home: Path) -> None:
    """Sent and never settled: once its process has gone and the grace is over, it costs what was estimated. Once."""
    segment, clock = Segment(home), Clock()
    segment.write(reserved(exchange_id(1)))
    ingest = Ingest(engine, home, clock=clock, grace_s=60)
    clock.now_ns += 3600 * SECOND
    assert all_of(ingest).resolved == 0, "its process lives"
    segment.leave()
    assert all_of(ingest).resolved == 0, "the state process may still settle it"
    clock.now_ns += 61 * SECOND
    assert all_of(ingest).resolved == 1
    (row,) = rows(engine)
    assert (row.nanodollars, row.of_known, row.told_by, row.outcome) == (9_000, "estimated", "ledger", "lost")
    assert (row.of_team, row.input_tokens, row.output_tokens) == ("search", 100, 50)
    clock.now_ns += HOUR
    assert all_of(ingest).resolved == taken(engine, home, clock).resolved == 0
    assert rows(engine, open_attempts) == []
    sound(engine)


def test_a_new_process_in_the_same_slot_tells_that_the_old_one_died(engine: Engine, home: Path) -> None:
    """The ids in the newer segment show that it isn't the same process; a mere new segment doesn't."""
    old, clock = Segment(home), Clock()
    old.write(reserved(exchange_id(1)))
    old.leave()
    new = Segment(home, started_ns=NOON + 1)
    ingest = Ingest(engine, home, clock=clock, grace_s=0)
    clock.now_ns = NOON + 5 * SECOND
    assert all_of(ingest).resolved == 0, "the same process may have begun a new segment"
    new.write(*whole(exchange_id(1, "fedcbafedcba")))
    assert all_of(ingest).resolved == 1


def test_an_attempt_that_ends_in_the_next_segment_is_no_death(engine: Engine, home: Path) -> None:
    """A process that goes on in a new segment settles there what it announced before."""
    old, clock = Segment(home), Clock()
    old.write(reserved(exchange_id(1)))
    old.leave()
    new = Segment(home, started_ns=NOON + 1)
    new.write(*whole(exchange_id(2)))
    ingest = Ingest(engine, home, clock=clock, grace_s=0)
    assert all_of(ingest).resolved == 0
    new.write(settled(exchange_id(1)), ended(exchange_id(1)))
    all_of(ingest)
    assert [row.of_known for row in rows(engine)] == ["observed", "observed"]


def test_what_the_state_process_told_first_stands(engine: Engine, home: Path) -> None:
    """The recovery record settles the attempt; the ledger doesn't settle it again."""
    clock = Clock()
    journal(home, reserved(exchange_id(1)))
    journal(home, settled(exchange_id(1), known="estimated", nanodollars=8_000), writer="s0", started_ns=NOON + 2)
    ingest = Ingest(engine, home, clock=clock, grace_s=0)
    all_of(ingest)
    clock.now_ns += HOUR
    assert all_of(ingest).resolved == 0
    (row,) = rows(engine)
    assert (row.nanodollars, row.told_by, row.of_team) == (8_000, "state", "search")


def test_recovery_records_wait_for_the_segments_they_speak_of(engine: Engine, home: Path) -> None:
    """A recovery record that sorts before its attempt's segment, and batches that end in between, lose no identity."""
    journal(home, settled(exchange_id(9), known="estimated"), writer="s0", started_ns=NOON - 1)
    records: list[Entry] = [entry for number in range(9) for entry in whole(exchange_id(number))]
    journal(home, *records, reserved(exchange_id(9)))
    taken(engine, home, batch_bytes=1_000)
    assert {row.of_team for row in rows(engine)} == {"search"}
    assert len(rows(engine)) == 10


def test_the_workers_own_word_corrects_an_estimate(engine: Engine, home: Path) -> None:
    """An estimate that turns out to be wrong is reversed, and the truth is booked beside it."""
    clock, path = Clock(), journal(home, reserved(exchange_id(1)))
    ingest = Ingest(engine, home, clock=clock, grace_s=0)
    all_of(ingest)
    clock.now_ns += 1
    assert len(rows(engine)) == 1
    with path.open("ab") as file:
        file.write(frame(settled(exchange_id(1))) + frame(ended(exchange_id(1))))
    assert all_of(ingest).corrections == 1
    assert [(row.entry, row.nanodollars, row.of_known) for row in rows(engine)] == [
        ("use", 9_000, "estimated"),
        ("reversal", -9_000, "estimated"),
        ("correction", 7_000, "observed"),
    ]
    assert spent(engine) == spent(engine, days) == 7_000
    assert sum(row.attempts for row in rows(engine, quarters)) == 1
    assert {row.of_team for row in rows(engine)} == {"search"}
    sound(engine)


# --- broken files


@pytest.mark.parametrize("cut", [1, 7, 9, 60])
def test_a_torn_tail_is_cut_and_kept(engine: Engine, home: Path, cut: int) -> None:
    """What a crash left half written is put aside once nobody writes there; all before it is in the ledger."""
    segment = Segment(home)
    segment.write(*whole(exchange_id(1)))
    size = segment.path.stat().st_size
    segment.write_bytes(frame(reserved(exchange_id(2)))[:cut])
    ingest = Ingest(engine, home, clock=Clock())
    assert all_of(ingest).torn == [], "the rest of it may still come"
    segment.leave()
    (aside,) = all_of(ingest).torn
    assert aside.name == segment.path.name + ".torn"
    assert aside.read_bytes() == frame(reserved(exchange_id(2)))[:cut]
    assert segment.path.stat().st_size == size
    assert all_of(ingest).torn == []
    assert spent(engine) == 7_000


def test_a_record_that_comes_in_two_writes_is_whole(engine: Engine, home: Path) -> None:
    """A reader that comes in the middle of a write waits for the rest."""
    segment = Segment(home)
    data = b"".join(map(frame, whole(exchange_id(1))))
    ingest = Ingest(engine, home, clock=Clock())
    segment.write_bytes(data[:100])
    all_of(ingest)
    segment.write_bytes(data[100:])
    done = all_of(ingest)
    assert done.torn == []
    assert len(rows(engine)) == 1


def test_zeros_that_a_power_cut_leaves_are_no_records(engine: Engine, home: Path) -> None:
    """A tail of zeros is torn off like any other."""
    segment = Segment(home)
    segment.write(*whole(exchange_id(1)))
    segment.write_bytes(bytes(4096))
    segment.leave()
    (aside,) = taken(engine, home).torn
    assert aside.read_bytes() == bytes(4096)


def test_a_record_of_another_kind_is_set_aside(engine: Engine, home: Path) -> None:
    """What can't be understood stops nothing, and is told."""
    segment = Segment(home)
    segment.write({"event": "invented", "at": 1, "exchange": "x", "worker": 0})  # type: ignore[arg-type]
    segment.write(*whole(exchange_id(1)))
    done = taken(engine, home)
    assert len(done.rejected) == 1
    assert b"invented" in done.rejected[0]
    assert spent(engine) == 7_000


def test_text_that_no_database_takes_is_cleaned(engine: Engine, home: Path) -> None:
    """A NUL in a model's name or a tag can't stop the ledger."""
    odd = {"asked": "gpt\0", "tags": {"a\0": "\0"}}
    journal(home, *whole(exchange_id(1), **odd), settled(exchange_id(2), upstream_request_id="r\0"))
    taken(engine, home)
    assert {row.of_asked for row in rows(engine)} == {"gpt\ufffd", None}
    sound(engine)


def test_an_amount_that_no_database_can_hold_has_no_price(engine: Engine, home: Path) -> None:
    """Absurd numbers are not known; they don't stop the ledger."""
    journal(home, reserved(exchange_id(1)), settled(exchange_id(1), nanodollars=2**70, tokens={"input_tokens": 2**70}))
    taken(engine, home)
    (row,) = rows(engine)
    assert (row.nanodollars, row.input_tokens) == (None, 0)


# --- two at once, and failures in the middle


def test_two_that_ingest_at_once_count_each_record_once(
    engine: Engine, home: Path, reopen: Callable[[], Engine]
) -> None:
    """Whoever comes second finds that the offsets moved, writes nothing, and goes on from there."""
    segment = Segment(home)
    segment.write(*whole(exchange_id(1)))
    one, two = Ingest(engine, home, clock=Clock()), Ingest(reopen(), home, clock=Clock())
    one.step()
    two.step()
    segment.write(*whole(exchange_id(2)))
    one.step()
    with pytest.raises(ingesting.Moved):
        two.step()
    assert two.step().events == 0
    assert spent(engine) == 14_000
    sound(engine)


def test_a_step_that_fails_changes_nothing(engine: Engine, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, roll-ups, offsets and chain come together or not at all, and the next step does it all."""
    journal(home, *whole(exchange_id(1)))
    ingest = Ingest(engine, home, clock=Clock())

    def fails(*_: object) -> None:
        raise RuntimeError("the plug was pulled")

    with monkeypatch.context() as patch:
        patch.setattr(ingesting._Booking, "_keep_open", fails)
        with pytest.raises(RuntimeError):
            ingest.step()
    assert rows(engine) == rows(engine, quarters) == rows(engine, dimensions) == []
    assert all_of(ingest).rows == 2
    sound(engine)


def test_estimates_without_a_price_stay_without(engine: Engine, home: Path) -> None:
    """A dead worker's attempt that couldn't be priced is unpriced, not free."""
    clock = Clock()
    journal(home, reserved(exchange_id(1), estimate=Estimate(10, None, None)))
    taken(engine, home, clock, grace_s=0)
    (row,) = rows(engine)
    assert (row.nanodollars, row.of_known) == (None, "unpriced")
