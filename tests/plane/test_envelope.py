"""What every policy has: when it applies, how far, and that a reload or the kill switch treats all alike."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from proxy import gently
from proxy.chain import Services
from proxy.exchange import Exchange, Forward, Request
from proxy.response import Response
from proxy.simulator import Simulator
from proxy.wire.pool import Pool
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry, key
from tests.wire.raw import chat, post


class Options(BaseModel):
    """What a mark says."""

    mark: str = "met"
    fail: bool = False


class Mark:
    """Marks the answers that it lets pass, counts, and tells when it is closed."""

    def __init__(self, config: Options, services: Services) -> None:
        self.config = config
        self.name = services.name
        self.met = 0
        self.closed = 0

    async def __call__(self, request: Request, forward: Forward) -> Response:
        self.met += 1
        response = await forward(request)
        response.headers.append((b"x-mark", f"{self.name}:{self.config.mark}".encode()))
        return response

    async def aclose(self) -> None:
        self.closed += 1


class Marks:
    """A policy module, and every policy that it has built."""

    Config = Options

    def __init__(self, essential: bool = False) -> None:
        self.ESSENTIAL = essential
        self.built: list[Mark] = []

    def build(self, config: Options, services: Services) -> Mark:
        if config.fail:
            raise ValueError("can't be built")
        self.built.append(Mark(config, services))
        return self.built[-1]


def marks(answer: Any) -> list[str]:
    return [value.decode().partition(":")[0] for name, value in answer.headers if name == b"x-mark"]


ANNA = "authorization: Bearer wk-anna"
KEYS = [key("wk-anna", "key-a", team="search", project="index", tags={"env": "prod"})]


@pytest.mark.parametrize(
    ("match", "holds"),
    [
        ({"team": "search"}, True),
        ({"team": ["docs", "sea*"]}, True),
        ({"team": "docs"}, False),
        ({"project": "index", "team": "search"}, True),
        ({"project": "other", "team": "search"}, False),
        ({"key": "key-a"}, True),
        ({"tag": "env=prod"}, True),
        ({"tag": "run=*"}, True),
        ({"tag": "run=8"}, False),
        ({"model": "gpt-4o-*"}, True),
        ({"model": "gpt-4o"}, False),
        ({"endpoint": "chat.*"}, True),
        ({"endpoint": "embeddings"}, False),
        ({"stream": False}, True),
        ({"stream": True}, False),
        ({"tools": False}, True),
        ({"size": "< 1 KiB"}, True),
        ({"size": "> 1 KiB"}, False),
        ({"time": "00:00-24:00"}, True),
    ],
    ids=str,
)
async def test_match_and_unless(serve: Serve, match: dict[str, Any], holds: bool) -> None:
    """Conditions decide whether a policy meets a request; `unless` is the other way round."""
    policies = [
        entry("marks", 1, name="matching", match=match),
        entry("marks", 2, name="unless", unless=match),
        entry("marks", 3, name="always"),
    ]
    async with serve(keys=KEYS, policies=policies, registry={"marks": Marks()}) as plane:
        answer = await plane.chat(ANNA, "x-weir-tags: run=7")
        assert marks(answer) == ["always", "matching" if holds else "unless"]


async def test_served_model_is_that_of_the_outer_layer(serve: Serve) -> None:
    """`served_model` is the model as outer layers left it, `model` what the client asked for."""

    async def route(request: Request, forward: Forward) -> Response:
        return await forward(request.using(model="gpt-4.1-nano"))

    router = SimpleNamespace(Config=Options, build=lambda config, services: route)
    policies = [
        entry("route", 1),
        entry("marks", 2, name="served", match={"served_model": "gpt-4.1-*"}),
        entry("marks", 3, name="asked", match={"model": "gpt-4o-mini"}),
        entry("marks", 4, name="not", match={"model": "gpt-4.1-*"}),
    ]
    async with serve(policies=policies, registry={"route": router, "marks": Marks()}) as plane:
        assert marks(await plane.chat()) == ["asked", "served"]


async def test_modes(serve: Serve) -> None:
    """`off` isn't even built; file order is onion order, outermost first."""
    module = Marks()
    policies = [
        entry("marks", n, name=name, mode=mode)
        for n, (name, mode) in enumerate([("outer", "on"), ("gone", "off"), ("seen", "observe"), ("inner", "on")], 1)
    ]
    async with serve(policies=policies, registry={"marks": module}) as plane:
        answer = await plane.chat()
        assert marks(answer) == ["inner", "outer"]
        assert [(mark.name, mark.met) for mark in module.built] == [("outer", 1), ("seen", 1), ("inner", 1)]


