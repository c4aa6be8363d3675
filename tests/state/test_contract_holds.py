"""The contract of holds, for every backend: what is granted, what is refused, and what is counted."""

from __future__ import annotations

import time

import pytest

from proxy.state.protocol import Granted, Level, Part, Refused, Scope, Standing, Store
from tests.state.asking import HOUR_NS, eventually, granted, hold, numbers, refused, scope
from tests.state.backends import Backend

TEAM, ORG = scope("team:search"), scope("org:acme", 1000)
SOFT = scope("tag:a", 10, hard=False)


@pytest.fixture
async def store(backend: Backend) -> Store:
    """One worker's Store."""
    return await backend.connect()


async def test_a_grant_says_the_levels_of_its_parts(store: Store) -> None:
    """Levels come in the order of the parts, after the hold."""
    await granted(store, (ORG, 5))
    answer = await store.reserve(hold((TEAM, 30), (ORG, 20), (SOFT, 7)))
    assert answer == Granted((Level(0, 30), Level(0, 25), Level(0, 7)))


async def test_all_workers_see_the_same(backend: Backend) -> None:
    """What one worker holds, another finds."""
    one, other = await backend.connect(), await backend.connect()
    id = await granted(one, (TEAM, 60))
    assert (await refused(other, (TEAM, 60))).why == "held"
    assert await other.close(id, [10])
    assert await numbers(one, TEAM) == [(10, 0)]


async def test_all_parts_or_none(store: Store) -> None:
    """A part that doesn't fit leaves nothing in the others."""
    await granted(store, (TEAM, 90))
    answer = await refused(store, (ORG, 20), (SOFT, 5), (TEAM, 20))
    assert (answer.part, answer.why) == (2, "held")
    assert answer.levels == (Level(0, 0), Level(0, 0), Level(0, 90))
    assert await numbers(store, ORG, SOFT) == [(0, 0), (0, 0)]


async def test_a_hard_limit_is_reached_and_not_passed(store: Store) -> None:
    """Spent and held come to the limit exactly, and to no unit more."""
    id = await granted(store, (TEAM, 40))
    await store.close(id, [40])
    await granted(store, (TEAM, 60))
    assert await numbers(store, TEAM) == [(40, 60)]
    assert (await refused(store, (TEAM, 1))).why == "held"
    await granted(store, (TEAM, 0))


async def test_a_soft_scope_counts_and_never_refuses(store: Store) -> None:
    """`hard=False` is counted beyond its limit, held and spent."""
    id = await granted(store, (SOFT, 500))
    await granted(store, (SOFT, 500))
    await store.close(id, [700])
    assert await numbers(store, SOFT) == [(700, 500)]


async def test_refused_at_once_because_of_what_is_spent(store: Store) -> None:
    """Waiting can't help before the window ends, so nobody waits; the end of the window is said."""
    day = scope("team:day", 100, ends_ns=time.time_ns() + HOUR_NS)
    await store.close(await granted(store, (day, 90)), [90])
    answer = await refused(store, (ORG, 1), (day, 11), wait_s=3600.0)
    assert (answer.part, answer.why) == (1, "spent")
    assert 0 < answer.retry_ns <= HOUR_NS
    assert (await refused(store, (day, 101), wait_s=3600.0)).retry_ns == 0, "no window is ever large enough"


async def test_spent_is_told_before_held(store: Store) -> None:
    """Where one part would have to wait and another can never fit, there is nothing to wait for."""
    await granted(store, (ORG, 1000))
    answer = await refused(store, (ORG, 1), (TEAM, 101), wait_s=3600.0)
    assert (answer.part, answer.why) == (1, "spent")


async def test_the_same_key_is_the_same_counter(store: Store) -> None:
    """The limit is the caller's word: another caller's may be lower."""
    await granted(store, (TEAM, 50))
    lower = scope(TEAM.key, 60)
    assert (await refused(store, (lower, 20))).levels == (Level(0, 50),)
    await granted(store, (TEAM, 20))


async def test_parts_of_the_same_scope_count_together(store: Store) -> None:
    """A hold can't pass a limit by asking twice."""
    assert (await refused(store, (TEAM, 60), (TEAM, 60))).why == "spent"
    id = await granted(store, (TEAM, 60), (TEAM, 40))
    assert await numbers(store, TEAM) == [(0, 100)]
    await store.close(id, [10, 20])
    assert await numbers(store, TEAM) == [(30, 0)]


