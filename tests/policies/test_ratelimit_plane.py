"""`ratelimit` on the wire, before a simulated provider."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from policies import ratelimit
from policies.ratelimit.layer import RateLimit
from proxy.chain import Services
from proxy.endpoints import endpoint_of
from proxy.exchange import Attempt, Exchange, Identity, Request
from proxy.metrics import Metrics
from proxy.simulator import Simulator
from proxy.state.memory import MemoryStore
from proxy.state.protocol import Rate, StateLost
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry, key, running
from tests.wire.raw import Answer

REGISTRY = {"ratelimit": ratelimit}
MINUTE_NS = 60 * 10**9


def limits(**options: Any) -> dict[str, Any]:
    """Settings of a plane with one rate limit."""
    return {"policies": [entry("ratelimit", **options)], "registry": REGISTRY, "store": options.pop("store", None)}


def left(answer: Answer, kind: str) -> int:
    """What an answer says is left."""
    value = answer.header(f"x-ratelimit-remaining-{kind}".encode())
    assert value is not None
    return int(value)


def error(answer: Answer) -> dict[str, Any]:
    """The error of an answer."""
    found: dict[str, Any] = orjson.loads(answer.body)["error"]
    return found


async def used(store: MemoryStore, key: str, limit: int) -> int:
    """What the Store has of a rate a minute."""
    (said,) = await store.take([Rate(key, limit, MINUTE_NS, 0)])
    return limit - said.remaining


async def test_headers_move(serve: Serve) -> None:
    """Each answer says what is left: of requests one less, of tokens less what was used; the upstream's words go."""
    settings = {**limits(requests="60/hour", tokens="10k/hour"), "store": MemoryStore()}
    async with serve(**settings) as plane:
        first = await plane.chat("x-sim-tokens: 40", max_tokens=50)
        second = await plane.chat("x-sim-tokens: 40", max_tokens=50)
        assert first.header(b"x-ratelimit-limit-requests") == b"60"
        assert first.header(b"x-ratelimit-limit-tokens") == b"10000"
        assert (left(first, "requests"), left(second, "requests")) == (59, 58)
        (one, two) = [record["tokens"] for record in plane.journal("settled")]
        assert left(first, "tokens") == 10_000 - one["input_tokens"] - one["output_tokens"]
        assert left(second, "tokens") == left(first, "tokens") - two["input_tokens"] - two["output_tokens"]
        assert first.header(b"x-ratelimit-reset-requests") == b"1m0s"


async def test_streams_count_what_they_came_to(serve: Serve) -> None:
    """A stream reserves its cap while it runs; what it came to is what stays used."""
    store = MemoryStore()
    async with serve(**{**limits(tokens="10k/minute"), "store": store}) as plane:
        answer = await plane.chat("x-sim-tokens: 30", "x-sim-token-ms: 5", stream=True, max_tokens=5000)
        assert answer.status == 200
        assert 4900 < left(answer, "tokens") < 5000
        tokens = plane.settled()["tokens"]
        after = await plane.chat("x-sim-tokens: 30", max_tokens=100)
        assert 10_000 - 3 * (tokens["input_tokens"] + tokens["output_tokens"]) < left(after, "tokens")


async def test_refused_in_openais_words(serve: Serve, simulator: Simulator) -> None:
    """429 with what ran out as type, the code that SDKs know, and when to come again; the upstream isn't called."""
    async with serve(**{**limits(requests="2/hour", per="model"), "store": MemoryStore()}) as plane:
        for _ in range(2):
            assert (await plane.chat(max_tokens=5)).status == 200
        answer = await plane.chat(max_tokens=5)
        assert answer.status == 429
        assert (error(answer)["type"], error(answer)["code"]) == ("requests", "rate_limit_exceeded")
        assert "model gpt-4o-mini is 2 requests a hour: 0 are left" in error(answer)["message"]
        retry_s, retry_ms = answer.header(b"retry-after"), answer.header(b"retry-after-ms")
        assert retry_s is not None
        assert retry_ms is not None
        assert 1790 <= int(retry_s) <= 1800
        assert 1_790_000 <= int(retry_ms) <= 1_800_000
        assert left(answer, "requests") == 0
        assert answer.header(b"x-weir-policies") == b"ratelimit=refused"
        assert (await plane.chat(max_tokens=5, model="gpt-4o")).status == 200
        assert sum(row.requests for row in simulator.invoice().rows) == 3