async def test_rollout_and_holdout(serve: Serve) -> None:
    """A share of conversations, the same ones each time; the rest is noted as the control group that it is."""
    policies = [entry("marks", 1, name="some", rollout="40%", holdout="20%")]
    async with serve(policies=policies, registry={"marks": Marks()}) as plane:
        arms: dict[str, set[bool]] = {}
        for number in [*range(60), *range(60)]:
            line = f"x-weir-conversation: talk-{number}"
            arms.setdefault(line, set()).add(bool(marks(await plane.chat(line))))
        noted = [record["decisions"][0]["action"] for record in plane.journal("ended")]
    assert all(len(met) == 1 for met in arms.values())
    share = sum(True in met for met in arms.values())
    assert 10 < share < 35
    assert noted.count("holdout") >= 10
    assert noted.count("not_rolled_out") >= 30
    assert noted.count("treated") == 2 * share


@pytest.mark.parametrize("field", ["prompt_cache_key", "user"])
async def test_conversations_are_known_by_their_fields(serve: Serve, field: str) -> None:
    """Without a header, the request's own words for its conversation or user keep it in one arm."""
    policies = [entry("marks", 1, name="half", rollout="50%")]
    async with serve(policies=policies, registry={"marks": Marks()}) as plane:
        met = [bool(marks(await plane.chat(**{field: f"u{number % 10}"}))) for number in range(20)]
    assert met[:10] == met[10:]
    assert len(set(met)) == 2


async def test_bypass_header(serve: Serve) -> None:
    """A client may skip what the policy file lets it skip, and nothing else; it is noted."""
    policies = [entry("marks", 1, name="cache"), entry("marks", 2, name="budget")]
    async with serve(policies=policies, registry={"marks": Marks()}, bypass=("cache",)) as plane:
        answer = await plane.chat("x-weir-bypass: cache, budget, unknown")
        assert marks(answer) == ["budget"]
        assert answer.header(b"x-weir-policies") == b"cache=bypassed"
        assert marks(await plane.chat("x-weir-bypass: budget")) == ["budget", "cache"]


async def test_kill_switch(serve: Serve) -> None:
    """The kill switch leaves what is essential, from the next request on, and back."""
    registry = {"marks": Marks(), "rights": Marks(essential=True)}
    policies = [entry("rights", 1), entry("marks", 2), entry("marks", 3, name="more", match={"model": "*"})]
    async with serve(policies=policies, registry=registry, bypass=("rights",)) as plane:
        assert marks(await plane.chat()) == ["more", "marks", "rights"]
        plane.plane.bypass = True
        assert marks(await plane.chat("x-weir-bypass: rights")) == ["rights"]
        assert plane.journal("settled")[-1]["nanodollars"] > 0
        plane.plane.bypass = False
        assert marks(await plane.chat()) == ["more", "marks", "rights"]


# --- reload


async def reload(plane: Plane, *policies: Any, **settings: Any) -> None:
    made = plane.remake(policies, **settings)
    await plane.plane.reconfigure(made, plane.plane.generations._keys, None)


