"""What `ratelimit` decides: its options, stocks, headers and words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.ratelimit import foretell, told
from policies.ratelimit.config import Config, rate
from policies.ratelimit.config import Rate as Written
from policies.ratelimit.stock import FEW, KEEP_S, NEAR_S, Stock
from policies.ratelimit.taking import Taking
from proxy.state.memory import MemoryStore
from proxy.state.protocol import Rate, StateLost, Taken

MINUTE_NS = 60 * 10**9


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s

    def ns(self) -> int:
        return round(self.s * 1e9)


def taking(store: Any, clock: Clock, workers: int = 4) -> Taking:
    return Taking(store, workers, clock, automatic=False)


def stock(limit: int = 600, key: str = "req:k") -> Stock:
    return Stock(Rate(key, limit, MINUTE_NS))


# --- options


@pytest.mark.parametrize(
    ("written", "amount", "period", "burst"),
    [
        ("600/minute", 600, "minute", None),
        ("90k / min", 90_000, "minute", None),
        ("1.5M/day", 1_500_000, "day", None),
        ("100/s, burst 20", 100, "second", 20),
        ("10/h burst 2k", 10, "hour", 2000),
        ("0/minute", 0, "minute", None),
    ],
)
def test_rates_as_people_write_them(written: str, amount: int, period: str, burst: int | None) -> None:
    """Numbers with k and M, periods long and short, and a burst; written back, they read the same."""
    assert rate(written) == Written(amount, period, burst)
    assert rate(str(rate(written))) == rate(written)


@pytest.mark.parametrize("wrong", ["600", "600 per minute", "600/fortnight", "0.5/minute", "-1/minute", 600, None])
def test_what_is_no_rate(wrong: object) -> None:
    """Anything else is answered by an example."""
    with pytest.raises(ValidationError) as caught:
        Config(requests=wrong, concurrency=1) if wrong is not None else Config(requests=())
    assert caught.value.error_count() >= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"per": "key", "wait": "2s"},
        {"requests": "1/minute", "per": "keys"},
        {"requests": "1/minute", "per": ["team", "model"], "overrides": {"search": {"requests": "2/minute"}}},
        {"concurrency": 0},
        {"requests": "1/minute", "on_lost_state": "wait"},
        {"requests": "1/minute", "burst": 3},
    ],
)
def test_what_is_no_limit(wrong: dict[str, Any]) -> None:
    """Nothing limited, unknown subjects, overrides of half a combination, and unknown keys are errors."""
    with pytest.raises(ValidationError):
        Config.model_validate(wrong)


def test_options_survive_json() -> None:
    """What the supervisor sends to the workers reads the same there."""
    config = Config(
        per=["team", "model"], requests=["600/minute", "10k/day"], tokens="90k/minute, burst 20k", wait="2s"
    )  # type: ignore[arg-type]
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_foretold() -> None:
    """`weir explain` names the limits and whose they are."""
    config = Config(per="key", requests="600/minute", tokens="90k/minute", concurrency=20)  # type: ignore[arg-type]
    said = foretell(config, None)  # type: ignore[arg-type]
    assert said == "counts it for 600 requests/minute, 90000 tokens/minute, 20 at once per key"


# --- stocks


async def test_most_requests_ask_nobody() -> None:
    """Far from the limit, a worker's requests are carried by what it took ahead."""
    clock = Clock()
    store = Counting(clock)
    mine, one = taking(store, clock), stock(60_000)
    for _ in range(1000):
        assert await mine.take([one], [1]) is None
        await mine.settled()
    assert store.calls < 20


async def test_exact_near_the_limit() -> None:
    """Workers that take in turn get the limit, all of it and no more."""
    clock = Clock()
    store = MemoryStore(clock.ns)
    workers = [(taking(store, clock), stock()) for _ in range(4)]
    admitted = 0
    for number in range(2400):
        mine, one = workers[number % 4]
        admitted += await mine.take([one], [1]) is None
        await mine.settled()
    assert admitted == 600


async def test_what_is_in_stock_comes_back() -> None:
    """A worker that stops using a rate gives back what it had in stock, and another can use it."""
    clock = Clock()
    store = MemoryStore(clock.ns)
    (idle, its), (busy, others) = [(taking(store, clock), stock(6000)) for _ in range(2)]
    assert await idle.take([its], [1]) is None
    await idle.settled()
    assert its.units > 0
    clock.s += KEEP_S
    await idle.tell()
    assert its.clean
    assert await busy.take([others], [5999]) is None


async def test_all_or_nothing() -> None:
    """A request that one rate refuses takes nothing of the others."""
    clock = Clock()
    store = MemoryStore(clock.ns)
    mine, requests, tokens = taking(store, clock), stock(10, "req:k"), stock(1000, "tok:k")
    assert await mine.take([requests, tokens], [1, 900]) is None
    short = await mine.take([requests, tokens], [1, 200])
    assert short is not None
    assert (short.at, round(short.retry_s)) == (1, 6)
    assert (requests.remaining(clock.s), tokens.remaining(clock.s)) == (9, 100)