async def test_tokens_are_reserved(serve: Serve) -> None:
    """What a request may come to must fit before it is sent: its input and its cap."""
    async with serve(**{**limits(tokens="1000/hour"), "store": MemoryStore()}) as plane:
        too_large = await plane.chat(max_tokens=1001)
        assert (too_large.status, error(too_large)["type"]) == (429, "tokens")
        assert too_large.header(b"x-should-retry") == b"false"
        assert too_large.header(b"retry-after") is None
        assert (await plane.chat("x-sim-tokens: 900", max_tokens=900)).status == 200
        answer = await plane.chat(max_tokens=300)
        assert (answer.status, error(answer)["type"]) == (429, "tokens")
        assert answer.header(b"retry-after") is not None


async def test_without_a_cap(serve: Serve) -> None:
    """A request that doesn't say how long its answer may be is taken for `output` tokens."""
    async with serve(**{**limits(tokens="1000/hour", output=990), "store": MemoryStore()}) as plane:
        assert (await plane.chat("x-sim-tokens: 10")).status == 429
        assert (await plane.chat("x-sim-tokens: 10", max_tokens=20)).status == 200


async def test_apart_for_each_subject(serve: Serve) -> None:
    """Limits are per key; one key's use leaves the others' alone, and an override is for one of them."""
    keys = [key("sk-one", "one", team="a"), key("sk-two", "two", team="a"), key("sk-three", "three", team="b")]
    options = {"per": "key", "requests": "1/hour", "overrides": {"two": {"requests": "2/hour"}}}
    async with serve(**{**limits(**options), "store": MemoryStore()}, keys=keys) as plane:
        statuses = {
            name: [(await plane.chat(f"authorization: Bearer sk-{name}", max_tokens=5)).status for _ in range(3)]
            for name in ("one", "two", "three")
        }
    assert statuses == {"one": [200, 429, 429], "two": [200, 200, 429], "three": [200, 429, 429]}


async def test_two_policies_are_one_step(serve: Serve) -> None:
    """What the inner limit refuses takes nothing of the outer; headers tell of the one with the least left."""
    policies = [
        entry("ratelimit", name="all", requests="100/hour"),
        entry("ratelimit", name="mine", per="key", requests="2/hour"),
    ]
    store = MemoryStore()
    async with serve(policies=policies, registry=REGISTRY, store=store) as plane:
        answers = [await plane.chat(max_tokens=5) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 429, 429]
        assert [left(answer, "requests") for answer in answers] == [1, 0, 0, 0]
        assert answers[0].header(b"x-ratelimit-limit-requests") == b"2"
        assert "`mine`" in error(answers[2])["message"]
        await settled(plane)
        (said,) = await store.take([Rate("req:all||h", 100, 60 * MINUTE_NS, 0)])
        assert said.remaining == 98


async def settled(plane: Plane) -> None:
    """Everything in stock is given back, everything owed is told."""
    for item in plane.plane.state.chain.built:
        await item.policy.aclose()  # type: ignore[attr-defined]