async def test_unchanged_policies_live_on(serve: Serve) -> None:
    """A reload keeps the policy whose entry is the same, wherever it stands now, with what it has learned."""
    module = Marks()
    first = [
        entry("marks", 1, name="kept", mark="a"),
        entry("marks", 2, name="changed", mark="a"),
        entry("marks", 3, name="gone"),
    ]
    async with serve(policies=first, registry={"marks": module}) as plane:
        await plane.chat()
        kept, changed, gone = module.built
        await reload(
            plane,
            entry("marks", 1, name="new"),
            entry("marks", 2, name="changed", mark="b"),
            entry("marks", 9, name="kept", mark="a"),
        )
        await plane.quiet()
        assert marks(await plane.chat()) == ["kept", "changed", "new"]
        assert [mark.name for mark in module.built] == ["kept", "changed", "gone", "new", "changed"]
        assert kept.met == 2
        assert [mark.closed for mark in (kept, changed, gone)] == [0, 1, 1]
    assert [mark.closed for mark in module.built] == [1, 1, 1, 1, 1]


async def test_running_exchanges_keep_their_chain(serve: Serve, simulator: Simulator) -> None:
    """What began under the old chain ends under it; its policies are closed after that, not before."""
    module = Marks()
    async with serve(policies=[entry("marks", 1, name="old")], registry={"marks": module}) as plane:
        old_hash = plane.plane.state.configuration.policy_hash
        async with await plane.connect() as client:
            await client.send(post("/v1/chat/completions", chat(), "x-sim-fault: no-headers:0.2"))
            await simulator.until(lambda state: state.active == 1)
            await reload(plane, entry("marks", 1, name="new"))
            assert marks(await plane.chat()) == ["new"]
            assert module.built[0].closed == 0
            assert marks(await client.answer()) == ["old"]
        await plane.quiet()
        assert [mark.closed for mark in module.built] == [1, 0]
        hashes = [record["policies_hash"] for record in plane.journal("ended")]
    assert hashes[1] == old_hash != hashes[0]


async def test_background_work_keeps_its_chain(serve: Serve) -> None:
    """A detached exchange uses the chain that it began with, and keeps its policies open."""
    release = asyncio.Event()
    module = Marks()

    async def shadow(request: Request, forward: Forward) -> Response:
        async def later(exchange: Exchange) -> None:
            await release.wait()
            await (await forward(request.using(exchange=exchange))).read()

        request.exchange.detached("shadow", later)
        return Response(200, [], b"at once")

    registry = {"shadow": SimpleNamespace(Config=Options, build=lambda config, services: shadow), "marks": module}
    async with serve(policies=[entry("shadow", 1), entry("marks", 2)], registry=registry) as plane:
        assert (await plane.chat()).body == b"at once"
        await reload(plane)
        assert module.built[0].closed == 0
        release.set()
        await plane.quiet()
        assert (module.built[0].met, module.built[0].closed) == (1, 1)
        kinds = {record["kind"]: record for record in plane.journal("ended")}
        assert kinds["shadow"]["parent"] == kinds["client"]["exchange"]
        assert kinds["shadow"]["nanodollars"] == plane.settled()["nanodollars"] > 0
        assert kinds["client"]["nanodollars"] == 0


async def test_closed_once_and_last(serve: Serve, simulator: Simulator) -> None:
    """Reload after reload, a policy closes once: when the last exchange of the last chain that has it has ended."""
    module = Marks()
    kept = entry("marks", 1, name="kept")
    async with serve(policies=[kept], registry={"marks": module}) as plane, await plane.connect() as first:
        asked = post("/v1/chat/completions", chat(), "x-sim-fault: no-headers:0.15")
        await first.send(asked)
        await simulator.until(lambda state: state.active == 1)
        await reload(plane, kept, entry("marks", 2, name="other"))
        async with await plane.connect() as second:
            await second.send(post("/v1/chat/completions", chat(), "x-sim-fault: no-headers:0.4"))
            await simulator.until(lambda state: state.active == 2)
            await reload(plane)
            assert marks(await first.answer()) == ["kept"]
            assert module.built[0].closed == 0
            assert marks(await second.answer()) == ["other", "kept"]
        await plane.quiet()
        assert [(mark.name, mark.closed) for mark in module.built] == [("kept", 1), ("other", 1)]