async def test_corrections_are_told() -> None:
    """What came to less is given back, what came to more is owed and told."""
    clock = Clock()
    store = MemoryStore(clock.ns)
    mine, one = taking(store, clock), stock(1000)
    assert await mine.take([one], [500]) is None
    mine.correct([one], [500], [100])
    await mine.tell()
    (said,) = await store.take([Rate("req:k", 1000, MINUTE_NS, 0)])
    assert said.remaining == 900
    assert await mine.take([one], [100]) is None
    mine.correct([one], [100], [700])
    assert one.remaining(clock.s) == 200
    await mine.tell()
    (said,) = await store.take([Rate("req:k", 1000, MINUTE_NS, 0)])
    assert said.remaining == 200


async def test_never_fits() -> None:
    """More than ever fits at once is refused without a time to come again."""
    clock = Clock()
    short = await taking(MemoryStore(clock.ns), clock).take([stock(100)], [101])
    assert short == (0, 0.0)


async def test_a_lost_store_is_told_later() -> None:
    """While the Store is lost nothing can be taken; what is used nevertheless is owed, one burst at most."""
    clock = Clock()
    store = Counting(clock)
    mine, one = taking(store, clock), stock(100)
    store.lost = True
    with pytest.raises(StateLost):
        await mine.take([one], [1])
    for _ in range(300):
        mine.owe([one], [1])
    await mine.tell()
    assert one.owed == 100
    store.lost = False
    await mine.tell()
    assert one.owed == 0
    short = await mine.take([one], [1])
    assert short is not None
    assert short.retry_s == pytest.approx(0.6, abs=0.01)


async def test_whoever_leaves_takes_nothing() -> None:
    """A client that leaves while the Store is asked has used nothing of its limit."""
    import asyncio

    clock = Clock()
    store = Counting(clock)
    store.hold = asyncio.Event()
    mine, one = taking(store, clock), stock(100)
    asking = asyncio.create_task(mine.take([one], [60]))
    await store.asked.wait()
    asking.cancel()
    await asyncio.wait([asking])
    store.hold.set()
    await mine.settled()
    assert await mine.take([one], [100]) is None


async def test_closing_gives_back() -> None:
    """A policy that is closed leaves its stock to others."""
    clock = Clock()
    store = MemoryStore(clock.ns)
    mine, one = taking(store, clock), stock(6000)
    assert await mine.take([one], [1]) is None
    await mine.settled()
    await mine.aclose()
    assert await taking(store, clock).take([stock(6000)], [5999]) is None


@settings(max_examples=25, deadline=None)
@given(data=st.data())
async def test_no_more_than_the_rate(data: st.DataObject) -> None:
    """Whatever four workers ask, when, and what it comes to: what was used never passes burst and what came back."""
    clock = Clock()
    store = MemoryStore(clock.ns)
    limit = data.draw(st.integers(20, 5000))
    workers = [(taking(store, clock), stock(limit)) for _ in range(4)]
    began, used, over = clock.s, 0, 0
    for _ in range(data.draw(st.integers(1, 60))):
        mine, one = workers[data.draw(st.integers(0, 3))]
        for _ in range(data.draw(st.integers(1, 20))):
            cost = data.draw(st.integers(1, max(1, limit // 10)))
            if await mine.take([one], [cost]) is None:
                came = data.draw(st.integers(0, 2 * cost))
                mine.correct([one], [cost], [came])
                used += came
                over += max(0, came - cost)
            await mine.settled()
        if data.draw(st.booleans()):
            await mine.tell()
        clock.s += data.draw(st.floats(0, 3))
        assert used - over <= limit + (clock.s - began) * limit / 60 + 1


def test_near_the_limit_nothing_is_stocked() -> None:
    """A share that carries few requests isn't worth a stock; after a refusal none is drawn for a while."""
    one = stock(600)
    one.learn(Taken(True, 600, 0), 0.0)
    assert one.wanted(1, 4, 0.0) == 2 * FEW
    assert one.wanted(70, 4, 0.0) == 0
    one.learn(Taken(False, 600, 0), 1.0)
    assert one.wanted(1, 4, 1.0) == 0
    assert one.wanted(1, 4, 1.0 + NEAR_S) == 2 * FEW


class Counting(MemoryStore):
    """A Store that counts its calls, can be lost, and can be slow."""

    def __init__(self, clock: Clock) -> None:
        import asyncio

        super().__init__(clock.ns)
        self.calls = 0
        self.lost = False
        self.hold: asyncio.Event | None = None
        self.asked = asyncio.Event()

    async def take(self, rates: Any) -> tuple[Taken, ...]:
        self.calls += 1
        self.asked.set()
        if self.lost:
            raise StateLost
        taken = await super().take(rates)
        if self.hold is not None:
            await self.hold.wait()
        return taken

    async def give(self, rates: Any) -> None:
        if self.lost:
            raise StateLost
        await super().give(rates)


# --- words


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0s"), (0.0071, "8ms"), (0.12, "120ms"), (1, "1s"), (8.64, "8.64s"), (360, "6m0s"), (3661, "1h1m1s")],
)
def test_durations_as_openai_writes_them(seconds: float, written: str) -> None:
    """Milliseconds below a second, then seconds, minutes, hours; never less than it takes."""
    assert told.duration(seconds) == written


def test_what_is_left_comes_back() -> None:
    """Between two words of the Store, what is left grows by the rate, and never beyond its most."""
    one = stock(600)
    one.learn(Taken(True, 0, MINUTE_NS), 100.0)
    assert [one.remaining(at) for at in (100.0, 100.25, 106.0, 1000.0)] == [0, 2, 60, 600]
    assert [one.reset_s(left) for left in (60, 600)] == [pytest.approx(54), 0]
