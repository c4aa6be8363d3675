"""`budget` on the wire, before a simulated provider; what was spent is what its invoice says."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from policies import allow, budget, defer_to_batch
from proxy.config.upstreams import Price
from proxy.exchange import Forward, Request
from proxy.pricing import RateCards
from proxy.response import Response
from proxy.simulator import Simulator
from proxy.state.memory import MemoryStore
from proxy.state.protocol import Granted, Hold, Refused, StateLost
from proxy.tokens import Estimator
from tests.patience import PATIENCE_S
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry, key, running

REGISTRY = {"budget": budget}
MINI = (150, 600)  # gpt-4o-mini, nano-dollars a token in and out


def billed(simulator: Simulator) -> int:
    """The invoice in nano-dollars, for gpt-4o-mini without caching."""
    total = simulator.invoice().total
    return (total.input - total.cached) * MINI[0] + total.cached * MINI[0] // 2 + total.output * MINI[1]


async def test_counts_what_is_billed(serve: Serve, simulator: Simulator) -> None:
    """What is spent of the budget is the invoice, to the nano-dollar; headers say how full it is."""
    store = MemoryStore()
    async with serve(policies=[entry("budget", limit="1 USD/rolling 1h")], registry=REGISTRY, store=store) as plane:
        for stream in (False, True):
            answer = await plane.chat(max_tokens=50, stream=stream)
            assert answer.status == 200
            assert answer.header(b"x-weir-budget") == b"everything; 0% of 1 USD/rolling 1h"
        ((*labels, used),) = plane.metrics.snapshot()["shares"]
        assert (labels, 0 <= used < 0.01) == (["budget", "everything", "1 USD/rolling 1h"], True)
        purse = plane.plane.purse
        assert purse is not None
        await purse.tell()
        (policy,) = [item.policy for item in plane.plane.state.chain.built]
        (account,) = policy._accounts.made()  # type: ignore[attr-defined]
        assert purse.spent(account.lines[0].scope) == billed(simulator) > 0
        assert plane.journal("reserved")[0]["holds"]


async def test_a_contract_by_name_settles_versions(simulator: Simulator, tmp_path: Path, cards: RateCards) -> None:
    """The answer names a version of the model: what was held by the contract's price is also charged by it."""
    contract = cards.overridden({"gpt-4o-mini": [Price(multiplier=Decimal(10))]})
    policies, store = [entry("budget", limit="1 USD/rolling 1h")], MemoryStore()
    async with running(
        simulator.url, tmp_path, cards=contract, policies=policies, registry=REGISTRY, store=store
    ) as plane:
        assert orjson.loads((await plane.chat(max_tokens=20)).body)["model"] == "gpt-4o-mini-2024-07-18"
        (settled,) = plane.journal("settled")
        assert settled["nanodollars"] == 10 * billed(simulator) > 0


@pytest.mark.parametrize(("hard", "estimates"), [("true", 0), ("false", 1)])
async def test_what_is_proven_is_not_estimated(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, hard: str, estimates: int
) -> None:
    """A hard budget reserves by a bound: nothing is estimated for it. A soft one counts the estimate."""
    seen: list[str] = []
    estimate = Estimator.estimate

    def counting(self: Estimator, model: str, endpoint: str, body: Any) -> int:
        seen.append(model)
        return estimate(self, model, endpoint, body)

    monkeypatch.setattr(Estimator, "estimate", counting)
    policies = [entry("budget", limit="1 USD/rolling 1h", hard=hard)]
    async with serve(policies=policies, registry=REGISTRY, store=MemoryStore()) as plane:
        assert (await plane.chat(max_tokens=50)).status == 200
    assert len(seen) == estimates


