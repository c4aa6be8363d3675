"""Who gets in, over real workers: revocation within a second on one host and on two, rotation, tokens of an issuer."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.admin.site import Site
from proxy.audit import AuditLog
from proxy.clients.keys import KeyStore
from proxy.config import load
from proxy.supervisor.listeners import bind, name_of
from proxy.supervisor.plan import loader
from proxy.supervisor.service import WORKER
from tests.issuer import jwk, token
from tests.pace import pace
from tests.state import servers
from tests.supervisor.conftest import Running, running, until
from tests.supervisor.test_real_workers import Client, Serve, Upstream, cards, serve, upstream, write

__all__ = ["cards", "serve", "upstream"]

REVOKED_S = 1.0
CONNECTIONS = 4


async def admitted(clients: Sequence[Client]) -> None:
    """Connections over all workers, each of which gets in."""
    for client in clients:
        assert await client.chat() == 200


async def refused_after(clients: Sequence[Client]) -> float:
    """Asks again and again on all connections until all are refused; how long that took, without what others took."""

    async def one(client: Client) -> None:
        while await client.chat() != 401:
            pass

    async with pace() as clock:
        await asyncio.gather(*(one(client) for client in clients))
        return clock.elapsed_s


def end(clients: Sequence[Client]) -> None:
    for client in clients:
        client.close()


async def test_revoked_and_rotated_in_all_workers(serve: Serve, home: Path) -> None:
    """No worker takes a revoked key a second later, on connections that were open; a rotated one has two secrets."""
    store = KeyStore(home)
    first, record = store.create()
    async with serve(workers=2, keys="required") as here:
        clients = [Client(here.address, first) for _ in range(CONNECTIONS)]
        await admitted(clients)
        second, _ = store.rotate(record.id, 3600.0)
        after = [Client(here.address, second) for _ in range(CONNECTIONS)]
        await until(lambda: len(here.log("keys changed")) == 1)
        await admitted([*clients, *after])
        store.revoke(first)
        assert await refused_after(clients) < REVOKED_S
        await admitted(after)
        store.revoke(record.id)
        assert await refused_after(after) < REVOKED_S
        end([*clients, *after])


async def test_two_hosts_share_revocations(tmp_path: Path, upstream: tuple[Upstream, str], cards: Path) -> None:
    """A key made on one host opens the other; revoked there, both refuse it within a second; who was away learns it."""
    try:
        program = servers.redis_program()
    except servers.Unavailable as error:
        pytest.skip(str(error))

    async def compile(home: Path, prices: str) -> Path:
        return cards

    def host(name: str, state: str) -> Any:
        where = tmp_path / name
        if not where.exists():
            write(where, upstream[1], where / "home", workers=1 + (name == "a"), keys="required", state=state)
        read = loader(lambda: load(where / "weir.yaml", os.environ))
        return running(read(), read, command=WORKER, compile=compile)

    def store(name: str) -> KeyStore:
        return KeyStore(tmp_path / name / "home")

    with servers.running(program, tmp_path / "redis") as redis:
        async with AsyncExitStack() as stack:
            a: Running = await stack.enter_async_context(host("a", redis.url))
            async with host("b", redis.url) as b:
                secret, record = store("a").create()
                other, record_b = store("b").create()
                await until(lambda: all(len(h.supervisor.upkeep.keys) == 2 for h in (a, b)))
                clients = [Client(h.address, key) for h in (a, b) for key in (secret, other) for _ in range(3)]
                await until(lambda: _in_force(clients))
                await admitted(clients)
                store("a").revoke(record.id)
                gone = [client for client in clients if client.key == secret]
                assert await refused_after(gone) < REVOKED_S
                await admitted([client for client in clients if client.key == other])
                assert "weir_keys_shared 1.0" in (await b.ops("/metrics"))[1]
                await until(lambda: store("b").list() == store("a").list() or len(store("b").list()) == 2)
                end(clients)
            store("a").revoke(record_b.id)  # while b is down
            await until(lambda: len(a.supervisor.upkeep.keys) == 0)
            b = await stack.enter_async_context(host("b", redis.url))
            await until(lambda: b.supervisor.upkeep.keys == ())
            assert sum(key.revoked is not None for key in store("b").list()) >= 1


async def _in_force(clients: Sequence[Client]) -> bool:
    """Keys reach workers a moment after their supervisor."""
    return all([await client.chat() == 200 for client in clients])


class Issuer:
    """An OpenID provider: names the keys that it is told to."""

    def __init__(self) -> None:
        self.named = [jwk("rsa")]
        self.asked = 0
        self.sockets = bind(["127.0.0.1:0"])
        self.url = f"http://{name_of(self.sockets[0])}/realm"

    def application(self) -> web.Application:
        async def discovery(_: web.Request) -> web.Response:
            return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

        async def keys(_: web.Request) -> web.Response:
            self.asked += 1
            return web.json_response({"keys": self.named})

        application = web.Application()
        application.router.add_get("/realm/.well-known/openid-configuration", discovery)
        application.router.add_get("/realm/keys", keys)
        return application


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    found = Issuer()
    site = Site(found.application(), found.sockets)
    await site.start()
    yield found
    await site.close()


async def test_tokens_of_an_issuer(serve: Serve, home: Path, tmp_path: Path, issuer: Issuer) -> None:
    """Its tokens open the proxy as their team, new keys are found when they are met, costs have their accounts, and
    roles count on the admin listener."""
    teams = {
        "version": 1,
        "teams": {"search": {"cost_centre": "4711", "gl_account": "6510"}},
        "issuers": {
            "corp": {
                "url": issuer.url,
                "audience": "weir",
                "algorithms": ["RS256", "ES256"],
                "claims": {"team": "team", "role": "groups"},
                "roles": {"ops": "operator"},
            }
        },
    }
    (tmp_path / "teams.yaml").write_text(json.dumps(teams))
    async with serve(workers=2, teams=str(tmp_path / "teams.yaml")) as here:

        def client(kind: str = "rsa", **claims: Any) -> Client:
            return Client(here.address, token(kind, iss=issuer.url, **{"team": "search", **claims}).decode())

        ann = client()
        await admitted([ann])
        assert [await client(**wrong).chat() for wrong in ({"team": "x"}, {"aud": "them"})] == [403, 401]
        me = await asyncio.to_thread(_me, ann)
        assert (me["key"], me["team"]) == ("corp:ann", "search")
        here.supervisor.upkeep.signing._known["corp"].tried_s = 0.0  # it was fetched long ago
        issuer.named = [jwk("rsa"), jwk("ec")]
        newer = client("ec")
        assert await newer.chat() == 503
        await until(lambda: _in_force([newer, client("ec"), client("ec"), ann]))
        assert issuer.asked == 2
        assert 'weir_jwks_keys{issuer="corp"} 2.0' in (await here.ops("/metrics"))[1]
        admin = str(here.supervisor.status().admin)
        for groups, status in ((["ops"], 200), ([], 403)):
            shown = token(iss=issuer.url, groups=groups).decode()
            assert await asyncio.to_thread(_post, admin, "/admin/bypass", {"on": False}, shown) == status
        assert [(one.who, one.result) for one in AuditLog(home).entries()] == [
            ("corp:ann", "200"),
            ("corp:ann", "403"),
        ]
        cold = here.supervisor.upkeep.cold
        assert cold is not None
        await until(lambda: cold.facts().events > 0 and not cold.facts().behind_bytes)
    from proxy.ledger.opening import engine_of

    with engine_of("sqlite:///ledger.db", home, reading=True).connect() as db:
        rows = db.exec_driver_sql(
            "select distinct team, cost_centre, gl_account from dimensions where team is not null"
        )
        assert [tuple(row) for row in rows] == [("search", "4711", "6510")]


def _me(client: Client) -> Any:
    client.connection.request("GET", "/weir/me", headers={"Authorization": f"Bearer {client.key}"})
    return json.loads(client.connection.getresponse().read())


def _post(address: str, path: str, body: Any, shown: str) -> int:
    one = Client(address, shown)
    one.connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {shown}"})
    answer = one.connection.getresponse()
    answer.read()
    one.close()
    return answer.status
