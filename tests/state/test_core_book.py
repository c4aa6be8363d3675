"""The book of holds, without any process: its queues, its windows, and whatever a random history may do to it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from proxy.state.book import REMEMBERED_NS, Book, Waiter
from proxy.state.changes import Changes
from proxy.state.core import Core
from proxy.state.protocol import Granted, Hold, Level, Part, Refused, Scope, Standing
from proxy.state.sqlite import StateFile

S = 10**9


def book() -> Book:
    return Book(Changes())


def hold(id: str, *parts: tuple[Scope, int]) -> Hold:
    return Hold(id, "host/0/b", 0, tuple(Part(scope, amount) for scope, amount in parts))


def answered(of: Book) -> list[str]:
    """The ids of those who got an answer, in turn."""
    found = [waiter.hold.id for waiter in of.answered if isinstance(waiter.answer, Granted)]
    of.answered.clear()
    return found


A, B, C = Scope("usd:a", 10), Scope("usd:b", 10), Scope("usd:c", 10)


def test_one_who_waits_for_another_scope_is_passed() -> None:
    """Who waits for a team's scope doesn't hold up others of the organisation."""
    of = book()
    of.reserve(hold("full", (A, 10)), 0)
    assert isinstance(of.reserve(hold("first", (A, 1), (B, 4)), 0), Waiter)
    assert isinstance(of.reserve(hold("other", (B, 6)), 0), Granted)


def test_the_oldest_keeps_room_where_it_is_passed() -> None:
    """Those who pass leave as much room as the oldest needs: it can't be starved by them."""
    of = book()
    of.reserve(hold("full", (A, 10)), 0)
    of.reserve(hold("first", (A, 1), (B, 4)), 0)
    of.reserve(hold("other", (B, 6)), 0)
    assert isinstance(of.reserve(hold("late", (B, 1)), 0), Waiter)
    of.close("full", (0,), (), 0)
    assert answered(of) == ["first"]
    of.close("other", (0,), (), 0)
    assert answered(of) == ["late"]


def test_room_kept_for_one_that_is_refused_is_free_at_once() -> None:
    """Where somebody leaves all its queues, those whom it kept waiting elsewhere are looked at."""
    of = book()
    of.reserve(hold("full", (A, 10)), 0)
    of.reserve(hold("some", (B, 4)), 0)
    of.reserve(hold("first", (A, 5), (B, 5)), 0)
    assert isinstance(of.reserve(hold("late", (B, 3)), 0), Waiter)
    of.close("full", (10,), (), 0)
    assert answered(of) == ["late"]


def test_a_small_one_doesn_t_overtake_a_large_one() -> None:
    """First come, first served, also where the later one would fit."""
    of = book()
    of.reserve(hold("some", (A, 5)), 0)
    assert isinstance(of.reserve(hold("large", (A, 8)), 0), Waiter)
    assert isinstance(of.reserve(hold("small", (A, 1)), 0), Waiter)
    of.close("some", (0,), (), 0)
    assert answered(of) == ["large", "small"]


def test_one_that_leaves_lets_in_who_stood_behind_it() -> None:
    """Giving up and cancelling open the way for the next."""
    of = book()
    of.reserve(hold("some", (A, 5)), 0)
    large = of.reserve(hold("large", (A, 8)), 0)
    of.reserve(hold("middle", (A, 6)), 0)
    of.reserve(hold("small", (A, 5)), 0)
    assert isinstance(large, Waiter)
    refused = of.give_up(large, 0)
    assert isinstance(refused, Refused) and refused.why == "held" and refused.part == 0
    middle = next(waiter for waiter in A_waiters(of))
    of.cancel(middle, 0)
    assert answered(of) == ["small"]


def A_waiters(of: Book) -> list[Waiter]:
    return list(of.counters[A.key].waiting)


def test_what_becomes_spent_refuses_those_who_waited_for_it() -> None:
    """Once what was held is spent, waiting is of no use any more."""
    of = book()
    of.reserve(hold("all", (A, 10)), 0)
    waiter = of.reserve(hold("next", (A, 1)), 0)
    of.close("all", (10,), (), 0)
    assert isinstance(waiter, Waiter) and isinstance(waiter.answer, Refused)
    assert waiter.answer.why == "spent"


def test_a_rolling_window_lets_in_as_time_passes() -> None:
    """What falls out of a rolling window makes room for who waits, without anybody closing anything."""
    of, minute = book(), Scope("usd:m", 10, span_ns=60 * S)
    of.reserve(hold("old", (minute, 6)), 0)
    of.close("old", (6,), (), 0)
    of.reserve(hold("held", (minute, 4)), 30 * S)
    assert isinstance(refused := of.reserve(hold("more", (minute, 5)), 30 * S), Refused)
    assert (refused.why, refused.retry_ns) == ("spent", 31 * S)
    waiter = of.reserve(hold("more", (minute, 4)), 30 * S)
    assert isinstance(waiter, Waiter)
    of.tick(60 * S)
    assert waiter.answer is None, "the sixtieth in which the span began counts whole"
    of.tick(61 * S)
    assert isinstance(waiter.answer, Granted)


