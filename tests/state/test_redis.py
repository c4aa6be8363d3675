"""What the Store in Redis does with its server: keys and their ends, clusters, passwords, and what is said of servers
that forget."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.state.protocol import Granted, Level, Rate, Scope, StateLost
from proxy.state.redis import RedisStore
from tests.state import servers
from tests.state.asking import HOUR_NS, eventually, granted, hold, numbers, queued, refused, scope
from tests.state.servers import Server

BOUND_S = 20.0  # machines that run tests may be slow
TEAM = scope("team:search")
_prefixes = itertools.count()


@pytest.fixture
def server(server_of: Callable[[str], Server]) -> Server:
    """The server that tests share."""
    return server_of("redis")


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    """A Store with a prefix of its own."""
    store = RedisStore(server.url, prefix=f"own{next(_prefixes)}", bound_s=BOUND_S)
    yield store
    await store.aclose()


async def keys_of(store: RedisStore) -> list[bytes]:
    """All keys of a prefix."""
    prefix = store._money.base.strip("{}").partition(":")[0]
    found: list[bytes] = await store._money.call("KEYS", f"*{prefix}:*")
    return sorted(found)


async def test_nothing_stays_but_the_memory_of_what_was_closed(store: RedisStore) -> None:
    """Holds, counters that count nothing, queues and tickets go; closed ids go after an hour."""
    ids = [await granted(store, (TEAM, 50), (scope("org"), 50)) for _ in range(2)]
    waiting = await queued(store, hold((TEAM, 50), (scope("org"), 50), id="third"))
    assert len(await keys_of(store)) > 6
    for id in ids:
        await store.close(id, [0, 0])
    assert isinstance(await waiting, Granted)  # before it is closed, too
    await store.close("third", [0, 0])
    base = store._money.base.encode()
    assert await keys_of(store) == sorted([base + b":n", *(base + b":h:" + id.encode() for id in (*ids, "third"))])
    for id in ids:
        assert 3_500_000 < await store._money.call("PTTL", f"{store._money.base}:h:{id}") <= 3_600_000


async def test_what_was_spent_goes_when_it_says_nothing_any_more(store: RedisStore) -> None:
    """An hour after the end of its window, or when it has rolled out of it; and never while something is held."""
    ending, rolling, forever = (
        Scope("ending", 100, ends_ns=time.time_ns() + HOUR_NS),
        Scope("rolling", 100, span_ns=HOUR_NS),
        scope("forever"),
    )
    for of, least_ms, most_ms in ((ending, 7_100_000, 7_300_000), (rolling, 3_600_000, 3_700_000), (forever, -1, -1)):
        key = f"{store._money.base}:s:{of.key}"
        await store.close(await granted(store, (of, 10)), [5])
        assert least_ms <= await store._money.call("PTTL", key) <= most_ms
        id = await granted(store, (of, 10))
        assert await store._money.call("PTTL", key) == -1
        await store.close(id, [5])
        assert least_ms <= await store._money.call("PTTL", key) <= most_ms


async def test_holds_that_hold_nothing_go_an_hour_after_their_time(store: RedisStore) -> None:
    """Their owners left them behind, and what they spent is counted."""
    now_ns = await store.ping()
    await store.adjust("left", [0], [20], now_ns - 2 * HOUR_NS, [TEAM])
    await store.adjust("late", [0], [1], now_ns - HOUR_NS // 2, [TEAM])
    held = await granted(store, (TEAM, 5), until_ns=now_ns - 2 * HOUR_NS)
    assert sorted(one.id for one in await store.standing()) == sorted(["late", held])
    assert not await store.close("left", [20], [TEAM])
    assert await numbers(store, TEAM) == [(21, 5)]


async def test_rolling_windows_go_by_sixtieths_the_oldest_whole(store: RedisStore) -> None:
    """The sixtieth in which the span began counts; the one before it doesn't."""
    span_ns = 60 * 60 * HOUR_NS  # a slice is an hour: none ends while this runs, but for one run in many thousands
    rolling, key = Scope("rolling", 1000, span_ns=span_ns), f"{store._money.base}:s:rolling"
    number = (await store.ping()) // (60 * HOUR_NS)
    slices = {number - 61: 100, number - 60: 20, number - 1: 3}
    fields = itertools.chain.from_iterable((f"b{n}", amount) for n, amount in slices.items())
    await store._money.call("HSET", key, "s", 123, "h", 0, "o", number - 61, *fields)
    assert await store.levels([rolling]) == (Level(23, 0),)
    answer = await refused(store, (rolling, 980))
    assert abs(answer.retry_ns - ((number + 1) * 60 * HOUR_NS - await store.ping())) < HOUR_NS