async def test_what_cannot_be_built_changes_nothing(serve: Serve) -> None:
    """A reload that fails leaves the old chain as it was, and closes what it had begun to build."""
    module = Marks()
    async with serve(policies=[entry("marks", 1, name="old")], registry={"marks": module}) as plane:

        def pools() -> int:
            return sum(isinstance(item, Pool) for item in plane.plane.surroundings.ticker._watched)

        before = pools()
        with pytest.raises(ValueError, match="can't be built"):
            await reload(
                plane,
                entry("marks", 1, name="old"),
                entry("marks", 2, name="new"),
                entry("marks", 3, name="bad", fail=True),
                timeouts={"total_s": 3},
            )
        assert marks(await plane.chat()) == ["old"]
        await plane.quiet()
        assert [(mark.name, mark.closed) for mark in module.built] == [("old", 0), ("new", 1)]
        assert pools() == before


@pytest.mark.parametrize("given_up", [False, True])
async def test_a_reload_lets_others_have_their_turn(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, given_up: bool
) -> None:
    """After each policy, where each takes a step's time; one that is given up in between undoes what it had begun."""
    monkeypatch.setattr(gently, "STEP_S", 0.0)
    module = Marks()
    async with serve(policies=[entry("marks", 1, name="old")], registry={"marks": module}) as plane:
        new = [entry("marks", number, name=str(number)) for number in range(20)]
        reloading = asyncio.create_task(reload(plane, *new), name="reload")
        while len(module.built) < 11 and not reloading.done():
            assert plane.plane.state.chain.built[0].entry.name == "old"
            await asyncio.sleep(0)
        assert len(module.built) == 11
        if given_up:
            reloading.cancel()
        await asyncio.gather(reloading, return_exceptions=True)
        assert marks(await plane.chat()) == (["old"] if given_up else [one.name for one in reversed(new)])
        await plane.quiet()
        assert [mark.closed for mark in module.built] == ([0] + [1] * 10 if given_up else [1] + [0] * 20)


async def test_a_policy_that_cannot_close(serve: Serve) -> None:
    """One policy's failure to close keeps no other open; it is logged without its words."""

    class Stuck(Mark):
        async def aclose(self) -> None:
            raise RuntimeError("secret words")

    stuck = SimpleNamespace(Config=Options, build=Stuck)
    module = Marks()
    async with serve(
        policies=[entry("stuck", 1), entry("marks", 2)], registry={"stuck": stuck, "marks": module}
    ) as plane:
        await reload(plane)
        await plane.quiet()
        assert module.built[0].closed == 1
        (line,) = plane.logged
        assert (line[1], "secret" in str(line)) == ("background_failed", False)
        await reload(plane, entry("marks", 1))


async def test_connections_live_on(serve: Serve, simulator: Simulator) -> None:
    """A reload that doesn't touch an upstream keeps the connections to it."""
    async with serve() as plane:
        await plane.chat()
        await reload(plane, heartbeat_s=3)
        await plane.chat()
        assert simulator.state.connections_opened == 1
        await reload(plane, timeouts={"total_s": 3})
        await plane.chat()
        assert simulator.state.connections_opened == 2


async def test_reload_under_load(serve: Serve, simulator: Simulator) -> None:
    """Reloads amid traffic cost no request."""
    module = Marks()
    async with serve(policies=[entry("marks", 1, name="0")], registry={"marks": module}) as plane:

        async def ask(number: int) -> int:
            return (await plane.chat(stream=bool(number % 2))).status

        asking = [asyncio.create_task(ask(number)) for number in range(60)]
        for number in range(1, 6):
            await asyncio.sleep(0)
            await reload(plane, entry("marks", 1, name=str(number)), timeouts={"total_s": 100 + number})
        assert {await task for task in asking} == {200}
        await plane.quiet()
        assert [mark.closed for mark in module.built] == [1] * 5 + [0]
        assert sum(mark.met for mark in module.built) == 60