async def test_reserving_an_id_that_stands_changes_nothing_and_grants(store: Store) -> None:
    """A reservation may be sent twice, with other amounts too."""
    id = await granted(store, (TEAM, 60))
    assert await store.reserve(hold((TEAM, 60), id=id)) == Granted((Level(0, 60),))
    assert await store.reserve(hold((TEAM, 10), id=id)) == Granted((Level(0, 60),))
    await store.close(id, [5])
    assert await numbers(store, TEAM) == [(5, 0)]


async def test_a_closed_id_is_not_granted_again(store: Store) -> None:
    """A closed hold is remembered: what comes late can't open it again."""
    id = await granted(store, (TEAM, 60))
    await store.close(id, [5])
    assert isinstance(await store.reserve(hold((TEAM, 60), id=id), 1.0), Refused)
    assert await numbers(store, TEAM) == [(5, 0)]


async def test_adjust_says_what_is_so(store: Store) -> None:
    """Held and spent are absolute: told twice, they count once."""
    id = await granted(store, (TEAM, 60), (ORG, 60))
    for _ in range(2):
        levels = await store.adjust(id, [30, 40], [20, 10], time.time_ns() + HOUR_NS)
        assert levels == (Level(20, 30), Level(10, 40))
    assert await numbers(store, TEAM, ORG) == [(20, 30), (10, 40)]


async def test_spent_never_falls_and_held_is_never_raised(store: Store) -> None:
    """What was spent stays spent; more room has to be asked for anew."""
    id = await granted(store, (TEAM, 60))
    await store.adjust(id, [30], [20], time.time_ns() + HOUR_NS)
    assert await store.adjust(id, [60], [10], time.time_ns() + HOUR_NS) == (Level(20, 30),)
    await store.close(id, [5])
    assert await numbers(store, TEAM) == [(20, 0)]


async def test_adjust_makes_room_for_others(store: Store) -> None:
    """What isn't held any more can be reserved."""
    id = await granted(store, (TEAM, 100))
    await store.adjust(id, [50], [10], time.time_ns() + HOUR_NS)
    await granted(store, (TEAM, 40))
    assert (await refused(store, (TEAM, 1))).why == "held"


async def test_adjust_sets_until(store: Store) -> None:
    """A hold lives on as long as its owner says."""
    id, until_ns = await granted(store, (TEAM, 1)), time.time_ns() + 7 * HOUR_NS + 1
    await store.adjust(id, [1], [0], until_ns)
    (standing,) = await store.standing()
    assert standing.until_ns == until_ns


async def test_a_hold_that_is_not_known_is_made_with_its_spent_part_alone(store: Store) -> None:
    """After a loss the owner's word stands for what was spent, and holds nothing."""
    levels = await store.adjust("lost", [30, 30], [20, 10], time.time_ns() + HOUR_NS, [TEAM, SOFT])
    assert levels == (Level(20, 0), Level(10, 0))
    (standing,) = await store.standing()
    assert (standing.id, standing.parts, standing.spent) == ("lost", (Part(TEAM, 0), Part(SOFT, 0)), (20, 10))
    assert await store.close("lost", [25, 10], [TEAM, SOFT])
    assert await numbers(store, TEAM, SOFT) == [(25, 0), (10, 0)]


async def test_nothing_is_made_without_scopes(store: Store) -> None:
    """Of a hold that nobody knows, nothing can be counted."""
    assert await store.adjust("lost", [1], [1], time.time_ns() + HOUR_NS) == ()
    assert await store.standing() == []


async def test_a_hold_closes_once(store: Store) -> None:
    """The second time nothing changes, whatever it says."""
    id = await granted(store, (TEAM, 60))
    assert await store.close(id, [50])
    assert not await store.close(id, [60])
    assert not await store.close(id, [60], [TEAM])
    assert await store.adjust(id, [60], [60], time.time_ns() + HOUR_NS, [TEAM]) == (Level(50, 0),)
    assert await numbers(store, TEAM) == [(50, 0)]
    assert await store.standing() == []