async def test_limits_and_amounts_that_doubles_can_not_tell_apart(store: RedisStore) -> None:
    """A limit above 2^53 is taken for 2^53; an amount above it is a caller's mistake."""
    huge = scope("huge", 2**62)
    await granted(store, (huge, 2**53 - 1))
    await granted(store, (huge, 1))
    assert (await refused(store, (huge, 1))).why == "held"
    for mistake in (
        store.reserve(hold((huge, 2**53 + 1))),
        store.close("x", [2**53 + 1], [huge]),
        store.adjust("x", [0], [-1], 0, [huge]),
    ):
        with pytest.raises(ValueError, match=r"2\^53"):
            await mistake


async def test_old_messages_go_when_there_are_ten_thousand_newer(store: RedisStore) -> None:
    """One by one, as new ones come, and only those older than an hour."""
    old_ms, stream = time.time_ns() // 10**6 - 2 * 3_600_000, store._stream("t")
    pad = "for i = 1, 10003 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. i, 'm', i) end"
    await store._fleet.call("EVAL", pad, 1, stream, old_ms)
    for _ in range(3):
        await store.publish("t", b"new")
    assert await store._fleet.call("XLEN", stream) == 10_000
    following = store.follow("t", "")
    assert (await anext(following))[1] == b"7"
    await following.aclose()  # type: ignore[attr-defined]


async def test_prefixes_are_apart(server: Server) -> None:
    """Two fleets on one server don't see each other; a prefix can't break the hash tags."""
    one, two = RedisStore(server.url, prefix="fleet-a", bound_s=BOUND_S), RedisStore(server.url, prefix="fleet-b")
    await granted(one, (TEAM, 60))
    assert await numbers(two, TEAM) == [(0, 0)]
    for store in (one, two):
        await store.aclose()
    for wrong in ("", "{weir}"):
        with pytest.raises(ValueError):
            RedisStore(server.url, prefix=wrong)


async def test_many_calls_in_flight_are_one_connection(store: RedisStore) -> None:
    """Which keeps what was asked in order."""
    name = f"own-{time.time_ns()}"
    await store._money.call("CLIENT", "SETNAME", name)
    asked = [hold((TEAM, 1)) for _ in range(100)]
    answers = await asyncio.gather(*[store.reserve(one) for one in asked])
    assert [answer.levels[0].held for answer in answers] == list(range(1, 101))
    clients = (await store._money.call("CLIENT", "LIST")).decode().splitlines()
    assert len([client for client in clients if f"name={name}" in client]) == 1


async def test_scripts_that_the_server_forgot_are_sent_again(store: RedisStore) -> None:
    """SCRIPT FLUSH, or a restart, is nobody's problem."""
    id = await granted(store, (TEAM, 60))
    await store._money.call("SCRIPT", "FLUSH")
    assert await store.close(id, [10])


async def test_a_lost_wake_costs_a_moment(store: RedisStore, server: Server) -> None:
    """Whoever waits also asks on its own."""
    id = await granted(store, (TEAM, 80))
    waiting = await queued(store, hold((TEAM, 50)))
    channels = f"{store._money.base}:wake:*"

    async def subscribed() -> bool:
        return bool(await store._money.call("PUBSUB", "CHANNELS", channels))

    await eventually(subscribed)
    await store._money.call("CLIENT", "KILL", "TYPE", "pubsub")
    await store.close(id, [0])
    assert isinstance(await waiting, Granted)


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
async def test_schemes_and_passwords(tmp_path: Path, scheme: str) -> None:
    """The URL says it all; a wrong password is a lost Store, saying why."""
    with servers.running(_program(), tmp_path, "--requirepass", "p/ss:w", "--save", "") as server:
        right = RedisStore(f"{scheme}://:p%2Fss%3Aw@127.0.0.1:{server.port}/0", bound_s=BOUND_S)
        assert await right.ping()
        await right.aclose()
        for url in (f"{scheme}://:wrong@127.0.0.1:{server.port}/0", f"{scheme}://127.0.0.1:{server.port}/0"):
            wrong = RedisStore(url, bound_s=BOUND_S)
            with pytest.raises(StateLost, match=r"(?i)password|auth"):
                await wrong.ping()
            await wrong.aclose()