async def test_so_many_at_once(serve: Serve, simulator: Simulator) -> None:
    """Of calls that run, no more than `concurrency`; the next comes in when one has ended."""
    async with serve(**{**limits(concurrency=2, per="key"), "store": MemoryStore()}) as plane:
        running = [asyncio.create_task(plane.chat(fault="no-headers", max_tokens=5)) for _ in range(2)]
        while len(plane.journal("reserved")) < 2:
            await asyncio.sleep(0.005)
        refused = await plane.chat(max_tokens=5)
        assert (refused.status, error(refused)["code"]) == (429, "rate_limit_exceeded")
        assert "2 requests at once" in error(refused)["message"]
        assert refused.header(b"retry-after") == b"1"
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await plane.quiet()
        assert (await plane.chat(max_tokens=5)).status == 200


async def test_waiting_for_a_place(serve: Serve) -> None:
    """With `wait`, more than fit at once are all answered, one after another."""
    async with serve(**{**limits(concurrency=1, wait="20s"), "store": MemoryStore()}) as plane:
        answers = await asyncio.gather(*[plane.chat(max_tokens=5) for _ in range(6)])
        assert [answer.status for answer in answers] == [200] * 6


async def test_waiting_for_a_rate(serve: Serve) -> None:
    """With `wait`, a request waits for what it needs to come back; what takes longer than that is refused at once."""
    async with serve(**{**limits(requests="50/second, burst 1", wait="20s"), "store": MemoryStore()}) as plane:
        answers = await asyncio.gather(*[plane.chat(max_tokens=5) for _ in range(8)])
        assert [answer.status for answer in answers] == [200] * 8
    async with serve(**{**limits(requests="1/hour", wait="20s"), "store": MemoryStore()}) as plane:
        assert [(await plane.chat(max_tokens=5)).status for _ in range(2)] == [200, 429]


async def test_what_was_never_sent_costs_nothing(serve: Serve) -> None:
    """An upstream that can't be reached uses nothing of the limit."""
    async with serve(
        **{**limits(requests="1/hour", tokens="1000/hour"), "store": MemoryStore()}, url="http://127.0.0.1:9/v1"
    ) as plane:
        for _ in range(3):
            assert (await plane.chat(max_tokens=900)).status == 503


async def test_refusals_of_the_upstream_cost_a_request(serve: Serve) -> None:
    """An upstream's own 429 used a request and no tokens; its headers about its own limits don't reach the client."""
    store = MemoryStore()
    async with serve(**{**limits(requests="10/minute", tokens="1000/minute"), "store": store}) as plane:
        answer = await plane.chat(fault="rate-limit", max_tokens=900)
        assert answer.status == 429
        assert left(answer, "requests") == 9
        assert left(answer, "tokens") == 1000


class Lost(MemoryStore):
    """A Store that can be lost."""

    lost = True

    async def take(self, rates: Any) -> Any:
        if self.lost:
            raise StateLost
        return await super().take(rates)

    async def give(self, rates: Any) -> None:
        if self.lost:
            raise StateLost
        await super().give(rates)

    async def reserve(self, hold: Any, wait_s: float = 0.0) -> Any:
        if self.lost:
            raise StateLost
        return await super().reserve(hold, wait_s)


@pytest.mark.parametrize(("rule", "status"), [("admit", 200), ("refuse", 503)])
async def test_a_lost_state(serve: Serve, rule: str, status: int) -> None:
    """While the state is lost, requests are admitted and counted later, or refused, as the policy says."""
    options = {"requests": "5/hour", "concurrency": 2, "on_lost_state": rule}
    store = Lost()
    async with serve(**{**limits(**options), "store": store}) as plane:
        answers = [await plane.chat(max_tokens=5) for _ in range(3)]
        assert [answer.status for answer in answers] == [status] * 3
        assert plane.metrics.snapshot()["events"]["ratelimit_state_lost"] >= 3
        if rule == "refuse":
            assert error(answers[0])["code"] == "ratelimit_unavailable"
        store.lost = False
        await settled(plane)
        (said,) = await store.take([Rate("req:ratelimit||h", 5, 60 * MINUTE_NS, 0)])
        assert said.remaining == (2 if rule == "admit" else 5)


