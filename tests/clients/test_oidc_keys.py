"""Public keys of issuers: turned with an overlap, kept through outages, never fetched more often than allowed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.clients.oidc_keys import SigningKeys, usable
from proxy.config.issuers import Issuer
from proxy.logs import Log
from tests.issuer import URL, jwk

JWKS = "https://login.example.com/keys"


class World:
    """A clock, an issuer that may be away, and who is told."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.now_s = 1_000_000.0
        self.named: list[Any] = [jwk("rsa")]
        self.away = False
        self.fetched: list[str] = []
        self.told: list[Any] = []
        self.discovery: dict[str, Any] = {"issuer": URL, "jwks_uri": JWKS}
        self.log = io.StringIO()
        self.issuers = {"corp": Issuer.model_validate({"url": URL, "audience": "weir", **settings})}
        self.keys = self.another(home)

    def another(self, home: Path) -> SigningKeys:
        log = Log("json", "debug", stream=self.log)
        return SigningKeys(home, lambda: self.issuers, self.told.append, log, self.fetch, lambda: self.now_s)

    async def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        if self.away:
            raise OSError("away")
        return orjson.dumps(self.discovery if url.endswith("openid-configuration") else {"keys": self.named})

    async def later(self, seconds: float) -> list[str]:
        """Time goes by; the kids that count then."""
        self.now_s += seconds
        await self.keys.refresh()
        return [key["kid"] for key in self.keys.current().get("corp", [])]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_found_by_discovery(world: World) -> None:
    """The well-known document says where; only what is public and signs is kept, and the workers are told once."""
    world.named = [{**jwk("rsa"), "d": "private"}, {**jwk("ec"), "use": "enc"}, {"kty": "oct", "k": "x"}, 5]
    await world.keys.begin()
    assert world.fetched == [URL + "/.well-known/openid-configuration", JWKS]
    assert world.told == [{"corp": [{name: jwk("rsa")[name] for name in ("kty", "kid", "use", "n", "e")}]}]
    await world.later(600)
    assert len(world.told) == 1


@pytest.mark.parametrize("changed", [{"issuer": "https://evil.example"}, {"jwks_uri": "http://evil.example/keys"}])
async def test_another_issuers_document(world: World, changed: dict[str, str]) -> None:
    """Whose document names another issuer, or keys that travel unprotected, has no keys."""
    world.discovery |= changed
    await world.keys.begin()
    assert world.keys.current() == {}
    assert [fact.failures for fact in world.keys.facts()] == [1]


async def test_turned_with_an_overlap(world: World) -> None:
    """A new key counts at once, one that is gone for the overlap more."""
    await world.keys.begin()
    world.named = [jwk("rsa"), jwk("ec")]
    assert await world.later(600) == ["rsa", "ec"]
    world.named = [jwk("ec")]
    assert await world.later(240) == ["rsa", "ec"]  # not fetched yet
    assert await world.later(360) == ["ec"]  # last named 600 s ago
    world.issuers = {"corp": world.issuers["corp"].model_copy(update={"overlap_s": 3600.0})}
    world.named = [jwk("ed")]
    assert await world.later(600) == ["ec", "ed"]


async def test_an_outage(world: World, tmp_path: Path) -> None:
    """The last keys count for a day, over a restart too, and metrics say so; then none does; at the end all is well."""
    await world.keys.begin()
    world.away = True
    assert await world.later(23 * 3600) == ["rsa"]
    world.keys = world.another(tmp_path)
    await world.keys.begin()
    assert await world.later(600) == ["rsa"]
    (fact,) = world.keys.facts()
    assert (fact.keys, fact.age_s, fact.failures) == (1, 23 * 3600 + 600, 2)
    assert await world.later(3600) == []
    assert world.told[-1] == {}
    world.away = False
    assert await world.later(16) == ["rsa"]


async def test_unknown_keys_are_looked_for_rarely(world: World) -> None:
    """Whatever clients show, the issuer is asked at most every ten seconds more than usual."""
    world.issuers = {"corp": world.issuers["corp"].model_copy(update={"jwks": JWKS})}
    await world.keys.begin()
    for _ in range(20):
        world.keys.ask("corp")
        world.keys.ask("nobody")
        await world.later(1)
    assert len(world.fetched) == 2
    world.named = [jwk("ec")]
    await world.later(5)
    world.keys.ask("corp")
    assert "ec" in await world.later(0)


def test_weak_keys() -> None:
    """RSA below 2048 bits proves nothing."""
    assert usable(jwk("rsa")) is not None
    assert usable({**jwk("rsa"), "n": jwk("rsa")["n"][:170]}) is None