async def test_a_truth_over_the_limit_is_still_the_truth(store: Store) -> None:
    """What was spent above what was held, or above the limit, is counted; then nothing more fits."""
    await store.close(await granted(store, (TEAM, 10)), [150])
    assert await numbers(store, TEAM) == [(150, 0)]
    assert (await refused(store, (TEAM, 0))).why == "spent"


async def test_an_unknown_hold_is_closed_by_its_scopes(store: Store) -> None:
    """What was spent is counted once, though the hold is gone."""
    assert await store.close("lost", [20], [TEAM])
    assert not await store.close("lost", [20], [TEAM])
    assert await numbers(store, TEAM) == [(20, 0)]


async def test_an_unknown_hold_without_scopes_can_not_be_made_any_more(store: Store) -> None:
    """A reservation that comes after its own release holds nothing."""
    assert not await store.close("lost", [0])
    assert isinstance(await store.reserve(hold((TEAM, 10), id="lost")), Refused)
    assert await numbers(store, TEAM) == [(0, 0)]


async def test_closing_without_amounts_leaves_what_was_said_last(store: Store) -> None:
    """The last word of a lost owner is what it spent."""
    id = await granted(store, (TEAM, 60))
    await store.adjust(id, [40], [20], time.time_ns() + HOUR_NS)
    assert await store.close(id, [])
    assert await numbers(store, TEAM) == [(20, 0)]


async def test_amounts_that_do_not_belong_to_the_parts_are_errors(store: Store) -> None:
    """A caller's mistake changes nothing, and isn't a lost Store."""
    id = await granted(store, (TEAM, 60), (ORG, 60))
    with pytest.raises(ValueError):
        await store.adjust(id, [1], [1], time.time_ns() + HOUR_NS)
    with pytest.raises(ValueError):
        await store.close(id, [1, 2, 3])
    with pytest.raises(ValueError):
        await store.reserve(hold((TEAM, -1)))
    assert await numbers(store, TEAM, ORG) == [(0, 60), (0, 60)]


async def test_levels_of_what_nobody_used_are_zero(store: Store) -> None:
    """Asking makes nothing."""
    assert await store.levels([TEAM, SOFT]) == (Level(0, 0), Level(0, 0))
    assert await store.levels([]) == ()


async def test_standing_lists_open_holds_as_they_are(store: Store) -> None:
    """Owner, end, what is still held and what was spent: everything a recovery needs, to the nanosecond."""
    window = Scope("w", 10**15, ends_ns=time.time_ns() + HOUR_NS + 7)
    rolling = Scope("r", 10**15, span_ns=HOUR_NS + 7, hard=False)
    asked = hold((window, 60), (rolling, 70), owner="host/1/a")
    await store.reserve(asked)
    await store.adjust(asked.id, [50, 70], [10, 0], asked.until_ns + 1)
    assert await store.standing() == [
        Standing(asked.id, "host/1/a", asked.until_ns + 1, (Part(window, 50), Part(rolling, 70)), (10, 0))
    ]


async def test_standing_by_owner(store: Store) -> None:
    """The beginning of the owner's name chooses: a host, a worker, one boot of it."""
    ids = [await granted(store, (TEAM, 1), owner=owner) for owner in ("a/1/x", "a/1/y", "a/2/z", "b/1/x")]
    for owner, found in (("a/1/x", ids[:1]), ("a/1/", ids[:2]), ("a/", ids[:3]), ("", ids), ("c", [])):
        assert sorted(standing.id for standing in await store.standing(owner)) == sorted(found)


async def test_standing_by_how_long_they_are_overdue(store: Store) -> None:
    """Only those past `until` for longer than this."""
    now_ns = await store.ping()
    late = await granted(store, (TEAM, 1), until_ns=now_ns - HOUR_NS)
    later = await granted(store, (TEAM, 1), until_ns=now_ns - 3 * HOUR_NS)
    await granted(store, (TEAM, 1), until_ns=now_ns + HOUR_NS)
    for overdue_ns, found in ((0, [late, later]), (2 * HOUR_NS, [later]), (4 * HOUR_NS, [])):
        assert sorted(s.id for s in await store.standing(overdue_ns=overdue_ns)) == sorted(found)
    assert await store.standing("another", overdue_ns=0) == []