async def test_spent(serve: Serve, simulator: Simulator) -> None:
    """Used up, it is refused in OpenAI's words, with the scope, the limit, what is used and when that ends."""
    policies = [entry("budget", 4, per="team", limit="0.00002 USD/month", time_zone="Europe/Berlin")]
    keys = [key("wk-a", "key-a", team="search"), key("wk-b", "key-b", team="ads")]
    async with serve(policies=policies, registry=REGISTRY, keys=keys, store=MemoryStore()) as plane:
        mine, theirs = "authorization: Bearer wk-a", "authorization: Bearer wk-b"
        statuses = [(await plane.chat(mine, max_tokens=1)).status for _ in range(1)]
        assert statuses == [429]  # its bound doesn't fit
        refused = await plane.chat(mine, max_tokens=1)
        assert (refused.error["type"], refused.error["code"]) == ("insufficient_quota", "insufficient_quota")
        for part in ("`budget`", "team search", "0.00002 USD/month", "resets on 20"):
            assert part in refused.error["message"]
        assert refused.header(b"x-should-retry") == b"false"
        assert int(refused.header(b"retry-after") or 0) > 0
        assert (refused.header(b"x-weir-budget") or b"").startswith(b"team search; 0% of 0.00002 USD/month; resets ")
        assert (await plane.chat(theirs, max_tokens=1)).status == 429
        decision = plane.journal("ended")[0]["decisions"][0]
        assert (decision["action"], decision["source"]) == ("refused", "policies.yaml:4")
    assert not simulator.requests


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_bursts_are_never_overspent(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """Hundreds at once with lognormal answers: not a nano-dollar over the limit by the invoice, and no answer cut."""
    limit, cap = 0.002, 400
    draw = random.Random(7)
    store = MemoryStore()
    policies = [entry("budget", limit=f"{limit} USD/rolling 1h", max_wait="5s")]
    async with serve(policies=policies, registry=REGISTRY, store=store) as plane:

        async def one() -> tuple[int, Any]:
            tokens = min(cap, max(1, int(draw.lognormvariate(4, 1))))
            answer = await plane.chat(f"x-sim-tokens: {tokens}", max_tokens=cap, stream=stream)
            return answer.status, answer

        answers = await asyncio.gather(*[one() for _ in range(300)])
        statuses = {status for status, _ in answers}
        assert statuses == {200, 429}
        spent = billed(simulator)
        worst = max(record["estimate"]["nanodollars"] for record in plane.journal("reserved"))
        assert limit * 1e9 - worst <= spent <= limit * 1e9
        refused = [answer for status, answer in answers if status == 429]
        assert {answer.error["code"] for answer in refused} <= {"insufficient_quota", "budget_reserved"}
        assert b'"finish_reason":"length"' not in b"".join(answer.body for status, answer in answers if status == 200)
        await plane.quiet()
        assert await store.standing() == []


async def test_shrink(serve: Serve, simulator: Simulator) -> None:
    """With `shrink`, the end of the budget is used too: by shorter answers, never by more than there is."""
    limit = 0.001
    options = {"limit": f"{limit} USD/rolling 1h", "shrink": True, "least_output": 16, "max_wait": "5s"}
    async with serve(policies=[entry("budget", **options)], registry=REGISTRY, store=MemoryStore()) as plane:
        answers = [await plane.chat("x-sim-tokens: 300", max_tokens=400) for _ in range(40)]
        assert answers[-1].status == 429
        spent = billed(simulator)
        assert limit * 1e9 * 0.9 <= spent <= limit * 1e9
        assert any(
            decision["action"] == "shrunk" for ended in plane.journal("ended") for decision in ended["decisions"]
        )


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "house-model"}, "unpriced_model"),
        ({"model": "gpt-4o-mini", "web_search_options": {}}, "unbounded_cost"),
        ({"model": "gpt-4o-mini", "tools": [{"type": "web_search"}]}, "unbounded_cost"),
    ],
)
async def test_what_has_no_bound(serve: Serve, simulator: Simulator, fields: dict[str, Any], code: str) -> None:
    """Under a hard budget it is refused, and says why; under a soft one it passes."""
    for hard in (True, False):
        policies = [entry("budget", limit="100 USD/day", hard=hard)]
        async with serve(policies=policies, registry=REGISTRY, store=MemoryStore()) as plane:
            answer = await plane.chat(**fields)
            if hard:
                assert (answer.status, answer.error["code"]) == (403, code)
            else:
                assert answer.status != 403
    assert all(b"house" in request.body or b"web" in request.body for request in simulator.requests)