def test_a_wait_ends_with_its_window() -> None:
    """Nobody waits for a window that is over: it may ask for the next one at once."""
    of, day = book(), Scope("usd:day", 10, ends_ns=100)
    of.reserve(hold("all", (day, 10)), 0)
    waiter = of.reserve(hold("next", (day, 1)), 50)
    of.tick(100)
    assert isinstance(waiter, Waiter) and isinstance(waiter.answer, Refused)
    assert (waiter.answer.why, waiter.answer.retry_ns) == ("held", 1)


def test_two_parts_of_one_scope_count_together() -> None:
    """A hold that names a scope twice needs room for both."""
    of = book()
    assert isinstance(of.reserve(hold("twice", (A, 6), (A, 6)), 0), Refused)
    assert isinstance(of.reserve(hold("fits", (A, 6), (A, 4)), 0), Granted)
    assert of.levels([A], 0)[0].held == 10


def test_a_withdrawn_grant_isn_t_remembered() -> None:
    """A grant that nobody heard of leaves no trace: what was used all the same can be closed by its scopes."""
    of = book()
    of.reserve(hold("x", (A, 6)), 0)
    of.withdraw("x", 0)
    assert of.levels([A], 0)[0] == Level(0, 0)
    assert of.close("x", (3,), (A,), 0)
    assert of.levels([A], 0)[0].spent == 3
    assert not of.close("x", (3,), (A,), 0)


def test_a_closed_hold_is_forgotten_after_an_hour() -> None:
    """Until then it stays closed, and can't be made again."""
    of = book()
    of.reserve(hold("x", (A, 6)), 0)
    of.close("x", (1,), (), 0)
    of.forget_closed(REMEMBERED_NS)
    assert isinstance(of.reserve(hold("x", (A, 6)), REMEMBERED_NS), Refused)
    of.forget_closed(REMEMBERED_NS + 1)
    assert isinstance(of.reserve(hold("x", (A, 6)), REMEMBERED_NS), Granted)


def test_a_hold_of_nothing_is_closed_an_hour_after_its_time() -> None:
    """Made to count what was spent while the state was away, and left by a worker that died: what it spent stays."""
    of = book()
    of.adjust("left", (0,), (4,), 10, (A,), 0)
    of.reserve(hold("held", (A, 1)), 0)
    of.forget(REMEMBERED_NS + 10)
    assert sorted(of.holds) == ["held", "left"]
    of.forget(REMEMBERED_NS + 11)
    assert sorted(of.holds) == ["held"]
    assert of.levels([A], 0)[0] == Level(4, 1)


def test_a_counter_is_forgotten_once_it_says_nothing() -> None:
    """Neither an open hold's nor one that counts in its window, nor for an hour after."""
    of, day = book(), Scope("usd:day", 10, ends_ns=100)
    of.reserve(hold("x", (day, 5)), 0)
    of.forget(10**15)
    assert day.key in of.counters
    of.close("x", (5,), (), 10**15)
    of.forget(3600 * S)
    assert day.key in of.counters
    of.forget(3600 * S + 101)
    assert day.key not in of.counters


@pytest.mark.parametrize(("held", "spent"), [((1, 2), (1,)), ((1,), ()), ((-1,), (0,)), ((1,), (2**60,))])
def test_amounts_that_make_no_sense_change_nothing(held: tuple[int, ...], spent: tuple[int, ...]) -> None:
    """They are an error before anything is touched."""
    of = book()
    of.reserve(hold("x", (A, 6)), 0)
    with pytest.raises(ValueError, match="amounts"):
        of.adjust("x", held, spent, 0, (), 0)
    assert of.levels([A], 0)[0].held == 6


SCOPES = [Scope("usd:0", 20), Scope("usd:1", 30), Scope("usd:2", 12), Scope("usd:soft", 5, hard=False)]
PARTS = st.lists(
    st.tuples(st.sampled_from(SCOPES), st.integers(0, 12)), min_size=1, max_size=3, unique_by=lambda part: part[0].key
)