async def test_many_standing(store: Store) -> None:
    """The list is whole, however long it is."""
    ids = {await granted(store, (SOFT, 1)) for _ in range(700)}
    assert {standing.id for standing in await store.standing()} == ids


async def test_a_hold_past_its_time_stays_as_it_is(store: Store) -> None:
    """No limit is overspent by guessing: only its owner's journal says what it came to."""
    id = await granted(store, (TEAM, 100), until_ns=await store.ping() - HOUR_NS)
    assert (await refused(store, (TEAM, 1))).why == "held"
    assert await store.close(id, [100])
    assert await numbers(store, TEAM) == [(100, 0)]


async def test_what_settles_late_counts_where_it_belongs(store: Store) -> None:
    """A window that is over keeps its key: another window is another key."""
    ended = Scope("team:yesterday", 100, ends_ns=await store.ping() - 10**9)
    await store.close(await granted(store, (ended, 30)), [20])
    assert await numbers(store, ended, scope("team:today")) == [(20, 0), (0, 0)]


async def test_a_rolling_window_forgets(store: Store) -> None:
    """What was spent counts within the span; then it is free again, and how long that takes is said."""
    rolling = Scope("team:rolling", 100, span_ns=600_000_000)
    await store.close(await granted(store, (rolling, 90)), [90])
    answer = await refused(store, (rolling, 20), wait_s=3600.0)
    assert answer.why == "spent"
    assert 0 < answer.retry_ns <= 600_000_000 * 61 // 60 + 1

    async def fits() -> bool:
        return isinstance(await store.reserve(hold((rolling, 20), id="again")), Granted)

    await eventually(fits)
    assert await numbers(store, rolling) == [(0, 20)]


async def test_a_rolling_window_counts_what_is_recent(store: Store) -> None:
    """Within the span nothing is forgotten, however often it is asked."""
    rolling = Scope("team:rolling", 100, span_ns=HOUR_NS)
    for spent in (10, 20, 30):
        await store.close(await granted(store, (rolling, 30)), [spent])
    assert await numbers(store, rolling) == [(60, 0)]
    assert (await refused(store, (rolling, 41))).why == "spent"
    await granted(store, (rolling, 40))


@pytest.mark.parametrize("key", ["", "ä ö/ü:€{x}", "a" * 300, "line\nbreak\x00end"])
async def test_any_text_is_a_key(store: Store, key: str) -> None:
    """Keys, ids and owners are text, not names."""
    id = await granted(store, (scope(key), 60), id=f"id {key}", owner=f"owner {key}")
    (standing,) = await store.standing(f"owner {key}")
    assert (standing.id, standing.parts) == (id, (Part(scope(key), 60),))
    assert (await refused(store, (scope(key), 41))).why == "held"
    assert await store.close(id, [5])
    assert await numbers(store, scope(key)) == [(5, 0)]


async def test_nine_million_dollars_are_counted_to_the_nano_dollar(store: Store) -> None:
    """Amounts are exact up to 2^53."""
    limit = 2**53 - 1
    large = scope("large", limit)
    id = await granted(store, (large, limit - 1))
    assert (await refused(store, (large, 2))).why == "held"
    await granted(store, (large, 1))
    assert await numbers(store, large) == [(0, limit)]
    await store.close(id, [limit - 2])
    assert await numbers(store, large) == [(limit - 2, 1)]


async def test_more_than_that_is_still_counted(store: Store) -> None:
    """What many have spent together is exact, however much."""
    for n in range(4):
        await store.close(f"lost {n}", [2**53 - 1 - n], [SOFT])
    assert await numbers(store, SOFT) == [(4 * (2**53 - 1) - 6, 0)]


async def test_what_was_told_is_kept(backend: Backend) -> None:
    """A worker that leaves lets go of its connections, of nothing else."""
    if not backend.outlasts:
        pytest.skip("it ends with its process")
    store = await backend.connect()
    id = await granted(store, (TEAM, 60))
    await store.aclose()
    other = await backend.connect()
    assert await numbers(other, TEAM) == [(0, 60)]
    assert await other.close(id, [10])


async def test_ping_is_the_time(store: Store) -> None:
    """Unix nanoseconds, which never go back by more than a clock does."""
    first, second = await store.ping(), await store.ping()
    assert second - first >= 0
    assert abs(first - time.time_ns()) < HOUR_NS