async def test_several_budgets_are_one_step(serve: Serve, simulator: Simulator) -> None:
    """What one of them refuses, none of them holds; what passes, all of them count."""
    store = MemoryStore()
    policies = [
        entry("budget", 1, name="all", limit="1 USD/rolling 1h"),
        entry("budget", 2, name="teams", per="team", limit="0.001 USD/rolling 1h"),
        entry("budget", 3, name="tokens", per=["team", "model"], limit="1M tokens/rolling 1h"),
    ]
    keys = [key("wk-a", "key-a", team="search")]
    async with serve(policies=policies, registry=REGISTRY, keys=keys, store=store) as plane:
        who = "authorization: Bearer wk-a"
        assert (await plane.chat(who, max_tokens=100)).status == 200
        refused = await plane.chat(who, max_tokens=16_000)
        assert refused.status == 429
        assert "`teams`" in refused.error["message"]
        (reserved,) = plane.journal("reserved")
        estimate = reserved["estimate"]
        assert len(reserved["holds"]) == 1
        assert estimate["tokens"] > estimate["input_tokens"] + estimate["output_cap"]  # the bound, should it be lost
        await plane.quiet()
        spent = {
            budget.name: [line.spent for line in await _about(plane, budget)]
            for budget in [item.policy for item in plane.plane.state.chain.built]
        }
    total = simulator.invoice().total
    assert spent == {"all": [billed(simulator)], "teams": [billed(simulator)], "tokens": [total.input + total.output]}


async def _about(plane: Plane, budget: Any) -> list[Any]:
    assert plane.plane.purse is not None
    await plane.plane.purse.tell()

    class Told:
        def __init__(self, spent: int) -> None:
            self.spent = spent

    return [Told(plane.plane.purse.spent(line.scope)) for account in budget._accounts.made() for line in account.lines]


async def test_the_ladder(serve: Serve, simulator: Simulator) -> None:
    """As it fills: a warning, then the cheaper model, then the cheaper tier, then nothing more."""
    ladder = {"20%": "warn", "40%": {"use_model": "gpt-4o-mini"}, "60%": {"tier": "flex"}, "80%": "refuse"}
    policies = [entry("budget", limit="2000 tokens/rolling 1h", ladder=ladder)]
    async with serve(policies=policies, registry=REGISTRY, store=MemoryStore()) as plane:
        seen = []
        for _ in range(14):
            answer = await plane.chat("x-sim-tokens: 180", model="gpt-4o", max_tokens=200)
            seen.append((answer.status, answer.header(b"x-weir-policies") or b""))
    actions = [said.decode().replace("budget=", "") for status, said in seen if status == 200]
    assert actions[0] == ""
    assert "warn" in actions
    assert "warn, use_model" in actions
    assert "warn, use_model, tier" in actions
    assert seen[-1] == (429, b"budget=refused")
    models = [orjson.loads(request.body)["model"] for request in simulator.requests]
    assert models[0] == "gpt-4o"
    assert models[-1] == "gpt-4o-mini"
    assert orjson.loads(simulator.requests[-1].body)["service_tier"] == "flex"


async def test_the_ladder_leads_to_no_model_that_is_forbidden(serve: Serve, simulator: Simulator) -> None:
    """An `allow` further out holds for the cheaper model, too: who may not use it goes on with the one asked for."""
    budget_entry = entry("budget", limit="1 USD/rolling 1h", ladder={"0%": {"use_model": "gpt-4o-mini"}})
    registry = {**REGISTRY, "allow": allow}
    for forbidden, served in ([], "gpt-4o-mini"), (["gpt-4o-mini"], "gpt-4o"):
        policies = [entry("allow", deny_models=forbidden), budget_entry]
        async with serve(policies=policies, registry=registry, store=MemoryStore()) as plane:
            assert (await plane.chat(model="gpt-4o", max_tokens=20)).status == 200
        assert orjson.loads(simulator.requests[-1].body)["model"] == served