class Histories(RuleBasedStateMachine):
    """Any history of reserving, adjusting, closing, waiting, leaving and restarting."""

    holds = Bundle("holds")
    waiters = Bundle("waiters")

    @initialize()
    def begin(self) -> None:
        self.core = Core()
        self.file = StateFile(":memory:")
        self.numbers = itertools.count()
        self.held: dict[str, list[int]] = {}
        self.spent: dict[str, int] = {scope.key: 0 for scope in SCOPES}

    @rule(target=holds, parts=PARTS)
    def reserve_at_once(self, parts: list[tuple[Scope, int]]) -> object:
        """A newcomer is never let in where somebody waits."""
        crowded = {key for key, counter in self.core.book.counters.items() if counter.waiting}
        asked = hold(f"h{next(self.numbers)}", *parts)
        answer = self.core.book.reserve(asked, 0, may_wait=False)
        assert not isinstance(answer, Waiter)
        if isinstance(answer, Refused):
            return multiple()
        assert not crowded & {scope.key for scope, _ in parts if scope.hard}, "it overtook"
        return asked

    @rule(target=waiters, parts=PARTS)
    def reserve_in_turn(self, parts: list[tuple[Scope, int]]) -> object:
        """Some get in at once, some have to wait: both may be settled and left later."""
        asked = hold(f"w{next(self.numbers)}", *parts)
        answer = self.core.book.reserve(asked, 0)
        return (asked, answer) if isinstance(answer, Waiter) else multiple()

    @rule(waiter=consumes(waiters), cancelled=st.booleans())
    def leave(self, waiter: tuple[Hold, Waiter], cancelled: bool) -> None:
        """It gives up, or its client has gone; a grant that raced is taken back."""
        asked, ticket = waiter
        if cancelled:
            self.core.book.cancel(ticket, 0)
            assert asked.id not in self.core.book.holds
        else:
            before = ticket.answer
            assert self.core.book.give_up(ticket, 0) is (before or ticket.answer)
        self.look()

    @rule(waiter=waiters, share=st.floats(0, 1))
    def settle_a_waiter(self, waiter: tuple[Hold, Waiter], share: float) -> None:
        """Closes what was granted after a wait."""
        if isinstance(waiter[1].answer, Granted):
            self.settle(waiter[0], share)

    @rule(asked=consumes(holds), share=st.floats(0, 1))
    def settle_a_hold(self, asked: Hold, share: float) -> None:
        """Closes what was granted at once."""
        self.settle(asked, share)

    def settle(self, asked: Hold, share: float) -> None:
        open = self.core.book.holds.get(asked.id)
        if open is None:
            assert not self.core.book.close(asked.id, [0] * len(asked.parts), (), 0)
            return
        spent = [told + int(held * share) for held, told in zip(open.held, open.spent, strict=True)]
        for part, now, before in zip(asked.parts, spent, open.spent, strict=True):
            self.spent[part.scope.key] += now - before
        assert self.core.book.close(asked.id, spent, (), 0)
        self.look()

    @rule(asked=holds, used=st.integers(0, 3), kept=st.integers(0, 12))
    def adjust(self, asked: Hold, used: int, kept: int) -> None:
        """Some of what is held becomes spent; of the rest some may be given back."""
        open = self.core.book.holds.get(asked.id)
        if open is None:
            return
        used_of = [min(used, held) for held in open.held]
        for part, amount in zip(asked.parts, used_of, strict=True):
            self.spent[part.scope.key] += amount
        held = [min(kept, held - amount) for held, amount in zip(open.held, used_of, strict=True)]
        spent = [told + amount for told, amount in zip(open.spent, used_of, strict=True)]
        self.core.book.adjust(asked.id, held, spent, 0, (), 0)
        self.look()

    @rule()
    def restart(self) -> None:
        """Those who wait are gone, all else is as it was."""
        for waiter in list(self.core.book._waiters.values()):
            self.core.book.cancel(waiter, 0)
        self.look()
        self.file.write(self.core)
        core = Core()
        self.file.load(core)
        assert described(core.book) == described(self.core.book)
        self.core = core

    def look(self) -> None:
        """Who was let in didn't overtake anybody who still waits for the same scope."""
        waiting = {need.counter.key: need for w in self.core.book._waiters.values() for need in w.needs}
        for waiter in self.core.book.answered:
            if isinstance(waiter.answer, Granted):
                for need in waiter.needs:
                    assert all(other.ticket > waiter.ticket for other in need.counter.waiting), waiting
        self.core.book.answered.clear()

    @invariant()
    def limits_hold(self) -> None:
        """spent + held <= limit, and both are what the holds add up to."""
        open = self.core.book.holds.values()
        for scope in SCOPES:
            level = self.core.book.levels([scope], 0)[0]
            assert level.spent == self.spent[scope.key]
            held = sum(one.held[i] for one in open for i, s in enumerate(one.scopes) if s.key == scope.key)
            assert level.held == held
            assert not scope.hard or level.spent + level.held <= scope.limit

    @invariant()
    def the_oldest_waits_for_holds_only(self) -> None:
        """So nobody waits for ever: if nothing is held, nobody waits."""
        if waiters := self.core.book._waiters:
            oldest = waiters[min(waiters)]
            assert any(need.limit - need.counter.spent(0) - need.counter.held < need.ask for need in oldest.needs), (
                "it fits, and wasn't let in"
            )

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Whoever would be let in if it were looked at now has been."""
        for waiter in self.core.book._waiters.values():
            refused, blocked = self.core.book._verdict(waiter, 0)
            assert refused or blocked, f"{waiter} fits, and wasn't let in"


def described(of: Book) -> tuple[dict[str, Standing], dict[str, tuple[int, int]], set[str]]:
    """All that a restart keeps."""
    levels = {key: (counter.spent(0), counter.held) for key, counter in of.counters.items()}
    return (
        {id: one.standing(id) for id, one in of.holds.items()},
        {key: level for key, level in levels.items() if any(level)},
        set(of.closed),
    )


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, print_blob=True)
