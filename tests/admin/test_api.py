"""The admin listener, over the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from proxy.admin.api import is_loopback_host
from proxy.admin.operated import Reloaded
from proxy.clients.keys import KeyStore, digest
from tests.admin.conftest import TOKEN, Listener

GOOD = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"]
)
async def test_without_the_token_nothing_is_done(admin: Listener, authorization: str | None) -> None:
    """401 in OpenAI's form, and the supervisor isn't asked."""
    headers = {} if authorization is None else {"Authorization": authorization}
    status, body = await admin.ask("POST", "/admin/drain", headers)
    assert status == 401
    assert body["error"]["code"] == "invalid_admin_token"
    assert admin.operated.asked == []


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8788", "127.0.0.1.evil.example", "", "[::2]:1"])
async def test_a_host_that_is_not_loopback_is_refused(admin: Listener, host: str) -> None:
    """DNS rebinding: even with the right token, a page under another name gets 403."""
    status, body = await admin.ask("POST", "/admin/drain", {**GOOD, "Host": host})
    assert (status, body["error"]["code"]) == (403, "host_not_allowed")
    assert admin.operated.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8788", "localhost", "LOCALHOST:1", "[::1]:8788", "[::1]"])
def test_names_of_loopback(host: str) -> None:
    """All ways to write this machine, with and without port."""
    assert is_loopback_host(host)


async def test_status(admin: Listener) -> None:
    """Workers with pid and configuration, uptime, what is in force."""
    status, body = await admin.ask("GET", "/admin/status", GOOD)
    assert status == 200
    assert body["config_hash"] == "h1"
    assert body["workers"][0] == {"index": 0, "pid": 8, "ready": True, "config_hash": "h1", "uptime_s": 1.0}


async def test_a_reload_that_is_refused_names_the_problems(admin: Listener) -> None:
    """422 with every problem; 200 with the new hash where it worked."""
    assert (await admin.ask("POST", "/admin/reload", GOOD))[0] == 200
    admin.operated.outcome = Reloaded(False, "h1", False, ("weir.yaml:3:1: no",))
    status, body = await admin.ask("POST", "/admin/reload", GOOD)
    assert (status, body["problems"]) == (422, ["weir.yaml:3:1: no"])


async def test_bypass_is_switched(admin: Listener) -> None:
    """On and off again; the answer says which."""
    assert await admin.ask("POST", "/admin/bypass", GOOD, {"on": True}) == (200, {"bypass": True})
    assert await admin.ask("POST", "/admin/bypass", GOOD, {"on": False}) == (200, {"bypass": False})


@pytest.mark.parametrize("body", ["", "{", "[]", {"on": "yes"}, {}, {"on": True, "x": 1}])
async def test_a_body_that_is_not_understood_changes_nothing(admin: Listener, body: Any) -> None:
    """400, never a guess."""
    status, answer = await admin.ask("POST", "/admin/bypass", GOOD, body)
    assert (status, answer["error"]["code"]) == (400, "invalid_body")
    assert not admin.operated.bypassed


async def test_exchanges_are_explained(admin: Listener) -> None:
    """Without regard to the tenant: this is the operator. 404 for what isn't in the journal."""
    assert await admin.ask("GET", "/admin/exchanges/known", GOOD) == (200, {"exchange": "known"})
    assert admin.operated.asked == [("known", None)]
    status, body = await admin.ask("GET", "/admin/exchanges/other", GOOD)
    assert (status, body["error"]["code"]) == (404, "exchange_not_found")


async def test_drain_answers_before_it_ends(admin: Listener) -> None:
    """202: it has begun."""
    assert await admin.ask("POST", "/admin/drain", GOOD) == (202, {"draining": True})
    assert admin.operated.asked == ["drain"]


async def test_keys_are_made_listed_and_revoked(admin: Listener) -> None:
    """The key is shown when it is made and never again; its hash never."""
    status, made = await admin.ask("POST", "/admin/keys", GOOD, {"team": "search", "tags": {"a": "b"}})
    assert status == 201
    (stored,) = KeyStore(admin.home).list()
    assert stored.sha256 == digest(made["key"])
    _, listed = await admin.ask("GET", "/admin/keys", GOOD)
    assert [key["id"] for key in listed["keys"]] == [made["id"]]
    assert "sha256" not in listed["keys"][0]
    assert "key" not in listed["keys"][0]
    status, revoked = await admin.ask("DELETE", f"/admin/keys/{made['id']}", GOOD)
    assert status == 200
    assert revoked["revoked"] is not None
    assert (await admin.ask("DELETE", "/admin/keys/none", GOOD))[0] == 404


async def test_a_fault_in_here_is_a_json_error_without_details(admin: Listener) -> None:
    """500 in OpenAI's form; what went wrong goes to the log, not to the client."""

    async def explain(exchange: str, tenant: str | None) -> Mapping[str, Any] | None:
        raise RuntimeError("secret detail")

    admin.operated.explain = explain  # type: ignore[method-assign]
    status, body = await admin.ask("GET", "/admin/exchanges/known", GOOD)
    assert status == 500
    assert "secret" not in str(body)


async def test_one_restart_at_a_time(admin: Listener) -> None:
    """Begun is 202; asked again meanwhile it is 409."""
    assert await admin.ask("POST", "/admin/restart", GOOD) == (202, {"restarting": True})
    status, body = await admin.ask("POST", "/admin/restart", GOOD)
    assert (status, body["error"]["code"]) == (409, "restart_not_possible")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/admin/drain", 405)])
async def test_unknown_paths_are_json_errors(admin: Listener, method: str, path: str, status: int) -> None:
    """Never HTML."""
    found, body = await admin.ask(method, path, GOOD)
    assert found == status
    assert set(body["error"]) == {"message", "type", "param", "code"}


async def test_policies_are_asked(admin: Listener) -> None:
    """What they are asked, with what, and what they refuse."""
    asked = await admin.ask("POST", "/admin/policies/lens/polish", GOOD, {"cloth": "soft"})
    assert asked == (200, {"done": "polish", "cloth": "soft"})
    assert await admin.ask("POST", "/admin/policies/lens/look", GOOD) == (200, {"done": "look"})
    status, answer = await admin.ask("POST", "/admin/policies/none/polish", GOOD, {})
    assert (status, answer["error"]["code"]) == (404, "policy_not_found")
    status, answer = await admin.ask("POST", "/admin/policies/lens/polish", GOOD, ["soft"])
    assert (status, answer["error"]["code"]) == (400, "invalid_body")
    assert (await admin.ask("POST", "/admin/policies/lens/polish", {}, {}))[0] == 401