async def test_a_batch_on_the_ladder(serve: Serve, simulator: Simulator) -> None:
    """Who doesn't say how long a request can wait is served by the layer that serves such requests for less."""
    policies = [
        entry("budget", limit="1 USD/rolling 1h", ladder={"0%": {"batch": "15m"}}),
        entry("defer_to_batch"),
    ]
    registry = {**REGISTRY, "defer_to_batch": defer_to_batch}
    async with serve(policies=policies, registry=registry, store=MemoryStore()) as plane:
        answer = await plane.chat(max_tokens=20)
        assert answer.status == 200
        assert orjson.loads(simulator.requests[-1].body)["service_tier"] == "flex"
        await plane.chat("x-weir-deadline: 5s", max_tokens=20)
        assert "service_tier" not in orjson.loads(simulator.requests[-1].body), "the client's word counts"


async def test_a_cap_that_is_sent(serve: Serve, simulator: Simulator) -> None:
    """The client's request goes as it is, unless the policy says that the cap is sent."""
    for send_cap in (False, True):
        policies = [entry("budget", limit="100 USD/day", send_cap=send_cap)]
        async with serve(policies=policies, registry=REGISTRY, store=MemoryStore()) as plane:
            assert (await plane.chat()).status == 200
    plain, capped = [orjson.loads(request.body) for request in simulator.requests]
    assert "max_completion_tokens" not in plain
    assert capped["max_completion_tokens"] == 16_384


class Gone(MemoryStore):
    """A Store that nobody answers for."""

    async def reserve(self, hold: Hold, wait_s: float = 0.0) -> Granted | Refused:
        raise StateLost

    async def levels(self, scopes: Any) -> Any:
        raise StateLost

    async def adjust(self, *args: Any, **named: Any) -> Any:
        raise StateLost


@pytest.mark.parametrize("hard", [True, False])
async def test_without_a_store(serve: Serve, simulator: Simulator, hard: bool) -> None:
    """A hard budget refuses, a soft one admits and counts; nobody hangs."""
    policies = [entry("budget", limit="100 USD/day", hard=hard, ladder={"80%": "warn"})]
    async with serve(policies=policies, registry=REGISTRY, store=Gone()) as plane:
        answer = await plane.chat()
        assert answer.status == (503 if hard else 200)
        if hard:
            assert answer.error["code"] == "budget_unavailable"


async def test_observing(serve: Serve, simulator: Simulator) -> None:
    """Observed, it counts, says what it would have refused, and changes nothing."""
    policies = [entry("budget", limit="0.00001 USD/month", mode="observe")]
    async with serve(policies=policies, registry=REGISTRY, store=MemoryStore()) as plane:
        answer = await plane.chat(max_tokens=10)
        assert answer.status == 200
        assert answer.header(b"x-weir-budget") is None
        await plane.quiet()
        assert "would_refuse" in {decision["action"] for decision in plane.ended()["decisions"]}


async def test_background_work_pays_too(serve: Serve, simulator: Simulator) -> None:
    """What a policy does on its own account for an exchange goes through the same gate."""

    class Twice:
        async def __call__(self, request: Request, forward: Forward) -> Response:
            async def again(exchange: Any) -> None:
                response = await forward(request.using(exchange=exchange))
                await response.read()

            request.exchange.detached("shadow", again, timeout_s=5)
            return await forward(request)

    from types import SimpleNamespace

    from pydantic import BaseModel

    class Config(BaseModel):
        pass

    twice = SimpleNamespace(Config=Config, build=lambda config, services: Twice())
    store = MemoryStore()
    policies = [entry("budget", 1, limit="1 USD/rolling 1h"), entry("twice", 2)]
    async with serve(policies=policies, registry={**REGISTRY, "twice": twice}, store=store) as plane:
        assert (await plane.chat(max_tokens=20)).status == 200
        await plane.quiet()
        assert [bool(record["holds"]) for record in plane.journal("reserved")] == [True, True]
    assert len(simulator.requests) == 2


def test_a_cap_is_known(cards: RateCards) -> None:
    """The tests above count on it: what gpt-4o-mini costs."""
    from datetime import UTC, datetime

    card = cards.card("openai", "gpt-4o-mini", datetime.now(UTC))
    assert card is not None
    assert (card.reserve(10**6, 0), card.reserve(0, 10**6)) == (MINI[0] * 10**6, MINI[1] * 10**6)