async def test_a_user_that_may_do_no_more_than_it_needs(tmp_path: Path) -> None:
    """The rights that the guide names are enough for everything, warnings too; and without those two all but these."""
    guide = (Path(__file__).parents[2] / "docs/guide/redis.md").read_text()
    (rights,) = re.findall(r"user of its own needs `(.*?)`", guide)
    with servers.running(_program(), tmp_path, "--save", "", "--appendonly", "no") as server:
        for number, given in enumerate((rights.split(), rights.replace("+info +config|get", "").split())):
            server.say("ACL", "SETUSER", f"u{number}", "on", ">secret", *given)
            log = Log()
            store = RedisStore(f"redis://u{number}:secret@127.0.0.1:{server.port}/0", bound_s=BOUND_S, log=log)
            id = await granted(store, (TEAM, 60))
            waiting = await queued(store, hold((TEAM, 60)))
            assert await store.close(id, [0])
            assert isinstance(await waiting, Granted)
            await store.close((await store.standing())[0].id, [0])
            assert (await store.take([Rate("a", 5, HOUR_NS)]))[0].allowed
            await store.put("k", b"v", 60, ["t"])
            assert await store.keys("") == ["k"]
            assert await store.delete_tagged("t") == 1
            assert await store.claim("duty", f"u{number}", 60)
            await store.resign("duty", f"u{number}")
            await store.publish("t", b"m")
            following = store.follow("t", "")
            assert (await anext(following))[1] == b"m"
            await following.aclose()  # type: ignore[attr-defined]
            await store.aclose()
            assert [event for event, _ in log.said] == (["redis_not_durable"] if number == 0 else [])


async def test_a_socket_of_this_host(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a port."""
    home = tmp_path_factory.mktemp("r")
    with servers.running(_program(), home, "--unixsocket", str(home / "s"), "--save", ""):
        store = RedisStore(f"unix://{home / 's'}", bound_s=BOUND_S)
        await granted(store, (TEAM, 60))
        await store.aclose()


async def test_a_cluster_is_followed(tmp_path: Path) -> None:
    """Each concern goes to the node that has its slot, whichever node the URL names."""
    with servers.cluster_of_two(_program(), tmp_path) as nodes:
        for node in nodes:
            store = RedisStore(node.url, prefix=f"at{node.port}", bound_s=BOUND_S)
            id = await granted(store, (TEAM, 60), (scope("org"), 60))
            waiting = await queued(store, hold((TEAM, 60)))
            assert await store.close(id, [10, 10])
            assert isinstance(await waiting, Granted)
            assert (await store.take([Rate("a", 5, HOUR_NS), Rate("b", 5, HOUR_NS)]))[0].allowed
            await store.put("k", b"v", 60, ["t"])
            assert await store.delete_tagged("t") == 1
            assert await store.claim("duty", "me", 60)
            position = await store.publish("t", b"m")
            following = store.follow("t", "")
            assert await anext(following) == (position, b"m")
            await following.aclose()  # type: ignore[attr-defined]
            await store.aclose()
        assert all(int(node.say("DBSIZE")[1:]) > 0 for node in nodes), "both nodes have something"


class Log:
    """What was said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        assert level == "warning"
        self.said.append((event, fields))


@pytest.mark.parametrize(
    ("options", "events"),
    [
        (("--appendonly", "yes", "--save", ""), []),
        (("--appendonly", "no", "--save", ""), ["redis_not_durable"]),
        (("--appendonly", "yes", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), ["redis_evicts"]),
    ],
)
async def test_a_server_that_may_forget_is_warned_of_once(
    tmp_path: Path, options: tuple[str, ...], events: list[str]
) -> None:
    """Eviction would forget budgets, and so would a restart without a file."""
    with servers.running(_program(), tmp_path, *options) as server:
        log = Log()
        store = RedisStore(server.url, bound_s=BOUND_S, log=log)
        await store.ping()
        await store.get("another connection")
        await store._money.call("CLIENT", "KILL", "TYPE", "normal")
        await store.ping()
        await store.aclose()
        assert [event for event, _ in log.said] == events


def _program() -> str:
    try:
        return servers.redis_program()
    except servers.Unavailable as error:
        pytest.skip(str(error))
