"""Roles on the admin listener: each route has a least role, a refusal names it, and every act is written down."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.admin import api
from proxy.admin.guard import ROLES_NEEDED, Admitted, needed
from proxy.admin.site import Site
from proxy.audit import AuditLog
from proxy.clients.claims import ROLES
from proxy.clients.keys import KeyStore
from proxy.config.issuers import Issuer
from proxy.supervisor.listeners import bind, name_of
from tests.admin.conftest import TOKEN, Listener, Operated
from tests.issuer import URL, jwk, token

ISSUER = Issuer.model_validate(
    {"url": URL, "audience": "weir", "claims": {"role": "groups"}, "roles": {"ops": "operator", "money": "finance"}}
)


class Here(Listener):
    """The listener, and keys of each role."""

    secrets: dict[str, str]
    audit: AuditLog
    routes: list[tuple[str, str]]

    async def as_(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return await self.ask(method, path, {"Authorization": f"Bearer {self.secrets.get(who, who)}"}, body)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    store, operated, sockets = KeyStore(tmp_path), Operated(), bind(["127.0.0.1:0"])
    secrets = {role: store.create(role=role, id=f"a-{role}")[0] for role in ROLES}
    secrets["plain"] = store.create(id="plain")[0]
    admitted = Admitted(TOKEN, store.list, lambda: {"corp": ISSUER}, lambda: {"corp": [jwk("rsa")]})
    audit = AuditLog(tmp_path)
    application = api.application(operated, admitted, store, audit)
    site = Site(application, sockets)
    await site.start()
    found = Here(name_of(sockets[0]), operated, tmp_path)
    found.secrets, found.audit = {**secrets, "root": TOKEN}, audit
    found.routes = [
        (route.method, route.resource.canonical)
        for route in application.router.routes()
        if route.resource is not None and route.method != "HEAD"
    ]
    yield found
    await site.close()


async def test_every_route_by_every_role(here: Here) -> None:
    """Less than the least role is 403 with its name, and nothing is done; the least and more get in."""
    assert set(ROLES_NEEDED) <= set(here.routes)
    for method, path in here.routes:
        least = needed(method, path)
        for role in ROLES:
            # an unknown method body or id is refused by the route itself, which shows that it was reached
            status, body = await here.as_(role, method, path.replace("{id}", "unknown"), "{")
            if ROLES.index(role) < ROLES.index(least):
                assert (status, body["error"]["code"], body["error"]["param"]) == (403, "role_needed", least), path
            else:
                assert status not in (401, 403), path
    assert needed("GET", "/admin/new") == "viewer"
    assert needed("PUT", "/admin/new") == needed("DELETE", "/admin/keys/{id}") == "operator"


async def test_what_is_no_admin_key(here: Here) -> None:
    """A client's key, a revoked, an expired and an unknown one open nothing here."""
    store = KeyStore(here.home)
    revoked, record = store.create(role="operator")
    store.revoke(record.id)
    expired, _ = store.create(role="operator", expires=time.time() - 1)
    for secret in ("plain", revoked, expired, "wa-unknown", "é"):
        assert (await here.as_(secret, "GET", "/admin/status"))[0] == 401


@pytest.mark.parametrize(
    ("groups", "reading", "acting"), [(["ops"], 200, 202), (["money"], 200, 403), (["x"], 403, 403), (None, 403, 403)]
)
async def test_tokens(here: Here, groups: list[str] | None, reading: int, acting: int) -> None:
    """The role is that of the claim's values; a bearer without one, and a bad token, may nothing."""
    shown = token(groups=groups).decode()
    assert (await here.as_(shown, "GET", "/admin/audit"))[0] == reading
    assert (await here.as_(shown, "POST", "/admin/drain"))[0] == acting
    assert (await here.as_(token(aud="them").decode(), "GET", "/admin/status"))[0] == 401
    assert ("drain" in here.operated.asked) == (acting == 202)


async def test_acts_are_written_down(here: Here) -> None:
    """Who, in which role, from where, what, on what, and how it ended; refusals too; reading isn't; secrets never."""
    made = (await here.as_("operator", "POST", "/admin/keys", {"team": "search", "id": "ci"}))[1]
    turned = (await here.as_("operator", "POST", "/admin/keys/ci/rotate", {"overlap_s": 60}))[1]
    await here.as_("root", "DELETE", f"/admin/keys/{turned['key']}")
    await here.as_("viewer", "POST", "/admin/bypass", {"on": True})
    await here.as_("nobody", "POST", "/admin/reload")
    await here.as_("finance", "GET", "/admin/status")
    told = (await here.as_("finance", "GET", "/admin/audit?last=50"))[1]["entries"]
    assert [(one["who"], one["role"], one["act"], one["subject"], one["result"]) for one in told] == [
        ("a-operator", "operator", "POST /admin/keys", "ci", "201"),
        ("a-operator", "operator", "POST /admin/keys/{id}/rotate", "ci", "201"),
        ("admin.token", "operator", "DELETE /admin/keys/{id}", "ci", "200"),
        ("a-viewer", "viewer", "POST /admin/bypass", "", "403"),
        ("unknown", "", "POST /admin/reload", "", "401"),
    ]
    assert {one["origin"] for one in told} == {"127.0.0.1"}
    assert told[0]["details"] == {"scope": "-/search/-"}
    text = here.audit.path.read_text()
    assert not any(secret in text for secret in (made["key"], turned["key"], *here.secrets.values()))
    assert here.audit.verify().problem == ""


async def test_strangers_can_not_fill_the_disk(here: Here) -> None:
    """Of those whom nobody knows, one refusal a second is written."""
    for _ in range(5):
        assert (await here.as_("nobody", "POST", "/admin/drain"))[0] == 401
    assert len([*here.audit.entries()]) <= 2