async def test_anthropics_words(serve: Serve) -> None:
    """Anthropic's clients find the fields and the error that they know."""
    async with serve(**{**limits(requests="1/hour"), "store": MemoryStore()}) as plane:
        asked = {"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        answer = await plane.post("/v1/messages", asked)
        assert answer.status == 200
        assert answer.header(b"anthropic-ratelimit-requests-limit") == b"1"
        assert answer.header(b"anthropic-ratelimit-requests-remaining") == b"0"
        reset = answer.header(b"anthropic-ratelimit-requests-reset")
        assert reset is not None
        assert reset.endswith(b"Z")
        assert answer.header(b"x-ratelimit-limit-requests") is None
        refused = await plane.post("/v1/messages", asked)
        assert (refused.status, error(refused)["type"]) == (429, "rate_limit_error")


async def test_observed(serve: Serve) -> None:
    """Observed, a limit refuses nobody, and notes whom it would have refused."""
    async with serve(**{**limits(requests="1/hour", mode="observe"), "store": MemoryStore()}) as plane:
        answers = [await plane.chat(max_tokens=5) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].header(b"x-ratelimit-limit-requests") != b"1"
        await plane.quiet()
        noted = [decision["action"] for record in plane.journal("ended") for decision in record["decisions"]]
        assert "would_refuse" in noted


async def test_without_a_state(serve: Serve) -> None:
    """Where nothing is shared there is nothing to count by: as if it were lost."""
    async with serve(**limits(requests="1/hour")) as plane:
        assert [(await plane.chat(max_tokens=5)).status for _ in range(2)] == [200, 200]
    async with serve(**limits(requests="1/hour", on_lost_state="refuse")) as plane:
        assert (await plane.chat(max_tokens=5)).status == 503


async def test_several_workers(simulator: Simulator, tmp_path: Path) -> None:
    """Four workers that share a Store admit what the limit says together: all of it, and no more."""
    store, policies = MemoryStore(), [entry("ratelimit", requests="60/hour")]
    async with AsyncExitStack() as stack:
        planes = [
            await stack.enter_async_context(
                running(simulator.url, tmp_path / str(number), policies, REGISTRY, store=store, workers=4)
            )
            for number in range(4)
        ]
        answers = await asyncio.gather(*[planes[number % 4].chat(max_tokens=5) for number in range(160)])
        assert sorted(answer.status for answer in answers) == [200] * 60 + [429] * 100
        assert sum(row.requests for row in simulator.invoice().rows) == 60


async def test_in_turn() -> None:
    """Those who wait for a rate come in in the order in which they came, and nobody who comes later overtakes them."""
    now_s, came = 1000.0, list[int]()
    waiting: list[asyncio.Event] = []

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        waked = asyncio.Event()
        waiting.append(waked)
        await waked.wait()
        now_s += seconds

    services = Services(
        "turns",
        "p:1",
        False,
        None,
        Metrics(),
        lambda: now_s,
        print,
        None,
        MemoryStore(lambda: round(now_s * 1e9)),  # type: ignore[arg-type]
    )
    config = ratelimit.Config.model_validate({"requests": "1/second, burst 1", "wait": "60s"})
    policy = RateLimit(config, services, sleep)
    exchange = Exchange(Identity("tenant"))
    endpoint = endpoint_of("POST", "/v1/chat/completions")
    assert endpoint is not None
    request = Request(exchange, endpoint, "POST", b"/", "/", [], b"", "m")

    async def ask(number: int) -> None:
        await policy.gate(Attempt(exchange, request, 1, "d", "u", "m"))
        came.append(number)

    asking = []
    for number in range(5):
        asking.append(asyncio.create_task(ask(number)))
        await asyncio.sleep(0)
    while len(came) < 5:
        if waiting:
            waiting.pop().set()
        await asyncio.sleep(0)
    assert came == [0, 1, 2, 3, 4]
    assert now_s >= 1004
    await policy.aclose()