async def test_near_the_end_inputs_are_counted(serve: Serve, simulator: Simulator) -> None:
    """Where a token a byte doesn't fit, the exact count does, if there is somebody who counts."""

    class Counter:
        def __init__(self) -> None:
            self.asked = 0

        async def count(self, encoding: str, pieces: list[str]) -> int:
            self.asked += 1
            return sum(len(piece.split()) for piece in pieces)

    words, policies = "word " * 2000, [entry("budget", limit="5000 tokens/rolling 1h")]
    asked = {"messages": [{"role": "user", "content": words}], "max_tokens": 100}
    async with serve(policies=policies, registry=REGISTRY, store=MemoryStore()) as plane:
        assert (await plane.chat(**asked)).status == 429
        counter = Counter()
        plane.plane.tokens._counter = counter
        assert (await plane.chat(**asked)).status == 200
        assert counter.asked == 1
    assert len(simulator.requests) == 1


async def test_what_was_spent_stays_spent(serve: Serve, simulator: Simulator) -> None:
    """A reload with another limit goes on where the old one was."""
    who = "authorization: Bearer wk-a"
    before, after = (
        entry("budget", per="team", limit="1 USD/month", overrides={"search": f"{amount} USD/month"})
        for amount in ("0.0001", "0.001")
    )
    keys = [key("wk-a", "key-a", team="search")]
    async with serve(policies=[before], registry=REGISTRY, keys=keys, store=MemoryStore()) as plane:
        assert (await plane.chat(who, "x-sim-tokens: 20", max_tokens=30)).status == 200
        while (await plane.chat(who, "x-sim-tokens: 20", max_tokens=30)).status == 200:
            pass
        spent = billed(simulator)
        await plane.plane.reconfigure(plane.remake([after]), keys, None)
        answer = await plane.chat(who, "x-sim-tokens: 20", max_tokens=30)
        assert answer.status == 200
        (told,) = (await plane.get("/weir/me", who)).json["budgets"]
        assert (told["limit"], told["spent"]) == ("0.001 USD/month", billed(simulator))
        assert told["spent"] > spent


async def test_reading_again_is_free(serve: Serve, simulator: Simulator) -> None:
    """A stored answer costs when it is made, and nothing when it is read, however often."""
    async with serve(
        policies=[entry("budget", limit="1 USD/rolling 1h")], registry=REGISTRY, store=MemoryStore()
    ) as plane:
        made = await plane.post("/v1/responses", {"model": "gpt-4o-mini", "input": "Hello", "store": True})
        assert made.status == 200
        spent = billed(simulator)
        for _ in range(3):
            read = await plane.get(f"/v1/responses/{made.json['id']}")
            assert (read.status, read.json["usage"]) == (200, made.json["usage"])
        (told,) = (await plane.get("/weir/me")).json["budgets"]
        assert told["spent"] == spent == billed(simulator)
        batch = await plane.post("/v1/batches", {"input_file_id": "f", "endpoint": "/v1/chat/completions"})
        assert (batch.status, batch.error["code"]) == (403, "unpriced_endpoint")


async def test_the_deadline_comes_first(serve: Serve, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits past the time that the request may take: the client learns why before it is over."""
    monkeypatch.setattr("policies.budget.gate._EARLY_S", 1.5)
    policies = [entry("budget", limit="0.0005 USD/rolling 1h", max_wait="1h")]
    async with serve(policies=policies, registry=REGISTRY, store=MemoryStore()) as plane:
        async with asyncio.timeout(PATIENCE_S):
            with simulator.still():
                first = asyncio.create_task(plane.chat("x-sim-ttft-ms: 10", max_tokens=300))
                while not simulator.requests:
                    await asyncio.sleep(0.01)
                second = await plane.chat("x-weir-deadline: 2s", max_tokens=300)
            assert (second.status, second.error["code"]) == (429, "budget_reserved")
            assert second.header(b"retry-after") is not None
            assert (await first).status == 200
