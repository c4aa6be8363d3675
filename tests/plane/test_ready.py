"""Answers that are ready: given at once to a request whose bytes are known, and only as long as all still holds."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from policies.cache.tiers import Eviction, evict
from proxy.response import Response
from proxy.simulator import Simulator
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry, key
from tests.policies.cache.test_exact import Wall, hit, timed
from tests.wire.raw import Answer, Raw, chat, post

PATH = "/v1/chat/completions"
CACHE = entry("cache", exact={"sampled": True, "ttl": "1h"})


def asking(stream: bool = False, who: str = "sk-x", *lines: str, **fields: Any) -> bytes:
    return post(PATH, chat(stream, **fields), f"authorization: Bearer {who}", *lines)


async def learnt(plane: Plane, client: Raw, request: bytes) -> Answer:
    """Asks until the answer is ready; the last one was given in the ordinary way."""
    await client.ask(request)
    await plane.quiet()
    await client.ask(request)
    return await client.ask(request)


async def nothing(_: Any) -> Response:
    raise AssertionError("the chain was asked")


def ready(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on whoever takes the ordinary way gets a 500."""
    monkeypatch.setattr(plane.plane.state.chain, "forward", nothing)


@pytest.mark.parametrize("stream", [False, True])
async def test_as_the_ordinary_way(
    serve: Serve, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """The same words, fields and records, under an id and a time of its own; counted; also over another connection."""
    wall = Wall()
    async with (
        serve(policies=[CACHE], registry={"cache": timed(wall)}) as plane,
        await plane.connect() as client,
        await plane.connect() as other,
    ):
        request = asking(stream, "sk-x", "x-weir-tags: feature=chat", "origin: http://a")
        ordinary = await learnt(plane, client, request)
        await learnt(plane, other, request)
        ready(plane, monkeypatch)
        given = [await who.ask(request) for who in (client, other, client)]
        ids = {answer.header(b"x-weir-exchange") for answer in (ordinary, *given)}
        assert len(ids) == 4
        for answer in given:
            assert answer.status == 200 and hit(answer) == "hit"
            own = answer.header(b"x-weir-exchange") or b""
            assert answer.header(b"x-request-id") == own and own in answer.body
            assert but_its_id(answer) == but_its_id(ordinary)
        *_, before, first, second, third = plane.journal("ended")
        for record in (first, second, third):
            assert {**record, **own_to(before)} == before
            assert record["tags"] == {"feature": "chat"} and record["savings"] and record["saved_nanodollars"] > 0
            assert before["at"] <= record["at"] and 0 < record["total_ns"] < 10**12
        assert len({before["exchange"], first["exchange"], second["exchange"], third["exchange"]}) == 4
        counted = plane.metrics.snapshot()
        hits = len(plane.journal("ended")) - 1
        assert ["cache", "hit", hits] in [list(told) for told in counted["decisions"]]
        assert sum(sum(told["duration_s"]["counts"]) for told in counted["exchanges"]) == hits + 1
        assert counted["savings"][0][2] == hits * before["saved_nanodollars"]
        wall.now += 100
        late = but_its_id(await client.ask(request))
        assert late != but_its_id(ordinary)
        now, then = b":%d," % wall.now, b":%d," % (wall.now - 100)
        aged = {b"age": b"100", b"cache-status": b"weir; hit; ttl=3500"}
        headers, body = but_its_id(ordinary)
        assert late == ([(name, aged.get(name, value)) for name, value in headers], body.replace(then, now))
        assert simulator.state.requests == 1


def own_to(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("at", "exchange", "total_ns")}


def but_its_id(answer: Answer) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Its fields and body, with a word for the id; without Date, which is the machine's, but is there and is now."""
    date, own = answer.header(b"date") or b"", answer.header(b"x-weir-exchange") or b"-"
    assert abs(parsedate_to_datetime(date.decode()).timestamp() - time.time()) < 3600
    headers = [(name, value.replace(own, b"ID")) for name, value in answer.headers if name != b"date"]
    return headers, answer.body.replace(own, b"ID")


async def test_it_ends(serve: Serve, simulator: Simulator) -> None:
    """By age, eviction, the kill switch, another configuration, a key that is revoked: from the next request on."""
    wall, store = Wall(), MemoryStore()
    keys = [key("wk-a", "a")]
    async with (
        serve(policies=[CACHE], registry={"cache": timed(wall)}, store=store, keys=keys) as plane,
        await plane.connect() as client,
    ):
        request = asking(False, "wk-a")

        async def asked() -> str:
            answer = await client.ask(request)
            await plane.quiet()
            return hit(answer) if answer.status == 200 else str(answer.status)

        found = await learnt(plane, client, request)
        wall.now += 3599
        assert await asked() == "hit"
        wall.now += 1
        assert [await asked(), await asked(), await asked(), await asked()] == ["miss", "hit", "hit", "hit"]
        await evict(store, Eviction(keys=((found.header(b"x-weir-cache-entry") or b"").decode(),)))
        while await asked() != "miss":  # the worker hears of it by the feed
            pass
        assert [await asked(), await asked(), await asked()] == ["hit", "hit", "hit"]
        plane.plane.bypass = True
        assert await asked() == "-"
        plane.plane.bypass = False
        assert await asked() == "hit"
        await plane.plane.reconfigure(plane.remake(policies=[]), keys, None)
        assert [await asked(), await asked()] == ["-", "-"]
        await plane.plane.reconfigure(plane.remake(), keys, None)
        assert [await asked() for _ in range(4)][1:] == ["hit"] * 3
        plane.plane.generations.set_keys([key("wk-a", "b", org="other")])
        assert [await asked(), await asked(), await asked(), await asked()] == ["miss", "hit", "hit", "hit"]
        plane.plane.generations.set_keys([])
        assert await asked() == "401"


async def test_others_have_their_say(serve: Serve, simulator: Simulator) -> None:
    """Where another policy stands outside, or not all requests are the cache's, each takes the ordinary way."""
    outer = entry("headers", name="outer", response={"add": {"x-by": "outer"}})
    for policies in ([outer, CACHE], [CACHE.model_copy(update={"predicate": lambda _: True})]):
        async with serve(policies=policies) as plane, await plane.connect() as client:
            answer = await learnt(plane, client, asking())
            assert hit(answer) == "hit" and len(plane.plane.ready) == 0
            assert answer.header(b"x-by") == (b"outer" if outer in policies else None)


async def test_nobody_gets_anothers(serve: Serve, simulator: Simulator) -> None:
    """Requests of two tenants with their own wishes, in any order over any connection: each gets its own entry, and its
    own record."""
    keys = [key("wk-a", "a", org="a"), key("wk-b", "b", org="b")]
    draw, entries = random.Random(5), dict[tuple[str, int], bytes | None]()
    async with serve(policies=[CACHE], keys=keys) as plane:
        clients = [await plane.connect() for _ in range(3)]
        for _ in range(150):
            who, seed, line = draw.choice("ab"), draw.randrange(3), draw.choice(["x: 1", "cache-control: no-store"])
            answer = await draw.choice(clients).ask(asking(False, f"wk-{who}", line, seed=seed))
            await plane.quiet()
            ended = plane.journal("ended")[-1]
            assert (ended["key"], ended["exchange"].encode()) == (who, answer.header(b"x-weir-exchange"))
            if line != "x: 1":
                assert hit(answer) == "miss"
            elif (who, seed) in entries:
                assert hit(answer) == "hit"
                told = answer.header(b"x-weir-cache-entry")
                assert (entries[who, seed] or told) == told
                entries[who, seed] = told
            else:
                assert hit(answer) == "miss"
                entries[who, seed] = None
        assert len(set(entries.values())) == len(entries) == 6
        assert len(plane.plane.ready) == 6
        for client in clients:
            client.close()


async def test_bounded(serve: Serve, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just given stays, what isn't given any more makes room; a policy that goes takes all with it."""
    policy = entry("cache", memory="256KiB", exact={"sampled": True, "max_entry": "64KiB"})
    wall = Wall()
    async with serve(policies=[policy], registry={"cache": timed(wall)}) as plane, await plane.connect() as client:
        for number in range(30):
            await learnt(plane, client, asking(seed=number))
            assert 0 < len(plane.plane.ready) < 20
        wall.now += 10
        assert hit(await client.ask(asking(seed=1))) == "hit"
        await learnt(plane, client, asking(seed=99))
        assert 0 < len(plane.plane.ready) < 20
        with monkeypatch.context() as patched:
            patched.setattr(plane.plane.state.chain, "forward", nothing)
            given = [(await client.ask(asking(seed=number))).status for number in (1, 99, 0, 29)]
        assert given == [200, 200, 500, 500]
        await plane.plane.reconfigure(plane.remake(policies=[]), [], None)
        await plane.quiet()
        assert len(plane.plane.ready) == 0 and plane.plane.ready.limit_bytes == 0
